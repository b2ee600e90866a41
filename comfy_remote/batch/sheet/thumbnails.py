"""Small pictures of a batch's outputs, each made once, in ``thumbnails/``.

A thumbnail's name has the SHA-256 of what it shows and that picture's size, so a folder's listing
says all there is to know of them: ``9f86d081…-1024x683.webp``.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import LocalStorageError, OutputCorrupt
from ...media.file_changes import discard
from ...media.files import leads_out, storage_errors, written_whole
from ...media.images import decoding_errors
from .reading import Output

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FOLDER", "THREADS", "Thumbnail", "Thumbnails", "key_of"]

FOLDER = "thumbnails"
EDGE = 320
"""Pixels of a thumbnail's longer side."""
PREVIEW_EDGE = 1600
"""… and of the larger one that goes into a sheet with everything inside."""

LARGEST = 89_000_000
"""Pixels of a picture that is decoded: 360 MB. Above it, Pillow warns of a bomb."""
_LARGE = 8_000_000  # above it, one at a time
THREADS = min(4, os.cpu_count() or 1)
_QUALITY = 80
# No others: of those that Pillow knows, some start programs, and none is an output of ComfyUI's.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")
_NAME = re.compile(r"([0-9a-f]{40})-(\d{1,6})x(\d{1,6})(-large)?\.webp")


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture of an output.

    Attributes:
        name: Of its file in ``thumbnails/``.
        width, height: Of the output itself, in pixels, upright.
    """

    name: str
    width: int
    height: int


def key_of(output: Output) -> str:
    """40 hex digits that identify an output's content."""
    if output.sha256 is not None:
        return output.sha256[:40]
    about = f"{output.file}\n{output.size}"  # of an older manifest, or somebody else's
    return hashlib.sha256(about.encode("utf-8", "replace")).hexdigest()[:40]


class Thumbnails:
    """The thumbnails of one batch. Its methods block.

    Args:
        folder: The batch's.
        large: Whether they are the larger kind, `PREVIEW_EDGE`.

    Raises:
        LocalStorageError: They cannot be listed, or a link leads to them.
    """

    def __init__(self, folder: Path, *, large: bool = False) -> None:
        self._folder = folder
        self._large = large
        self._alone = threading.Lock()
        self._known: dict[str, Thumbnail] = {}
        self._refused: dict[str, str] = {}
        if leads_out(self.folder, folder):
            raise LocalStorageError(
                f"{self.folder} is a link that leads out of the batch's folder.",
                advice="Remove the link, and make the sheet again.",
            )
        with storage_errors(self.folder):
            entries = [*self.folder.iterdir()] if self.folder.is_dir() else []
        for name in (entry.name for entry in entries):
            if (matched := _NAME.fullmatch(name)) and bool(matched[4]) is large:
                self._known[matched[1]] = Thumbnail(name, int(matched[2]), int(matched[3]))

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self._folder / FOLDER

    def of(self, output: Output) -> Thumbnail | None:
        """The one of an output, if there is one."""
        return self._known.get(key_of(output))

    def refusal(self, output: Output) -> str | None:
        """Why there is none, as a sentence; ``None`` if it was not tried."""
        return self._refused.get(key_of(output))

    def make(
        self, outputs: Iterable[Output], progress: Callable[[int, int], None] | None = None
    ) -> int:
        """Make those that are missing, a few at a time.

        Args:
            progress: Called in this thread with how many are made, and of how many.

        Returns:
            How many were made.

        Raises:
            LocalStorageError: They cannot be written.
        """
        wanted = {
            key: one
            for one in outputs
            if one.kind == "image"
            and not one.file.lower().endswith(".svg")  # a browser shows it as it is
            and (key := key_of(one)) not in self._known
        }
        if not wanted:
            return 0
        with storage_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
        made = 0
        with ThreadPoolExecutor(THREADS, thread_name_prefix="thumbnails") as pool:
            running = {pool.submit(self._make, key, one): key for key, one in wanted.items()}
            try:
                for count, done in enumerate(as_completed(running), 1):
                    try:
                        self._known[running[done]] = done.result()
                        made += 1
                    except OutputCorrupt as error:
                        self._refused[running[done]] = error.message
                    if progress is not None:
                        progress(count, len(running))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return made

    def tidy(self, outputs: Iterable[Output]) -> None:
        """Remove those of outputs that are not in the batch any more."""
        wanted = {key_of(one) for one in outputs}
        for key, thumbnail in list(self._known.items()):
            if key not in wanted:
                discard(self.folder / thumbnail.name)
                del self._known[key]

    def _make(self, key: str, output: Output) -> Thumbnail:
        path = self._folder / output.file
        if leads_out(path, self._folder):
            raise OutputCorrupt(f"{output.file}: a link leads out of the batch's folder.")
        small, width, height = _small(path, output.file, self._edge, self._alone)
        name = f"{key}-{width}x{height}{'-large' if self._large else ''}.webp"
        destination = self.folder / name
        with storage_errors(destination), written_whole(destination) as beside:
            small.save(beside, "WEBP", quality=_QUALITY, method=0)
        return Thumbnail(name, width, height)

    @property
    def _edge(self) -> int:
        return PREVIEW_EDGE if self._large else EDGE


def _small(path: Path, name: str, edge: int, alone: threading.Lock) -> tuple[Image, int, int]:
    """A picture made small, and its own width and height; upright.

    Raises:
        OutputCorrupt: It is missing, damaged, or too large.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as opened:
            pixels = opened.width * opened.height
            if pixels > LARGEST:
                raise OutputCorrupt(
                    f"{name} is too large for a thumbnail: {opened.width} x {opened.height} pixels."
                )
            if pixels <= _LARGE:
                return _reduced(opened, edge)
            with alone:
                return _reduced(opened, edge)
    except Image.DecompressionBombError:
        raise OutputCorrupt(f"{name} is too large for a thumbnail.") from None
    except FileNotFoundError:
        raise OutputCorrupt(f"{name} is missing.") from None
    except decoding_errors() as error:
        raise OutputCorrupt(f"{name} cannot be decoded as a picture.") from error


def _reduced(opened: Image, edge: int) -> tuple[Image, int, int]:
    from PIL import ImageOps
    from PIL.ExifTags import Base
    from PIL.Image import Resampling

    width, height = opened.size
    if opened.getexif().get(Base.Orientation, 1) >= 5:  # on its side
        width, height = height, width
    small: Image = opened
    if opened.mode.startswith("I"):  # greys of 16 bits
        small = opened.convert("I").point(lambda value: value * (1 / 255)).convert("L")
    elif opened.mode in ("P", "PA", "1"):
        small = opened.convert("RGBA" if "transparency" in opened.info else "RGB")
    # Decodes a JPEG at a fraction of its size, and averages before it resamples: by this filter,
    # which is as sharp as the bicubic one where a picture gets smaller, in half the time.
    small.thumbnail((edge, edge), Resampling.HAMMING, reducing_gap=1.0)
    small = ImageOps.exif_transpose(small)
    if small.mode not in ("RGB", "RGBA"):
        small = small.convert("RGBA" if "A" in small.mode or "a" in small.mode else "RGB")
    return small, width, height
