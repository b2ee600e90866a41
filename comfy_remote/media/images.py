"""Pictures as arrays, in ComfyUI's own IMAGE layout."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OutputCorrupt

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["image_array", "open_image"]


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    from PIL import Image

    try:
        yield
    except (
        *(OSError, EOFError, SyntaxError, ValueError, IndexError, TypeError),
        *(struct.error, zlib.error, MemoryError, Image.DecompressionBombError),
    ) as error:
        # Pillow's decoders raise all of these for broken files.
        raise OutputCorrupt(f"{name} cannot be decoded as a picture: {error}.") from error


def open_image(path: Path, name: str | None = None) -> Image:
    """Decode a picture with Pillow; an animated one at its first frame.

    Args:
        name: What to call it in the error; the file's name by default.

    Raises:
        OutputCorrupt: It is no picture that Pillow can decode.
    """
    from PIL import Image

    with _decoding(name or path.name):
        image = Image.open(path)
        image.load()
    return image


def image_array(path: Path, name: str | None = None) -> NDArray[numpy.float32]:
    """A picture, or the frames of an animated one, as ComfyUI's LoadImage decodes it.

    Args:
        name: What to call it in the error; the file's name by default.

    Returns:
        ``[B, H, W, 3]`` float32 in ``0.0..1.0``, RGB, alpha dropped, EXIF rotation applied;
        B is the number of frames.

    Raises:
        OutputCorrupt: It is no picture that Pillow can decode.
    """
    import numpy as np
    from PIL import ImageOps, ImageSequence

    frames: list[NDArray[np.float32]] = []
    with open_image(path, name) as image, _decoding(name or path.name):
        for frame in ImageSequence.Iterator(image):
            upright = ImageOps.exif_transpose(frame)
            if upright.mode.startswith("I"):  # 16-bit greys; LoadImage scales them so
                upright = upright.convert("I").point(lambda value: value * (1 / 255))
            pixels = np.asarray(upright.convert("RGB"), dtype=np.float32) / np.float32(255.0)
            if not frames or pixels.shape == frames[0].shape:  # an icon has several sizes
                frames.append(pixels)
            if image.format == "MPO":  # a camera's JPEG with other pictures behind the first
                break
        return np.stack(frames)
