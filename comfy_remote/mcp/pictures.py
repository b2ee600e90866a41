"""Small copies of pictures, for an agent that wants to see what a job made."""

from __future__ import annotations

import io
from pathlib import Path

from ..errors import OutputCorrupt
from ..media.images import open_image

__all__ = ["small_picture"]

_SIDE = 768  # pixels
_QUALITY = 85


def small_picture(path: Path) -> bytes | None:
    """A picture as a JPEG of 768 pixels at most; ``None`` of what cannot be decoded. Blocking."""
    try:
        picture = open_image(path)
    except OutputCorrupt:
        return None
    picture.thumbnail((_SIDE, _SIDE))
    data = io.BytesIO()
    picture.convert("RGB").save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()
