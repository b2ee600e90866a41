"""JPEG. Layout: ITU-T T.81, B.1 (markers and segments)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from . import exif
from .reading import ends_with, exactly, skip, text_of

__all__ = ["is_whole", "texts"]

_STANDALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_END_OF_HEADERS = {0xD9, 0xDA}
_APP1, _COMMENT = 0xE1, 0xFE


def is_whole(file: BinaryIO, size: int) -> bool:
    """By its end mark, behind which some cameras and tools write a little more."""
    return ends_with(file, size, b"\xff\xd9")


def texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """The EXIF fields, and a comment segment."""
    skip(file, 2)
    while True:
        mark, kind = exactly(file, 2)
        if mark != 0xFF or kind in _END_OF_HEADERS:
            return
        if kind == 0xFF:
            skip(file, -1)
            continue
        if kind in _STANDALONE:
            continue
        size = int.from_bytes(exactly(file, 2), "big") - 2
        if size < 0:
            raise EOFError
        if kind not in (_APP1, _COMMENT):
            skip(file, size)
            continue
        data = exactly(file, size)
        if kind == _COMMENT:
            yield "comment", text_of(data)
        elif data.startswith(b"Exif\0\0"):
            yield from exif.texts(data)
