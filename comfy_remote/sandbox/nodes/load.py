"""Nodes that load an image from the input folder.

Read with Pillow, like ComfyUI up to 0.3.64. Later releases read with FFmpeg, which gives the
same pixels for PNG files in colour with 8 bits a channel, and others by a level or two for
grey or 16-bit PNG, JPEG, BMP and WebP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from pydantic import JsonValue

from ...media.files import sha256_of
from ...media.images import check_decoded_size, pixels_of, upright_frames
from ...outputs import kind_of
from ..folders import Folders, PathOutsideFolder
from .base import ImageBatch, MaskBatch, Node, NodeContext, NodeResult
from .schema import Input, NodeSchema, Output, choice

__all__ = ["LoadImage", "LoadImageMask"]


def _image_files(folders: Folders) -> Sequence[str]:
    files = (path for path in (folders.root / "input").iterdir() if path.is_file())
    return sorted(path.name for path in files if kind_of(path.name) == "image")


_IMAGE_INPUT = Input("image", "COMBO", {"image_upload": True}, choices=_image_files)


class _LoadsImage(Node):
    own_checks = frozenset({"image"})

    @classmethod
    def check(cls, folders: Folders, inputs: Mapping[str, JsonValue]) -> str | None:
        name = inputs.get("image")
        try:
            found = isinstance(name, str) and folders.input_path(name).exists()
        except PathOutsideFolder:
            found = False
        return None if found else f"Invalid image file: {name}"

    @classmethod
    def fingerprint(cls, folders: Folders, inputs: Mapping[str, JsonValue]) -> str:
        return sha256_of(folders.input_path(str(inputs["image"])))


class LoadImage(_LoadsImage):
    """An image file as IMAGE, and its transparency as MASK (1 where it is transparent)."""

    schema = NodeSchema(
        name="LoadImage",
        display_name="Load Image",
        category="image",
        inputs=(_IMAGE_INPUT,),
        outputs=(Output("IMAGE"), Output("MASK")),
    )

    def run(self, context: NodeContext, image: str) -> NodeResult:
        return NodeResult(_load(context.folders, image))


class LoadImageMask(_LoadsImage):
    """One channel of an image file as MASK."""

    schema = NodeSchema(
        name="LoadImageMask",
        display_name="Load Image (as Mask)",
        category="image",
        inputs=(_IMAGE_INPUT, choice("channel", ("alpha", "red", "green", "blue"))),
        outputs=(Output("MASK"),),
    )

    def run(self, context: NodeContext, image: str, channel: str) -> NodeResult:
        pixels, transparency = _load(context.folders, image)
        if channel == "alpha":
            return NodeResult([transparency])
        return NodeResult([pixels[..., ("red", "green", "blue").index(channel)]])


def _load(folders: Folders, name: str) -> tuple[ImageBatch, MaskBatch]:
    """All frames of a file that have the first one's size."""
    images: list[ImageBatch] = []
    masks: list[MaskBatch] = []
    with Image.open(folders.input_path(name)) as file:
        check_decoded_size(file, name)
        for frame in upright_frames(file):
            images.append(pixels_of(frame.convert("RGB")))
            masks.append(_transparency(frame))
    return np.stack(images), np.stack(masks)


def _transparency(frame: Image.Image) -> MaskBatch:
    if "A" in frame.getbands():
        alpha = frame.getchannel("A")
    elif frame.mode == "P" and "transparency" in frame.info:
        alpha = frame.convert("RGBA").getchannel("A")
    else:
        return np.zeros((64, 64), np.float32)  # ComfyUI's mask of an opaque image
    transparency: MaskBatch = np.float32(1.0) - pixels_of(alpha)
    return transparency
