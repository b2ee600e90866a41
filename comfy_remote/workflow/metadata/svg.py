"""SVG: ``<metadata>`` with one JSON object, as ComfyUI's Save SVG writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

from .reading import MAX_TEXT_BYTES, text_of

__all__ = ["read"]

_BEGIN, _END = b"<![CDATA[", b"]]>"


def read(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """Names and texts, of the first such element."""
    data = file.read(MAX_TEXT_BYTES)
    _, _, behind = data.partition(b"<metadata>")
    before, begin, rest = behind.partition(_BEGIN)
    text, end, _ = rest.partition(_END)
    if before.strip() or not begin or not end:
        return
    try:
        both = json.loads(text_of(text))
    except (ValueError, RecursionError):
        return
    if isinstance(both, dict):
        for name, value in both.items():
            yield name, value if isinstance(value, str) else json.dumps(value)
