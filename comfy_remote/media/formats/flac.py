"""FLAC. Layout: RFC 9639."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO

from .reading import exactly, skip
from .vorbis import comments

__all__ = ["is_whole", "texts"]

_TAIL = 256 * 1024
_ID3V1_SIZE = 128
_STREAM_INFO, _VORBIS_COMMENT = 0, 4


def is_whole(file: BinaryIO, size: int) -> bool:
    """By its last frame: it must bring the samples to the number announced, and be undamaged."""
    total = block_size = 0
    for kind, length in _blocks(file):
        if kind == _STREAM_INFO:
            info = exactly(file, length)
            block_size = struct.unpack_from(">H", info, 2)[0]
            total = int.from_bytes(info[13:18], "big") & (1 << 36) - 1
    if file.tell() > size:
        return False
    if total == 0:
        return True
    start = max(file.tell(), size - _TAIL)
    file.seek(start)
    tail = file.read()
    if tail[-_ID3V1_SIZE:].startswith(b"TAG"):
        tail = tail[:-_ID3V1_SIZE]
    at = tail.rfind(b"\xff")
    while at >= 0:
        # What looks like a frame may be chance; it is the last one if all of it fits.
        if _frame_end(tail[at : at + 16], block_size) == total and _crc16(tail[at:]) == 0:
            return True
        at = tail.rfind(b"\xff", 0, at)
    return False


def texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """The comments in the metadata blocks."""
    for kind, length in _blocks(file):
        if kind == _VORBIS_COMMENT:
            yield from comments(exactly(file, length))


def _blocks(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Kind and length of the metadata blocks, with the file at the block's content."""
    skip(file, 4)
    last = False
    while not last:
        flags, *length = exactly(file, 4)
        last, size = bool(flags & 0x80), int.from_bytes(bytes(length), "big")
        behind = file.tell() + size
        yield flags & 0x7F, size
        file.seek(behind)


def _frame_end(head: bytes, block_size: int) -> int | None:
    """The number of samples up to the end of the frame that begins so; ``None`` if none does."""
    if len(head) < 6 or head[1] & 0xFE != 0xF8:
        return None
    code, rate = head[2] >> 4, head[2] & 15
    number, at = _coded_number(head, 4)
    extra = {6: 1, 7: 2}.get(code, 0)
    stop = at + extra + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if number is None or code == 0 or stop >= len(head) or _crc8(head[:stop]) != head[stop]:
        return None
    if code == 1:
        samples = 192
    elif code < 6:
        samples = 576 << (code - 2)
    elif extra:
        samples = int.from_bytes(head[at : at + extra], "big") + 1
    else:
        samples = 256 << (code - 8)
    return (number if head[1] & 1 else number * block_size) + samples


def _coded_number(head: bytes, at: int) -> tuple[int | None, int]:
    """A number written as UTF-8 writes characters, up to 36 bits; and where it ends."""
    first = head[at]
    if first < 0x80:
        return first, at + 1
    more = 0
    while first & (0x40 >> more):
        more += 1
    rest = head[at + 1 : at + 1 + more]
    if more == 0 or more > 6 or len(rest) < more or any(b & 0xC0 != 0x80 for b in rest):
        return None, at
    number = first & ((1 << (6 - more)) - 1)
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, at + 1 + more


@lru_cache(maxsize=2)
def _crc_table(polynomial: int, bits: int) -> tuple[int, ...]:
    top, mask = 1 << (bits - 1), (1 << bits) - 1
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = ((value << 1) ^ (polynomial if value & top else 0)) & mask
        table.append(value)
    return tuple(table)


def _crc8(data: bytes) -> int:
    table, value = _crc_table(0x07, 8), 0
    for byte in data:
        value = table[value ^ byte]
    return value


def _crc16(data: bytes) -> int:
    table, value = _crc_table(0x8005, 16), 0
    for byte in data:
        value = (value << 8 & 0xFFFF) ^ table[value >> 8 ^ byte]
    return value
