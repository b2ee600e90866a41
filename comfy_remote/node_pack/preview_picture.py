"""The picture in a preview, for those who show it themselves."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from ..errors import OutputCorrupt
from ..events import Preview
from ..media.images import check_decoded_size

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["preview_picture"]

_LARGEST = 256 * 1024**2  # bytes as float32: 22 million pixels


def preview_picture(preview: Preview) -> Image | None:
    """The picture, decoded; ``None`` if it is damaged or too large: the run goes on."""
    from PIL import Image

    try:
        picture = Image.open(io.BytesIO(preview.data))
        check_decoded_size(picture, "The preview", _LARGEST, one_frame=True)
        picture.load()
    except (OutputCorrupt, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return picture
