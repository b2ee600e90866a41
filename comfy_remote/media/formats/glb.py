"""GLB models. Layout: glTF 2.0 specification, chapter 4."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from ...types import mapping
from .reading import Malformed, exactly, json_of, texts_in

__all__ = ["is_whole", "texts"]


def is_whole(file: BinaryIO, size: int) -> bool:
    """By the length at its start."""
    return bool(struct.unpack("<8xI", file.read(12))[0] <= size)


def texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """From ``asset.extras`` of the JSON chunk."""
    _, version, _, size, kind = struct.unpack("<4sIII4s", exactly(file, 20))
    if version != 2 or kind != b"JSON":
        raise Malformed("it is not a glTF 2.0 model")
    model = json_of(exactly(file, size), "its description")
    yield from texts_in(mapping(mapping(model).get("asset")).get("extras"))
