"""GLB: ``asset.extras`` of the JSON chunk. Layout: glTF 2.0 specification, chapter 4."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import BinaryIO

from .reading import Malformed, exactly

__all__ = ["read"]


def read(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """Names and texts."""
    _, version, _, size, kind = struct.unpack("<4sIII4s", exactly(file, 20))
    if version != 2 or kind != b"JSON":
        raise Malformed("it is not a glTF 2.0 model")
    try:
        model = json.loads(exactly(file, size))
    except (ValueError, RecursionError) as error:
        raise Malformed("its description is not valid JSON") from error
    asset = model.get("asset") if isinstance(model, dict) else None
    extras = asset.get("extras") if isinstance(asset, dict) else None
    if isinstance(extras, dict):
        for name, value in extras.items():
            yield name, value if isinstance(value, str) else json.dumps(value)
