"""Nodes that make and change images."""

# A node takes what its schema says, whether it needs it or not.

from __future__ import annotations

from functools import partial

import numpy as np

from ..resize import CROP_METHODS, RESIZE_METHODS, resize
from .base import ImageBatch, Node, NodeContext, NodeResult
from .schema import MAX_RESOLUTION, NodeSchema, Output, choice, floating, integer, socket

__all__ = [
    "EmptyImage",
    "ImageBatchNode",
    "ImageBlend",
    "ImageCrop",
    "ImageInvert",
    "ImagePadForOutpaint",
    "ImageScale",
    "ImageScaleBy",
]

_IMAGE = Output("IMAGE")
_schema = partial(NodeSchema, outputs=(_IMAGE,))


class EmptyImage(Node):
    """Images of one colour."""

    schema = _schema(
        name="EmptyImage",
        display_name="Empty Image",
        category="image",
        inputs=(
            integer("width", 512, 1, MAX_RESOLUTION, step=1),
            integer("height", 512, 1, MAX_RESOLUTION, step=1),
            integer("batch_size", 1, 1, 4096),
            integer("color", 0, 0, 0xFFFFFF, step=1, display="color"),
        ),
    )

    def run(
        self, context: NodeContext, width: int, height: int, batch_size: int, color: int
    ) -> NodeResult:
        rgb = np.array([color >> 16 & 0xFF, color >> 8 & 0xFF, color & 0xFF]) / 0xFF
        return NodeResult([np.full((batch_size, height, width, 3), rgb, np.float32)])


class ImageScale(Node):
    """Resize to a width and a height; 0 for one of them keeps the aspect ratio."""

    schema = _schema(
        name="ImageScale",
        display_name="Upscale Image",
        category="image/upscaling",
        inputs=(
            socket("image", "IMAGE"),
            choice("upscale_method", RESIZE_METHODS),
            integer("width", 512, 0, MAX_RESOLUTION, step=1),
            integer("height", 512, 0, MAX_RESOLUTION, step=1),
            choice("crop", CROP_METHODS),
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
        old_height, old_width = image.shape[1:3]
        if width == 0 and height == 0:
            return NodeResult([image])
        width = width or max(1, round(old_width * height / old_height))
        height = height or max(1, round(old_height * width / old_width))
        return NodeResult([resize(image, width, height, upscale_method, crop)])


class ImageScaleBy(Node):
    """Resize by a factor."""

    schema = _schema(
        name="ImageScaleBy",
        display_name="Upscale Image By",
        category="image/upscaling",
        inputs=(
            socket("image", "IMAGE"),
            choice("upscale_method", RESIZE_METHODS),
            floating("scale_by", 1.0, 0.01, 8.0, 0.01),
        ),
    )

    def run(
        self, context: NodeContext, image: ImageBatch, upscale_method: str, scale_by: float
    ) -> NodeResult:
        height, width = (round(side * scale_by) for side in image.shape[1:3])
        return NodeResult([resize(image, width, height, upscale_method)])


class ImageInvert(Node):
    """The negative."""

    schema = _schema(
        name="ImageInvert",
        display_name="Invert Image Colors",
        category="image/color",
        inputs=(socket("image", "IMAGE"),),
    )

    def run(self, context: NodeContext, image: ImageBatch) -> NodeResult:
        return NodeResult([np.float32(1.0) - image])


class ImageBatchNode(Node):
    """Two batches as one; the second is resized to the first."""

    schema = _schema(
        name="ImageBatch",
        display_name="Batch Images (DEPRECATED)",
        category="image/batch",
        inputs=(socket("image1", "IMAGE"), socket("image2", "IMAGE")),
    )

    def run(self, context: NodeContext, image1: ImageBatch, image2: ImageBatch) -> NodeResult:
        return NodeResult([np.concatenate([image1, _fit(image2, image1, "bilinear")])])


class ImageCrop(Node):
    """A rectangle of the image, as far as it lies within."""

    schema = _schema(
        name="ImageCrop",
        display_name="Crop Image (DEPRECATED)",
        category="image/transform",
        inputs=(
            socket("image", "IMAGE"),
            integer("width", 512, 1, MAX_RESOLUTION, step=1),
            integer("height", 512, 1, MAX_RESOLUTION, step=1),
            integer("x", 0, 0, MAX_RESOLUTION, step=1),
            integer("y", 0, 0, MAX_RESOLUTION, step=1),
        ),
        style="v3",
        module="comfy_extras.nodes_images",
    )

    def run(
        self, context: NodeContext, image: ImageBatch, width: int, height: int, x: int, y: int
    ) -> NodeResult:
        x, y = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
        return NodeResult([image[:, y : y + height, x : x + width]])


BLEND_MODES = ("normal", "multiply", "screen", "overlay", "soft_light", "difference")


class ImageBlend(Node):
    """Two images blended; the second is resized to the first."""

    schema = _schema(
        name="ImageBlend",
        display_name="Blend Images",
        category="image/filters",
        inputs=(
            socket("image1", "IMAGE"),
            socket("image2", "IMAGE"),
            floating("blend_factor", 0.5, 0.0, 1.0, 0.01),
            choice("blend_mode", BLEND_MODES),
        ),
        style="v3",
        module="comfy_extras.nodes_post_processing",
    )

    def run(
        self,
        context: NodeContext,
        image1: ImageBatch,
        image2: ImageBatch,
        blend_factor: float,
        blend_mode: str,
    ) -> NodeResult:
        if image1.shape != image2.shape:
            image2 = _fit(image2, image1, "bicubic")
        mixed = _blend(image1, image2, blend_mode)
        result = image1 * np.float32(1 - blend_factor) + mixed * np.float32(blend_factor)
        return NodeResult([np.clip(result, np.float32(0), np.float32(1))])


class ImagePadForOutpaint(Node):
    """The image with grey borders, and a mask of what is to be painted."""

    schema = _schema(
        name="ImagePadForOutpaint",
        display_name="Pad Image for Outpainting",
        category="image/transform",
        inputs=(
            socket("image", "IMAGE"),
            *(integer(side, 0, 0, MAX_RESOLUTION, step=8) for side in ("left", "top")),
            *(integer(side, 0, 0, MAX_RESOLUTION, step=8) for side in ("right", "bottom")),
            integer("feathering", 40, 0, MAX_RESOLUTION, step=1, advanced=True),
        ),
        outputs=(_IMAGE, Output("MASK")),
    )

    def run(
        self,
        context: NodeContext,
        image: ImageBatch,
        left: int,
        top: int,
        right: int,
        bottom: int,
        feathering: int,
    ) -> NodeResult:
        batch, height, width, channels = image.shape
        size = (height + top + bottom, width + left + right)
        inner = (slice(top, top + height), slice(left, left + width))
        padded = np.full((batch, *size, channels), 0.5, np.float32)
        padded[:, inner[0], inner[1]] = image
        mask = np.ones(size, np.float32)
        mask[inner] = 0.0
        if 0 < 2 * feathering < min(height, width):
            rows, columns = np.arange(height), np.arange(width)
            # The distance to the nearest side that is padded.
            from_top = rows if top else np.full(height, height)
            from_bottom = height - rows if bottom else np.full(height, height)
            from_left = columns if left else np.full(width, width)
            from_right = width - columns if right else np.full(width, width)
            vertical = np.minimum(from_top, from_bottom)[:, None]
            horizontal = np.minimum(from_left, from_right)[None, :]
            distance = np.minimum(vertical, horizontal)
            strength = np.maximum(feathering - distance, 0) / feathering
            mask[inner] = strength * strength
        return NodeResult([padded, mask[None]])


def _fit(image: ImageBatch, to: ImageBatch, method: str) -> ImageBatch:
    """``image`` with the size of ``to``."""
    if image.shape[1:3] == to.shape[1:3]:
        return image
    return resize(image, to.shape[2], to.shape[1], method, "center")


def _blend(a: ImageBatch, b: ImageBatch, mode: str) -> ImageBatch:
    one, two, half = np.float32(1), np.float32(2), np.float32(0.5)
    mixed: ImageBatch
    match mode:
        case "normal":
            mixed = b
        case "multiply":
            mixed = a * b
        case "screen":
            mixed = one - (one - a) * (one - b)
        case "overlay":
            mixed = np.where(a <= half, two * a * b, one - two * (one - a) * (one - b))
        case "soft_light":
            darker = a - (one - two * b) * a * (one - a)
            lighter = a + (two * b - one) * (_soft_light_curve(a) - a)
            mixed = np.where(b <= half, darker, lighter)
        case "difference":
            mixed = a - b
        case _:
            raise ValueError(f"Unsupported blend mode: {mode}")
    return mixed


def _soft_light_curve(x: ImageBatch) -> ImageBatch:
    polynomial = ((np.float32(16) * x - np.float32(12)) * x + np.float32(4)) * x
    curve: ImageBatch = np.where(x <= np.float32(0.25), polynomial, np.sqrt(x))
    return curve
