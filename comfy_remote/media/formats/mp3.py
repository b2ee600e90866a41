"""MP3. Layout: ID3v2.3.0 and ID3v2.4.0, and the Xing header that LAME and FFmpeg write."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from .reading import exactly

__all__ = ["is_whole", "starts_with_frame", "texts"]

_ENCODINGS = ("latin-1", "utf-16", "utf-16-be", "utf-8")


def starts_with_frame(head: bytes) -> bool:
    """Whether a file begins with a frame of MPEG audio, layer III."""
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2


def is_whole(file: BinaryIO, size: int) -> bool:
    """By the number of bytes in the Xing header; without one, it counts as whole."""
    head = file.read(10)
    start = 0
    if head.startswith(b"ID3"):
        start = 10 + _syncsafe(head[6:10]) + (10 if head[5] & 0x10 else 0)
    file.seek(start)
    frame = file.read(256)
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if at < 0:
        return len(frame) > 63  # a first frame alone has more
    flags = struct.unpack_from(">I", frame, at + 4)[0]
    if not flags & 2:
        return True
    length = struct.unpack_from(">I", frame, at + (12 if flags & 1 else 8))[0]
    return bool(start + length <= size)


def texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """The user-defined texts (``TXXX``) of the tag at the start."""
    signature, major, _, flags, *length = struct.unpack(">3sBBB4B", exactly(file, 10))
    if signature != b"ID3" or major not in (3, 4):
        return
    data = exactly(file, _syncsafe(bytes(length)))
    if flags & 0x80 and major == 3:
        data = _synchronised(data)
    at = 0
    if flags & 0x40:  # an extended header; 2.4 counts its own four bytes, 2.3 does not
        at = _syncsafe(data[:4]) if major == 4 else 4 + int.from_bytes(data[:4], "big")
    while at + 10 <= len(data) and data[at]:
        name, length_bytes, form = data[at : at + 4], data[at + 4 : at + 8], data[at + 9]
        size = _syncsafe(length_bytes) if major == 4 else int.from_bytes(length_bytes, "big")
        frame = data[at + 10 : at + 10 + size]
        if len(frame) < size:
            raise EOFError
        at += 10 + size
        if name != b"TXXX" or form & (0x0C if major == 4 else 0xC0):  # compressed, encrypted
            continue
        if major == 4 and form & 0x02:
            frame = _synchronised(frame)
        if major == 4 and form & 0x01:
            frame = frame[4:]
        if frame and frame[0] < len(_ENCODINGS):
            description, _, text = frame[1:].decode(_ENCODINGS[frame[0]], "replace").partition("\0")
            yield description, text.lstrip("\ufeff").rstrip("\0")


def _syncsafe(data: bytes) -> int:
    """A number of seven bits a byte, so that no byte looks like the start of sound."""
    number = 0
    for byte in data:
        number = number << 7 | byte & 0x7F
    return number


def _synchronised(data: bytes) -> bytes:
    return data.replace(b"\xff\x00", b"\xff")
