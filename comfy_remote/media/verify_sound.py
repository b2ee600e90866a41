"""Whether a sound or a film in a container of chained parts is all there. Nothing is decoded.

Source of facts: RFC 9639 (FLAC), RFC 3533 (Ogg), RFC 8794 and 9559 (Matroska, WebM), and for MP3
the Xing header that LAME and FFmpeg write.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import BinaryIO

__all__ = ["is_mp3", "whole_flac", "whole_matroska", "whole_mp3", "whole_ogg"]

_TAIL = 256 * 1024
_SEGMENT = b"\x18\x53\x80\x67"
_ID3V1_SIZE = 128


def is_mp3(head: bytes) -> bool:
    """Whether a file begins like an MP3: with an ID3 tag, or with a frame of layer III."""
    if head.startswith(b"ID3"):
        return True
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2


def whole_mp3(file: BinaryIO, size: int) -> bool:
    """By the number of bytes in the Xing header; without one there is no telling."""
    head = file.read(10)
    start = 0
    if head.startswith(b"ID3"):
        start = 10 + _seven_bits_each(head[6:10]) + (10 if head[5] & 0x10 else 0)
    file.seek(start)
    frame = file.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0:
        return len(frame) > 63  # of a first frame alone there is more
    flags = struct.unpack_from(">I", frame, at + 4)[0]
    if not flags & 2:
        return True
    length = struct.unpack_from(">I", frame, at + (12 if flags & 1 else 8))[0]
    return bool(start + length <= size)


def whole_ogg(file: BinaryIO, size: int) -> bool:
    """Page after page, as long as they say they are."""
    at = 0
    while at < size:
        file.seek(at)
        header = file.read(27)
        if len(header) < 27 or not header.startswith(b"OggS"):
            return False
        lacing = file.read(header[26])
        if len(lacing) < header[26]:
            return False
        at += 27 + len(lacing) + sum(lacing)
    return at == size


def whole_matroska(file: BinaryIO, size: int) -> bool:
    """By the length of its one segment; a live recording does not know its own."""
    file.seek(4)
    header = _variable_length(file)
    if header is None:
        return False
    file.seek(header, 1)
    if file.read(4) != _SEGMENT:
        return False
    length = _variable_length(file, unknown=-1)
    return length is not None and (length < 0 or file.tell() + length <= size)


def whole_flac(file: BinaryIO, size: int) -> bool:
    """By its last frame: it must bring the samples to the number announced, and be undamaged."""
    file.seek(4)
    total = block_size = 0
    last = False
    while not last:
        kind, high, low = struct.unpack(">BBH", file.read(4))
        last, length = bool(kind & 0x80), high << 16 | low
        block = file.read(length)
        if len(block) < length:
            return False
        if kind & 0x7F == 0:
            block_size = struct.unpack_from(">H", block, 2)[0]
            total = int.from_bytes(block[13:18], "big") & (1 << 36) - 1
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


def _variable_length(file: BinaryIO, unknown: int | None = None) -> int | None:
    """EBML's number of one to eight bytes; ``unknown`` if all of its bits are set."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    more = 8 - first[0].bit_length()
    rest = file.read(more)
    if len(rest) < more:
        return None
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + rest, "big")
    return unknown if value == (1 << 7 * (more + 1)) - 1 else value


def _seven_bits_each(data: bytes) -> int:
    """ID3's number: the high bit of each byte is not used."""
    value = 0
    for byte in data:
        value = value << 7 | byte & 0x7F
    return value


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
