"""A sandbox that has one node and one choice more than the sandbox whose page is looked at, and
lacks another node.

Run as a program in place of ``python -m comfy_remote.sandbox``, with the same arguments.
"""

from __future__ import annotations

import dataclasses
import sys
from types import MappingProxyType

from pydantic import JsonValue

from comfy_remote.sandbox import nodes as registry
from comfy_remote.sandbox.folders import Folders
from comfy_remote.sandbox.nodes import image
from comfy_remote.sandbox.nodes.base import ImageBatch, NodeContext, NodeResult
from comfy_remote.sandbox.nodes.schema import NodeSchema, Output, choice
from comfy_remote.sandbox.resize import RESIZE_METHODS

ONLY_THERE = "InvertOnlyThere"
ODD_ONLY_THERE = "AnOddOneOnlyThere"
MODEL_ONLY_THERE = "only-there.safetensors"
NOT_THERE = "ImageBatch"


class InvertOnlyThere(image.ImageInvert):
    """Inverts, under a name that no other engine knows."""

    schema = dataclasses.replace(
        image.ImageInvert.schema, name=ONLY_THERE, display_name="Invert, only there"
    )


class OddSchema(NodeSchema):
    """As packs describe themselves that do so by hand."""

    def to_json(self, folders: Folders) -> dict[str, JsonValue]:
        described = super().to_json(folders)
        for field in ("python_module", "category", "output_name", "description"):
            del described[field]
        return described


class OddOnlyThere(image.ImageInvert):
    """Inverts, and leaves out of its description what ComfyUI's page takes for granted."""

    schema = OddSchema(
        ODD_ONLY_THERE, "Odd", "", image.ImageInvert.schema.inputs, (Output("IMAGE"),)
    )


class ImageScale(image.ImageScale):
    """Takes one method more. What it does with it is its own affair."""

    schema = dataclasses.replace(
        image.ImageScale.schema,
        inputs=tuple(
            choice(entry.name, (*RESIZE_METHODS, MODEL_ONLY_THERE))
            if entry.name == "upscale_method"
            else entry
            for entry in image.ImageScale.schema.inputs
        ),
    )

    def run(
        self,
        context: NodeContext,
        image: ImageBatch,
        upscale_method: str,
        width: int,
        height: int,
        crop: str,
    ) -> NodeResult:
        method = "lanczos" if upscale_method == MODEL_ONLY_THERE else upscale_method
        return super().run(context, image, method, width, height, crop)


if __name__ == "__main__":
    # The engine's other modules take the table when they are imported: so this comes first.
    registry.NODES = MappingProxyType(
        {
            **{name: node for name, node in registry.NODES.items() if name != NOT_THERE},
            ONLY_THERE: InvertOnlyThere,
            ODD_ONLY_THERE: OddOnlyThere,
            "ImageScale": ImageScale,
        }
    )
    from comfy_remote.sandbox.__main__ import main

    sys.exit(main())
