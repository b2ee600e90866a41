"""FLAC and Ogg (Vorbis comments) and MP3 (ID3v2 ``TXXX`` frames).

Layout: RFC 9639 (FLAC), RFC 3533 (Ogg), RFC 7845 (Opus), the Vorbis I specification, and
ID3v2.3.0 and ID3v2.4.0.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from .reading import MAX_TEXT_BYTES, Malformed, exactly, skip, text_of

__all__ = ["read_flac", "read_id3", "read_ogg"]

_VORBIS_COMMENT = 4
_ENCODINGS = ("latin-1", "utf-16", "utf-16-be", "utf-8")


def read_flac(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """The comments in the metadata blocks."""
    skip(file, 4)
    last = False
    while not last:
        flags, *length = exactly(file, 4)
        last = bool(flags & 0x80)
        size = int.from_bytes(bytes(length), "big")
        if flags & 0x7F == _VORBIS_COMMENT:
            yield from _comments(exactly(file, size))
        else:
            skip(file, size)


def read_ogg(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """The comments in the second packet of the first Opus or Vorbis stream."""
    packets = _packets(file)
    next(packets, None)
    comments = next(packets, b"")
    for signature in (b"OpusTags", b"\x03vorbis"):
        if comments.startswith(signature):
            yield from _comments(comments[len(signature) :])


def read_id3(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """The user-defined texts of the tag at the start."""
    _, major, _, flags, *length = struct.unpack(">3sBBB4B", exactly(file, 10))
    if major not in (3, 4):
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


def _comments(data: bytes) -> Iterator[tuple[str, str]]:
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


def _packets(file: BinaryIO) -> Iterator[bytes]:
    """The packets of the first stream."""
    packet, stream = bytearray(), None
    while header := file.read(27):
        if len(header) < 27 or not header.startswith(b"OggS"):
            raise EOFError
        serial = header[14:18]
        stream = stream or serial
        segments = exactly(file, header[26])
        if serial != stream:
            skip(file, sum(segments))
            continue
        for size in segments:
            packet += exactly(file, size)
            if len(packet) > MAX_TEXT_BYTES:
                raise Malformed("its comments are larger than any metadata")
            if size < 255:
                yield bytes(packet)
                packet.clear()
    if packet:
        raise EOFError


def _syncsafe(data: bytes) -> int:
    """Seven bits a byte, so that no byte looks like the start of sound."""
    number = 0
    for byte in data:
        number = number << 7 | byte & 0x7F
    return number


def _synchronised(data: bytes) -> bytes:
    return data.replace(b"\xff\x00", b"\xff")
