"""WebM and Matroska. Layout: RFC 8794 (EBML) and RFC 9559."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

from .reading import exactly, skip, text_of

__all__ = ["is_whole", "texts"]

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_TAGS, _TAG, _SIMPLE_TAG = 0x1254C367, 0x7373, 0x67C8
_NAME, _STRING = 0x45A3, 0x4487


def is_whole(file: BinaryIO, size: int) -> bool:
    """By the length of its one segment; a live recording does not know its own."""
    start = _header(file)
    if start is None or start[1] is None:
        return False
    skip(file, start[1])
    kind, length = _header(file) or (None, None)
    return kind == _SEGMENT and (length is None or file.tell() + length <= size)


def texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """From ``Segment/Tags/Tag/SimpleTag``."""
    segment = False
    while (header := _header(file)) is not None:
        kind, size = header
        if kind == _SEGMENT or (kind == _CLUSTER and size is None):
            # Of unknown size in a live recording: its parts follow, recognised by their ids.
            segment = True
        elif size is None:
            raise EOFError
        elif kind == _TAGS:
            yield from _tags(exactly(file, size))
        else:
            skip(file, size)
    if not segment:
        raise EOFError


def _tags(data: bytes) -> Iterator[tuple[str, str]]:
    for tag, content in _elements(data):
        if tag != _TAG:
            continue
        for kind, inner in _elements(content):
            if kind == _SIMPLE_TAG:
                parts = dict(_elements(inner))
                if _NAME in parts and _STRING in parts:
                    yield text_of(parts[_NAME]).rstrip("\0"), text_of(parts[_STRING]).rstrip("\0")


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    file = io.BytesIO(data)
    while (header := _header(file)) is not None:
        kind, size = header
        if size is None:
            raise EOFError
        yield kind, exactly(file, size)


def _header(file: BinaryIO) -> tuple[int, int | None] | None:
    """An element's id and size (``None``: not known in advance); ``None`` at the end."""
    first = file.read(1)
    if not first:
        return None
    kind, _ = _number(file, first[0], longest=4)
    size, width = _number(file, exactly(file, 1)[0], longest=8)
    size &= (1 << 7 * width) - 1
    return kind, None if size == (1 << 7 * width) - 1 else size


def _number(file: BinaryIO, first: int, longest: int) -> tuple[int, int]:
    """A number with its length marker still in it, and the bytes it took."""
    width = 9 - first.bit_length()
    if width > longest:
        raise EOFError
    return int.from_bytes(bytes([first]) + exactly(file, width - 1), "big"), width
