"""Nodes that write images: saved ones, previews, animations."""

from __future__ import annotations

import json
import random
import string as letters
import uuid
from collections.abc import Mapping
from functools import partial

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import JsonValue

from ...workflow.prompt import Prompt
from ..folders import Folders
from .base import ImageBatch, Node, NodeContext, NodeResult, saved_file
from .schema import NodeSchema, Output, boolean, choice, floating, integer, socket, string

__all__ = [
    "PreviewImage",
    "SaveAnimatedWEBP",
    "SaveImage",
    "SaveImageDataSetToFolder",
    "SaveImageWebsocket",
    "to_picture",
]

_IMAGES_OUTPUT = Output("IMAGE", "images")
_schema = partial(NodeSchema, category="image", output_node=True)

_EXIF_MAKE, _EXIF_MODEL = 0x010F, 0x0110


class SaveImage(Node):
    """Numbered PNG files in the output folder, with the prompt and the workflow inside."""

    schema = _schema(
        name="SaveImage",
        display_name="Save Image",
        description="Writes PNG files into the output folder.",
        inputs=(socket("images", "IMAGE"), string("filename_prefix", "ComfyUI")),
        outputs=(_IMAGES_OUTPUT,),
        embeds_prompt=True,
    )

    def run(self, context: NodeContext, images: ImageBatch, filename_prefix: str) -> NodeResult:
        return _save_png(context, images, filename_prefix, "output", compress_level=4)


class PreviewImage(Node):
    """PNG files in the temp folder."""

    schema = _schema(
        name="PreviewImage",
        display_name="Preview Image",
        description="Writes PNG files into the temp folder.",
        inputs=(socket("images", "IMAGE"),),
        outputs=(_IMAGES_OUTPUT,),
        embeds_prompt=True,
    )

    def __init__(self) -> None:
        suffix = "".join(random.choice(letters.ascii_lowercase) for _ in range(5))
        self._prefix = f"ComfyUI_temp_{suffix}"

    def run(self, context: NodeContext, images: ImageBatch) -> NodeResult:
        return _save_png(context, images, self._prefix, "temp", compress_level=1)


class SaveAnimatedWEBP(Node):
    """All images of the batch as the frames of one WebP file."""

    _METHODS: Mapping[str, int] = {"default": 4, "fastest": 0, "slowest": 6}

    schema = _schema(
        name="SaveAnimatedWEBP",
        display_name="Save Animated WEBP",
        inputs=(
            socket("images", "IMAGE"),
            string("filename_prefix", "ComfyUI", multiline=False),
            floating("fps", 6.0, 0.01, 1000.0, 0.01),
            boolean("lossless", True),
            integer("quality", 80, 0, 100),
            choice("method", tuple(_METHODS)),
        ),
        outputs=(_IMAGES_OUTPUT,),
        embeds_prompt=True,
        style="v3",
        module="comfy_extras.nodes_images",
    )

    def run(
        self,
        context: NodeContext,
        images: ImageBatch,
        filename_prefix: str,
        fps: float,
        lossless: bool,
        quality: int,
        method: str,
    ) -> NodeResult:
        height, width = images.shape[1:3]
        folder = context.folders.root / "output"
        place = context.folders.save_location(folder, filename_prefix, width, height)
        first, *others = (to_picture(image) for image in images)
        filename = f"{place.name}_{place.counter:05}_.webp"
        first.save(
            place.directory / filename,
            save_all=True,
            duration=int(1000.0 / fps),
            append_images=others,
            exif=_exif(first, context.prompt, context.extra_pnginfo),
            lossless=lossless,
            quality=quality,
            method=self._METHODS[method],
        )
        ui: dict[str, JsonValue] = {"images": [saved_file(filename, place.subfolder, "output")]}
        if others:
            ui["animated"] = [True]
        return NodeResult([images], ui)


class SaveImageWebsocket(Node):
    """Whole pictures on the socket, and nothing on disk."""

    schema = _schema(
        name="SaveImageWebsocket",
        display_name="Save Image (Websocket)",
        inputs=(socket("images", "IMAGE"),),
        outputs=(),
        module="custom_nodes.websocket_image_save",
    )

    @classmethod
    def fingerprint(cls, folders: Folders, inputs: Mapping[str, JsonValue]) -> str:  # noqa: ARG003
        """Different each time, so that it always runs again: nothing of it is stored."""
        return uuid.uuid4().hex

    def run(self, context: NodeContext, images: ImageBatch) -> NodeResult:
        for number, image in enumerate(images):
            context.progress(number, len(images), to_picture(image), whole=True)
        return NodeResult([])


class SaveImageDataSetToFolder(Node):
    """PNG files in a folder below the output folder, which it does not list."""

    schema = _schema(
        name="SaveImageDataSetToFolder",
        display_name="Save Image (to Folder) (DEPRECATED)",
        inputs=(
            socket("images", "IMAGE"),
            string("folder_name", "dataset", multiline=False),
            string("filename_prefix", "image", advanced=True, multiline=False),
            choice("mode", ("overwrite", "increment"), default="overwrite"),
        ),
        outputs=(),
        embeds_prompt=True,
        style="v3",
        module="comfy_extras.nodes_dataset",
        input_is_list=True,
        deprecated=True,
    )

    def run(
        self,
        context: NodeContext,
        images: list[ImageBatch],
        folder_name: list[str],
        filename_prefix: list[str],
        mode: list[str],
    ) -> NodeResult:
        folder = context.folders.root / "output"
        height, width = images[0].shape[1:3]
        place = context.folders.save_location(
            folder, f"{folder_name[0]}/{filename_prefix[0]}", width, height
        )
        first = place.counter if mode[0] == "increment" else 0
        pictures = [image for batch in images for image in batch]
        for number, image in enumerate(pictures, first):
            filename = f"{place.name}_{number:05}.png"
            to_picture(image).save(place.directory / filename)
        return NodeResult([])


def to_picture(image: ImageBatch) -> Image.Image:
    """One image ``[height, width, channels]`` in 8 bits a channel, truncated like ComfyUI's."""
    return Image.fromarray(np.clip(255.0 * image, 0, 255).astype(np.uint8))


def _save_png(
    context: NodeContext, images: ImageBatch, prefix: str, folder_type: str, compress_level: int
) -> NodeResult:
    height, width = images.shape[1:3]
    folder = context.folders.root / folder_type
    place = context.folders.save_location(folder, prefix, width, height)
    saved: list[JsonValue] = []
    for number, image in enumerate(images):
        name = place.name.replace("%batch_num%", str(number))
        filename = f"{name}_{place.counter + number:05}_.png"
        to_picture(image).save(
            place.directory / filename,
            pnginfo=_png_text(context.prompt, context.extra_pnginfo),
            compress_level=compress_level,
        )
        saved.append(saved_file(filename, place.subfolder, folder_type))
    return NodeResult([images], {"images": saved})


def _png_text(prompt: Prompt, extra: Mapping[str, JsonValue]) -> PngInfo:
    text = PngInfo()
    text.add_text("prompt", json.dumps(prompt))
    for key, value in extra.items():
        text.add_text(key, json.dumps(value))
    return text


def _exif(picture: Image.Image, prompt: Prompt, extra: Mapping[str, JsonValue]) -> Image.Exif:
    """The prompt in the camera's model, the rest from the camera's make downwards."""
    exif = picture.getexif()
    exif[_EXIF_MODEL] = f"prompt:{json.dumps(prompt)}"
    for offset, (key, value) in enumerate(extra.items()):
        exif[_EXIF_MAKE - offset] = f"{key}:{json.dumps(value)}"
    return exif
