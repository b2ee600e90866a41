"""Safetensors, which ComfyUI's latents are: ``__metadata__`` of the header.

Layout: eight bytes of length, then JSON (the format's own description).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import BinaryIO

from .reading import Malformed, exactly

__all__ = ["read"]


def read(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """Names and texts."""
    (size,) = struct.unpack("<Q", exactly(file, 8))
    try:
        header = json.loads(exactly(file, size))
    except (ValueError, RecursionError) as error:
        raise Malformed("its header is not valid JSON") from error
    texts = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(texts, dict):
        for name, value in texts.items():
            if isinstance(value, str):
                yield name, value
