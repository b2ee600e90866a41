"""Ogg. Layout: RFC 3533; comments as in RFC 7845 (Opus) and the Vorbis I specification."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from .reading import MAX_TEXT_BYTES, Malformed, exactly, skip
from .vorbis import comments

__all__ = ["is_whole", "texts"]


def is_whole(file: BinaryIO, size: int) -> bool:
    """By its pages, each as long as it says."""
    while page := _page(file):
        skip(file, sum(page[1]))
    return file.tell() == size


def texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """The comments in the second packet of the first Opus or Vorbis stream."""
    packets = _packets(file)
    next(packets, None)
    packet = next(packets, b"")
    for signature in (b"OpusTags", b"\x03vorbis"):
        if packet.startswith(signature):
            yield from comments(packet[len(signature) :])


def _page(file: BinaryIO) -> tuple[bytes, bytes] | None:
    """The stream of the page that begins here, and the sizes of its segments, which follow."""
    header = file.read(27)
    if not header:
        return None
    if len(header) < 27 or not header.startswith(b"OggS"):
        raise EOFError
    return header[14:18], exactly(file, header[26])


def _packets(file: BinaryIO) -> Iterator[bytes]:
    """The packets of the first stream."""
    packet, first = bytearray(), None
    while page := _page(file):
        stream, segments = page
        first = first or stream
        if stream != first:
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
