"""Remote part: stands in the running graph for nodes that are marked to run elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.progress import get_progress_state

from ...calls.values import ValueForm
from ...types import JsonValue
from ...workflow.interface import MOST_PART_VALUES, REMOTE_PART, REMOTE_SHOWN
from ..advice import in_page_words
from ..comfyui_host import ComfyUIHost
from ..part_document import PartDocument
from .comfyui import CATEGORY, NodeWatcher, show_text
from .part_run import PartRun
from .value_objects import ADAPTERS

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ComfyRemotePart", "ComfyRemoteShown"]


class ComfyRemotePart(io.ComfyNode):
    """Runs its part on the part's target. Several parts of a prompt run side by side."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs have different names, as older versions require."""
        return io.Schema(
            node_id=REMOTE_PART,
            display_name="Remote part",
            category=CATEGORY,
            description="Made by Comfy Remote where nodes are marked to run elsewhere.",
            inputs=[
                io.String.Input("part", multiline=True),
                *(
                    io.AnyType.Input(f"value_{number}", optional=True)
                    for number in range(MOST_PART_VALUES)
                ),
            ],
            outputs=[
                *(
                    io.AnyType.Output(f"result_{number}", is_output_list=True)
                    for number in range(MOST_PART_VALUES)
                ),
                io.AnyType.Output("shown"),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.extra_pnginfo],
            is_input_list=True,
            is_output_node=True,
            # The one flag by which every frontend leaves a node out of its menus.
            is_deprecated=True,
        )

    @classmethod
    @in_page_words
    async def execute(cls, part: list[str], **values: list[object]) -> io.NodeOutput:
        """Its values, each as a list; empty lists for outputs that it does not have;
        last, what its nodes show.
        """
        document = PartDocument.parse(part[0])
        page = cls.hidden.extra_pnginfo
        workflow = page.get("workflow") if isinstance(page, dict) else None
        node_id = cls.hidden.unique_id
        run = PartRun(
            ComfyUIHost(),
            document,
            _Watcher(node_id),
            form=ValueForm(tensors="torch", adapters=ADAPTERS),
            workflow=workflow if isinstance(workflow, dict) else None,
        )
        given = [values[f"value_{number}"] for number in range(len(values))]
        result = await run.run(given)
        blocked = ExecutionBlocker(None)
        outputs = [blocked if items is None else items for items in result.values]
        nothing: list[list[object]] = [[] for _ in range(MOST_PART_VALUES - len(outputs))]
        return io.NodeOutput(*outputs, *nothing, result.shown, ui=result.shown.get(node_id))


class ComfyRemoteShown(io.ComfyNode):
    """Shows what an output node within a part showed on the target, under that node's own id."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Its one input is the last output of its part."""
        return io.Schema(
            node_id=REMOTE_SHOWN,
            display_name="Remote part: shown",
            category=CATEGORY,
            description="Made by Comfy Remote where nodes are marked to run elsewhere.",
            inputs=[io.String.Input("node_id"), io.AnyType.Input("shown")],
            outputs=[],
            is_output_node=True,
            is_deprecated=True,
        )

    @classmethod
    def execute(cls, node_id: str, shown: dict[str, dict[str, JsonValue]]) -> io.NodeOutput:
        """What the node shows."""
        return io.NodeOutput(ui=shown.get(node_id))


class _Watcher(NodeWatcher):
    """Shows the progress of the part's own nodes in the page."""

    async def node_progress(
        self, node_id: str, done: float, total: float, picture: Image | None
    ) -> None:
        """Move the bar of a node, and show its work in progress."""
        await self._execution.set_progress(done, total, node_id, preview_image=picture)

    def node_text(self, node_id: str, text: str) -> None:
        """Show a text on a node, as it does itself where it runs."""
        show_text(text, node_id)

    async def node_finished(self, node_id: str) -> None:
        """Fill the node's bar; ComfyUI itself fills that of the Remote part node."""
        if node_id != self._node_id:
            get_progress_state().finish_progress(node_id)
