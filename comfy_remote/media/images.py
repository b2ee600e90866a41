"""Pictures as arrays, in ComfyUI's own IMAGE layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputCorrupt

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["image_array", "open_image"]


def open_image(path: Path) -> Image:
    """Decode a picture with Pillow; an animated one at its first frame.

    Raises:
        OutputCorrupt: It is no picture that Pillow can decode.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(path)
        image.load()
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise OutputCorrupt(f"{path.name} cannot be decoded as a picture: {error}.") from error
    return image


def image_array(path: Path) -> NDArray[numpy.float32]:
    """A picture, or the frames of an animated one, as ComfyUI's LoadImage decodes it.

    Returns:
        ``[B, H, W, 3]`` float32 in ``0.0..1.0``, RGB, alpha dropped, EXIF rotation applied;
        B is the number of frames.

    Raises:
        OutputCorrupt: It is no picture that Pillow can decode.
    """
    import numpy as np
    from PIL import ImageOps, ImageSequence

    frames = []
    for frame in ImageSequence.Iterator(open_image(path)):
        upright = ImageOps.exif_transpose(frame)
        if upright.mode == "I":  # 16-bit greys; LoadImage scales them so
            upright = upright.point(lambda value: value * (1 / 255))
        frames.append(np.asarray(upright.convert("RGB"), dtype=np.float32) / np.float32(255.0))
    return np.stack(frames)
