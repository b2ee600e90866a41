"""Nodes that make masks and turn images into masks and back."""

# A node takes what its schema says, whether it needs it or not.

from __future__ import annotations

from functools import partial

import numpy as np

from .base import ImageBatch, MaskBatch, Node, NodeContext, NodeResult
from .schema import MAX_RESOLUTION, NodeSchema, Output, choice, floating, integer, socket

__all__ = ["ImageToMask", "InvertMask", "MaskToImage", "SolidMask"]

_CHANNELS = ("red", "green", "blue", "alpha")
_schema = partial(NodeSchema, category="image/mask", style="v3", module="comfy_extras.nodes_mask")


class SolidMask(Node):
    """A mask of one value."""

    schema = _schema(
        name="SolidMask",
        display_name="Create Solid Mask",
        inputs=(
            floating("value", 1.0, 0.0, 1.0, 0.01),
            integer("width", 512, 1, MAX_RESOLUTION, step=1),
            integer("height", 512, 1, MAX_RESOLUTION, step=1),
        ),
        outputs=(Output("MASK"),),
    )

    def run(self, context: NodeContext, value: float, width: int, height: int) -> NodeResult:
        return NodeResult([np.full((1, height, width), value, np.float32)])


class MaskToImage(Node):
    """A mask as a grey image."""

    schema = _schema(
        name="MaskToImage",
        display_name="Convert Mask to Image",
        inputs=(socket("mask", "MASK"),),
        outputs=(Output("IMAGE"),),
    )

    def run(self, context: NodeContext, mask: MaskBatch) -> NodeResult:
        return NodeResult([np.repeat(mask[..., None], 3, axis=-1)])


class ImageToMask(Node):
    """One channel of an image."""

    schema = _schema(
        name="ImageToMask",
        display_name="Convert Image to Mask",
        inputs=(socket("image", "IMAGE"), choice("channel", _CHANNELS)),
        outputs=(Output("MASK"),),
    )

    def run(self, context: NodeContext, image: ImageBatch, channel: str) -> NodeResult:
        return NodeResult([image[..., _CHANNELS.index(channel)]])


class InvertMask(Node):
    """1 where the mask is 0."""

    schema = _schema(
        name="InvertMask",
        display_name="Invert Mask",
        inputs=(socket("mask", "MASK"),),
        outputs=(Output("MASK"),),
    )

    def run(self, context: NodeContext, mask: MaskBatch) -> NodeResult:
        return NodeResult([np.float32(1.0) - mask])
