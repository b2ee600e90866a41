"""Pictures and other files that a page or a script sends, saved into ComfyUI's output folder.

What a file is, its content decides: its name gets the ending that fits. So nobody saves a page or
a program here.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..errors import ConfigurationError, OutputCorrupt, RequestTooLarge
from ..media.files import place, private_folder, safe_relative_path, sha256_of, storage_errors
from ..media.formats import SIGNATURE_BYTES, format_of
from ..media.images import open_image
from ..media.verify import check_whole

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "FOLDER",
    "MAX_IMAGES",
    "MAX_IMAGE_BYTES",
    "FileToSave",
    "ImageToSave",
    "SaveRequest",
    "save_images",
]

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
_PICTURES = "Send a PNG, JPEG, WebP, GIF or AVIF picture."
# By the format's own word: see `media.formats`.
_FILE_SUFFIXES = {
    "MP4 video": (".mp4", ".m4v", ".m4a", ".mov"),
    "QuickTime video": (".mov",),
    "WebM or Matroska video": (".webm", ".mkv"),
    "WAV audio": (".wav",),
    "FLAC audio": (".flac",),
    "MP3 audio": (".mp3",),
    "Ogg audio": (".ogg", ".oga", ".opus"),
    "GLB model": (".glb",),
}
_TEXT_SUFFIXES = (".txt", ".md", ".json", ".csv", ".srt", ".vtt")
_FILES = (
    "Send a picture (PNG, JPEG, WebP, GIF, AVIF), a film (MP4, MOV, WebM, MKV), a sound (WAV, "
    "FLAC, MP3, OGG), a GLB model, or a text (UTF-8)."
)


class ImageToSave(BaseModel):
    """One picture: base64, with or without ``data:image/png;base64,`` in front."""

    model_config = ConfigDict(extra="ignore")

    b64: str
    name: Annotated[str, Field(max_length=1024)] | None = None


class FileToSave(BaseModel):
    """A file of any kind that is saved here: its bytes as base64, or a text as it is."""

    model_config = ConfigDict(extra="ignore")

    b64: str | None = None
    text: str | None = None
    name: Annotated[str, Field(max_length=1024)] | None = None

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if (self.b64 is None) == (self.text is None):
            raise ValueError("give either b64 or text")
        return self


class SaveRequest(BaseModel):
    """The body of ``POST /remote/save``."""

    model_config = ConfigDict(extra="ignore")

    images: Annotated[list[ImageToSave], Field(max_length=MAX_IMAGES)] = []
    files: Annotated[list[FileToSave], Field(max_length=MAX_IMAGES)] = []

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set & {"images", "files"}:
            raise ValueError("give images, files, or both")
        return self


@dataclass(frozen=True, slots=True)
class _Checked:
    path: Path
    name: str


def save_images(
    images: Sequence[ImageToSave], output: Path, files: Sequence[FileToSave] = ()
) -> list[str]:
    """Check all of them, then save all of them. Blocking.

    Of a name, only the last part counts; it gets the ending that fits the picture, and never
    replaces another file: see `media.files.place`. Files have mode 0600.

    Args:
        images: PNG, JPEG, WebP, GIF or AVIF.
        files: Likewise, or films, sounds, models and texts.
        output: ComfyUI's output folder; they go below it, into ``remote_results``.

    Returns:
        Their paths below ``output``, ``/`` between parts, in the order given, the images first.

    Raises:
        ConfigurationError: One is not base64, or of a type that is not saved. Nothing was saved.
        RequestTooLarge: One has more than 64 MiB. Nothing was saved.
        LocalStorageError: They could not be written.
    """
    if not images and not files:
        return []
    folder = output / FOLDER
    stamp = time.strftime("%Y%m%d-%H%M%S")
    with private_folder(folder) as beside:
        checked = [
            _check(image, number, f"remote_{stamp}_{number:02}", beside / str(number))
            for number, image in enumerate(images, 1)
        ]
        checked += [
            _check_file(file, number, f"remote_{stamp}_{number:02}", beside / f"file{number}")
            for number, file in enumerate(files, 1)
        ]
        saved = [place(one.path, folder / one.name, sha256_of(one.path)) for one in checked]
    return [path.relative_to(output).as_posix() for path in saved]


def _check(image: ImageToSave, number: int, default: str, path: Path) -> _Checked:
    """Write a picture into the private folder, and check that it is one."""
    what = f"Image {number}"
    _write(path, _decoded(image.b64, what))
    suffixes = _picture_suffixes(path, what, _PICTURES)
    return _named(path, image.name or default, suffixes)


def _check_file(file: FileToSave, number: int, default: str, path: Path) -> _Checked:
    """Write a file into the private folder, and check that it is whole and of a type we save."""
    what = f"File {number}"
    data = _decoded(file.b64, what) if file.b64 is not None else (file.text or "").encode()
    _check_size(len(data), what)
    _write(path, data)
    name = file.name or default
    found = format_of(data[:SIGNATURE_BYTES])
    if found is None and _is_text(data):
        return _named(path, name, _TEXT_SUFFIXES)
    suffixes = _FILE_SUFFIXES.get(found.kind if found is not None else "")
    if suffixes is None:
        return _named(path, name, _picture_suffixes(path, what, _FILES))
    try:
        check_whole(path, f"{what}{suffixes[0]}")
    except OutputCorrupt as error:
        raise ConfigurationError(f"{what} is cut off or damaged.", advice=_FILES) from error
    return _named(path, name, suffixes)


def _picture_suffixes(path: Path, what: str, advice: str) -> tuple[str, ...]:
    try:
        with open_image(path, what) as picture:
            suffixes = _SUFFIXES.get(picture.format or "")
        check_whole(path, what)  # Pillow passes a file that lacks its last bytes
    except OutputCorrupt as error:
        raise ConfigurationError(error.message, advice=advice) from error
    if suffixes is None:
        raise ConfigurationError(f"{what} is in a format that is not saved here.", advice=advice)
    return suffixes


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def _write(path: Path, data: bytes) -> None:
    with storage_errors(path):
        path.write_bytes(data)


def _named(path: Path, wanted: str, suffixes: tuple[str, ...]) -> _Checked:
    # Of a name that comes from elsewhere, the ending decides what opens it.
    name = safe_relative_path(wanted).name
    if not name.lower().endswith(suffixes):
        name += suffixes[0]
    return _Checked(path, name)


def _check_size(size: int, what: str) -> None:
    if size > MAX_IMAGE_BYTES:
        raise RequestTooLarge(
            f"{what} is {size / 2**20:.0f} MiB; at most {MAX_IMAGE_BYTES / 2**20:.0f} MiB are "
            "saved.",
            advice="Send it in smaller pieces, or in a format that compresses better.",
        )


def _decoded(text: str, what: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    _check_size(len(text) * 3 // 4, what)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigurationError(
            f"{what} is not base64.", advice="Send the file's bytes, base64, as b64."
        ) from error
