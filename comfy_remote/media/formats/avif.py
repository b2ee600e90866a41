"""AVIF: the item of type ``Exif``. Layout: ISO/IEC 14496-12, 8.11 (``iinf``, ``iloc``)."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from . import exif
from .mp4 import boxes
from .reading import exactly

__all__ = ["texts"]


def texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """From its EXIF data."""
    file.seek(0, os.SEEK_END)
    for kind, start, end in boxes(file, 0, file.tell()):
        if kind == b"meta":
            file.seek(start)
            place = _exif_place(exactly(file, end - start))
            if place is not None:
                offset, size = place
                file.seek(offset)
                data = exactly(file, size)
                (skipped,) = struct.unpack_from(">I", data)  # to the header of the TIFF in it
                yield from exif.texts(data[4 + skipped :])
            return
    raise EOFError


def _exif_place(meta: bytes) -> tuple[int, int] | None:
    """Where the item is in the file, and its length."""
    wanted: int | None = None
    locations = b""
    source = io.BytesIO(meta)
    for kind, start, end in boxes(source, 4, len(meta)):  # after version and flags
        if kind == b"iinf":
            wanted = _exif_item(meta[start:end])
        elif kind == b"iloc":
            locations = meta[start:end]
    return None if wanted is None else _location(locations, wanted)


def _exif_item(iinf: bytes) -> int | None:
    version = iinf[0]
    first = 6 if version == 0 else 8
    for kind, start, _end in boxes(io.BytesIO(iinf), first, len(iinf)):
        if kind == b"infe" and iinf[start] in (2, 3):
            form = ">HH4s" if iinf[start] == 2 else ">IH4s"
            item, _protection, item_type = struct.unpack_from(form, iinf, start + 4)
            if item_type == b"Exif":
                return int(item)
    return None


def _location(iloc: bytes, wanted: int) -> tuple[int, int] | None:
    """Of an item that lies in the file itself, in one piece."""
    version = iloc[0]
    offset_size, length_size = iloc[4] >> 4, iloc[4] & 15
    base_size, index_size = iloc[5] >> 4, iloc[5] & 15 if version in (1, 2) else 0
    place = 6

    def number(size: int) -> int:
        nonlocal place
        if place + size > len(iloc):
            raise EOFError
        place += size
        return int.from_bytes(iloc[place - size : place], "big")

    for _ in range(number(4 if version == 2 else 2)):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version in (1, 2) else 0
        number(2)  # which file: this one
        base = number(base_size)
        extents = []
        for _ in range(number(2)):
            number(index_size)
            extents.append((base + number(offset_size), number(length_size)))
        if item == wanted:
            return extents[0] if method == 0 and len(extents) == 1 else None
    return None
