"""SVG: ``<metadata>`` with one JSON object, as ComfyUI's Save SVG writes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from .reading import MAX_TEXT_BYTES, Malformed, json_of, texts_in

__all__ = ["texts"]

_BEGIN, _END = b"<![CDATA[", b"]]>"


def texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """From the first such element."""
    data = file.read(MAX_TEXT_BYTES)
    _, _, behind = data.partition(b"<metadata>")
    before, begin, rest = behind.partition(_BEGIN)
    text, end, _ = rest.partition(_END)
    if before.strip() or not begin or not end:
        return
    try:
        both = json_of(text, "its metadata")
    except Malformed:
        return  # another program's
    yield from texts_in(both)
