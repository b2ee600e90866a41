"""PNG. Layout: PNG specification, 5.3 and 11.3.4.

The chunks are walked here: Pillow does not give private chunks, and must decode the picture to
reach those behind it. ComfyUI's page also reads those after the picture's end.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from ..files import CHUNK_SIZE
from .reading import MAX_TEXT_BYTES, Malformed, exactly, skip, text_of

__all__ = ["is_whole", "texts"]

_HEADER = struct.Struct(">I4s")
_SIGNATURE_BYTES = 8
_CRC_BYTES = 4


def is_whole(file: BinaryIO, _size: int) -> bool:
    """By the chunks' check sums, up to the last chunk."""
    skip(file, _SIGNATURE_BYTES)
    while True:
        length, kind = _HEADER.unpack(file.read(_HEADER.size))
        checksum = zlib.crc32(kind)
        while length:
            block = file.read(min(length, CHUNK_SIZE))
            if not block:
                return False
            checksum = zlib.crc32(block, checksum)
            length -= len(block)
        if int.from_bytes(exactly(file, _CRC_BYTES), "big") != checksum:
            return False
        if kind == b"IEND":
            return True


def texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """From ``tEXt``, ``zTXt``, ``iTXt``, and ComfyUI's own ``comf`` of animated pictures."""
    skip(file, _SIGNATURE_BYTES)
    seen: set[str] = set()
    after_end = False
    while True:
        header = file.read(_HEADER.size)
        if after_end and len(header) < _HEADER.size:
            return
        size, kind = _HEADER.unpack(header)
        after_end = after_end or kind == b"IEND"
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"comf"):
            skip(file, size + _CRC_BYTES)
            continue
        data = file.read(min(size, MAX_TEXT_BYTES)) if after_end else exactly(file, size)
        if len(data) < size:
            return  # not a chunk, but whatever was appended to the picture
        name, _, rest = data.partition(b"\0")
        skip(file, _CRC_BYTES)
        key = name.decode("latin-1").casefold()
        if key in seen:  # the first counts; unpacking the others would be for nothing
            continue
        seen.add(key)
        if key in ("prompt", "workflow", "parameters"):
            yield key, text_of(_plain(kind, rest))


def _plain(kind: bytes, rest: bytes) -> bytes:
    if kind == b"zTXt":
        return _inflate(rest[1:])
    if kind == b"iTXt":
        packed = rest[0] == 1
        _language, _, rest = rest[2:].partition(b"\0")
        _translated, _, text = rest.partition(b"\0")
        return _inflate(text) if packed else text
    return rest


def _inflate(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(data, MAX_TEXT_BYTES)
    except zlib.error as error:
        raise Malformed("a compressed text in it is damaged") from error
    if unpacker.unconsumed_tail:
        raise Malformed(f"a compressed text in it has more than {MAX_TEXT_BYTES} bytes")
    return text
