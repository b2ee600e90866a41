"""The picture in a preview, for those who show it themselves."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ..events import Preview

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["preview_picture"]


def preview_picture(preview: Preview) -> Image | None:
    """The picture, decoded; ``None`` for half a one, which is none: the run goes on."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(preview.data))
        picture.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return picture
