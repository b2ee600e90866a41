"""Vorbis comments, which FLAC and Ogg have. Layout: the Vorbis I specification, chapter 5."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .reading import text_of

__all__ = ["comments"]


def comments(data: bytes) -> Iterator[tuple[str, str]]:
    """Names and texts."""
    at = 4 + int.from_bytes(data[:4], "little")
    (count,) = struct.unpack_from("<I", data, at)
    at += 4
    for _ in range(count):
        (size,) = struct.unpack_from("<I", data, at)
        comment = data[at + 4 : at + 4 + size]
        if len(comment) < size:
            raise EOFError
        at += 4 + size
        name, _, text = text_of(comment).partition("=")
        yield name, text
