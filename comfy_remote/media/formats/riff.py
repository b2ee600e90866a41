"""RIFF: WebP, WAV, AVI. Layout: RFC 9649, 2.3 (WebP container)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from . import exif
from .reading import exactly, skip

__all__ = ["is_whole", "texts"]


def is_whole(file: BinaryIO, size: int) -> bool:
    """By the length at its start; a WAV that was written into a pipe has none."""
    (length,) = struct.unpack("<4xI", file.read(8))
    return length in (0, 0xFFFFFFFF) or bool(length + 8 <= size)


def texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """The fields of a WebP's ``EXIF`` chunk, which stands behind the picture."""
    skip(file, 12)
    while header := file.read(8):
        kind, size = struct.unpack("<4sI", header)
        if kind == b"EXIF":
            yield from exif.texts(exactly(file, size))
            return
        skip(file, size + size % 2)
