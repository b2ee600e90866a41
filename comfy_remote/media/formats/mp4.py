"""MP4, QuickTime and their kin (M4A, AVIF, HEIC), which consist of boxes.

Layout: ISO/IEC 14496-12 (boxes) and Apple's QuickTime File Format (metadata).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from .reading import Malformed, exactly, text_of

__all__ = ["boxes", "is_whole", "texts"]

_MAX_KEYS = 10_000


def is_whole(file: BinaryIO, size: int) -> bool:
    """By its boxes, which fill the file; a few bytes behind the last one are harmless."""
    at, kinds = 0, set()
    while at + 8 <= size:
        kind, head, length = _box(file, at, size)
        if length < head:
            return False
        kinds.add(kind)
        at += length
    # A picture's boxes have `meta` in `moov`'s place.
    return at <= size and b"mdat" in kinds and not kinds.isdisjoint({b"moov", b"meta"})


def texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """From ``moov/udta/meta`` or ``moov/meta``, with ``keys`` and ``ilst``."""
    file.seek(0, os.SEEK_END)
    size = file.tell()
    found = False
    for kind, start, end in boxes(file, 0, size):
        if kind == b"moov":
            found = True
            yield from _in_movie(file, start, end)
    if not found:
        raise EOFError


def _in_movie(file: BinaryIO, start: int, end: int) -> Iterator[tuple[str, str]]:
    for kind, first, last in boxes(file, start, end):
        if kind == b"meta":
            yield from _in_meta(file, first, last)
        elif kind == b"udta":
            for inner, begin, stop in boxes(file, first, last):
                if inner == b"meta":
                    yield from _in_meta(file, begin, stop)


def _in_meta(file: BinaryIO, start: int, end: int) -> Iterator[tuple[str, str]]:
    file.seek(start)
    if exactly(file, 8)[4:] != b"hdlr":  # ISO's has a version and flags, QuickTime's has not
        start += 4
    keys: list[str] = []
    for kind, first, last in boxes(file, start, end):
        if kind == b"keys":
            keys = list(_keys(file, first, last))
        elif kind == b"ilst":
            for item, begin, stop in boxes(file, first, last):
                index = int.from_bytes(item, "big")
                name = keys[index - 1] if 0 < index <= len(keys) else item.decode("latin-1")
                for inner, data, data_end in boxes(file, begin, stop):
                    if inner == b"data":
                        file.seek(data + 8)  # type and locale
                        yield name, text_of(exactly(file, max(0, data_end - data - 8)))


def _keys(file: BinaryIO, start: int, end: int) -> Iterator[str]:
    file.seek(start + 4)
    (count,) = struct.unpack(">I", exactly(file, 4))
    if count > _MAX_KEYS:
        raise Malformed(f"its metadata claims to have {count} names")
    for _kind, first, last in boxes(file, start + 8, end):
        file.seek(first)
        yield text_of(exactly(file, last - first)).removeprefix("com.apple.quicktime.")


def boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, first byte and end of the boxes between two places."""
    while start + 8 <= end:
        kind, head, size = _box(file, start, end)
        if size == 0 or (size < head and kind == b"\0\0\0\0"):
            return  # QuickTime ends a list of user data with four zero bytes
        if size < head or start + size > end:
            if kind != b"mdat":
                raise EOFError
            return
        yield kind, start + head, start + size
        start += size


def _box(file: BinaryIO, start: int, end: int) -> tuple[bytes, int, int]:
    """Type of a box, the size of its header, and its whole size."""
    file.seek(start)
    size, kind = struct.unpack(">I4s", exactly(file, 8))
    if size == 1:
        return kind, 16, int.from_bytes(exactly(file, 8), "big")
    return kind, 8, size or end - start
