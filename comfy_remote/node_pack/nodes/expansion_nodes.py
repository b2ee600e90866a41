"""Two nodes that only expansions use: where pictures enter a workflow, and where they leave it."""

# What ComfyUI calls has the arguments that its schema names.
from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from .expansion import COLLECT, TAKE
from .pixels import as_loaded, as_saved, joined

if TYPE_CHECKING:
    import torch

__all__ = ["CollectImages", "TakeImage"]

_CATEGORY = "RunPod"


class TakeImage(io.ComfyNode):
    """Stands in for a Load Image node, with the same outputs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One picture of a batch."""
        return io.Schema(
            node_id=TAKE,
            display_name="Take Image (RunPod Remote Execute)",
            category=_CATEGORY,
            description="Made by RunPod Remote Execute where a workflow runs here.",
            inputs=[io.Image.Input("images"), io.Int.Input("index", min=0)],
            outputs=[io.Image.Output(), io.Mask.Output()],
            # The one flag by which every frontend leaves a node out of its menus.
            is_deprecated=True,
        )

    @classmethod
    def execute(cls, images: torch.Tensor, index: int) -> io.NodeOutput:
        """The picture as Load Image would give it."""
        return io.NodeOutput(*as_loaded(images[index]))


class CollectImages(io.ComfyNode):
    """Stands beside a Save Image node, and gives what that saves."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Pictures, and those collected so far."""
        return io.Schema(
            node_id=COLLECT,
            display_name="Collect Images (RunPod Remote Execute)",
            category=_CATEGORY,
            description="Made by RunPod Remote Execute where a workflow runs here.",
            inputs=[io.Image.Input("images"), io.Image.Input("before", optional=True)],
            outputs=[io.Image.Output()],
            is_input_list=True,
            is_deprecated=True,
        )

    @classmethod
    def execute(
        cls, images: list[torch.Tensor], before: list[torch.Tensor] | None = None
    ) -> io.NodeOutput:
        """All of them, the earlier ones first, as they would come back from PNG files."""
        batches = [as_saved(batch) for batch in images]
        return io.NodeOutput(joined([*(before or []), *batches]))
