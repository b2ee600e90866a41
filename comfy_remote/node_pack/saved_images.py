"""Pictures that a page or a script sends, saved into ComfyUI's output folder."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ..errors import ConfigurationError, OutputCorrupt, RequestTooLarge
from ..media.files import place, private_folder, safe_relative_path, sha256_of, storage_errors
from ..media.images import open_image
from ..media.verify import check_whole

__all__ = ["FOLDER", "MAX_IMAGES", "MAX_IMAGE_BYTES", "ImageToSave", "SaveRequest", "save_images"]

FOLDER = "remote_results"
MAX_IMAGES = 256
"""Pictures in one request."""
MAX_IMAGE_BYTES = 64 * 1024 * 1024
"""Bytes of one picture."""

_SUFFIXES = {
    "AVIF": (".avif",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
}


class ImageToSave(BaseModel):
    """One picture: base64, with or without ``data:image/png;base64,`` in front."""

    model_config = ConfigDict(extra="ignore")

    b64: str
    name: Annotated[str, Field(max_length=1024)] | None = None


class SaveRequest(BaseModel):
    """The body of ``POST /remote/save``."""

    model_config = ConfigDict(extra="ignore")

    images: Annotated[list[ImageToSave], Field(max_length=MAX_IMAGES)]


@dataclass(frozen=True, slots=True)
class _Checked:
    path: Path
    name: str


def save_images(images: Sequence[ImageToSave], output: Path) -> list[str]:
    """Check all of them, then save all of them. Blocking.

    Of a name, only the last part counts; it gets the ending that fits the picture, and never
    replaces another file: see `media.files.place`. Files have mode 0600.

    Args:
        images: PNG, JPEG, WebP, GIF or AVIF.
        output: ComfyUI's output folder; they go below it, into ``remote_results``.

    Returns:
        Their paths below ``output``, ``/`` between parts, in the order given.

    Raises:
        ConfigurationError: One is not base64, or no picture. Nothing was saved.
        RequestTooLarge: One has more than 64 MiB. Nothing was saved.
        LocalStorageError: They could not be written.
    """
    if not images:
        return []
    folder = output / FOLDER
    stamp = time.strftime("%Y%m%d-%H%M%S")
    with private_folder(folder) as beside:
        checked = [
            _check(image, number, f"remote_{stamp}_{number:02}", beside / str(number))
            for number, image in enumerate(images, 1)
        ]
        saved = [place(one.path, folder / one.name, sha256_of(one.path)) for one in checked]
    return [path.relative_to(output).as_posix() for path in saved]


def _check(image: ImageToSave, number: int, default: str, path: Path) -> _Checked:
    """Write a picture into the private folder, and check that it is one."""
    data = _decoded(image.b64, number)
    with storage_errors(path):
        path.write_bytes(data)
    try:
        with open_image(path, f"Image {number}") as picture:
            suffixes = _SUFFIXES.get(picture.format or "")
        check_whole(path, f"Image {number}")  # Pillow passes a file that lacks its last bytes
    except OutputCorrupt as error:
        raise ConfigurationError(
            error.message, advice="Send a PNG, JPEG, WebP, GIF or AVIF picture."
        ) from error
    if suffixes is None:
        raise ConfigurationError(
            f"Image {number} is in a format that is not saved here.",
            advice="Send a PNG, JPEG, WebP, GIF or AVIF picture.",
        )
    # Of a name that comes from elsewhere, the ending decides what opens it.
    name = safe_relative_path(image.name or default).name
    if not name.lower().endswith(suffixes):
        name += suffixes[0]
    return _Checked(path, name)


def _decoded(text: str, number: int) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    if len(text) * 3 // 4 > MAX_IMAGE_BYTES:
        raise RequestTooLarge(
            f"Image {number} is {len(text) * 3 // 4 / 2**20:.0f} MiB; at most "
            f"{MAX_IMAGE_BYTES / 2**20:.0f} MiB are saved.",
            advice="Send it in smaller pieces, or in a format that compresses better.",
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigurationError(
            f"Image {number} is not base64.", advice="Send the file's bytes, base64, as b64."
        ) from error
