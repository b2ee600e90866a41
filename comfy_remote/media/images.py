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

__all__ = [
    "decoding_errors",
    "image_array",
    "open_image",
    "picture_size",
    "pixels_of",
    "upright_frames",
]


def decoding_errors() -> tuple[type[Exception], ...]:
    """What Pillow's decoders raise for broken files."""
    from PIL import Image

    return (
        *(OSError, EOFError, SyntaxError, ValueError, IndexError, TypeError),
        *(struct.error, zlib.error, MemoryError, Image.DecompressionBombError),
    )


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    from PIL import UnidentifiedImageError

    try:
        yield
    except decoding_errors() as error:
        unknown = isinstance(error, UnidentifiedImageError)  # its text has the whole path
        why = "it is in no format that Pillow knows" if unknown else error
        raise OutputCorrupt(f"{name} cannot be decoded as a picture: {why}.") from error


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


def picture_size(path: Path) -> tuple[int, int, int]:
    """Number of frames, width and height of a picture, EXIF rotation applied.

    Reads the head of the file only, but for one with frames.

    Raises:
        OutputCorrupt: It is no picture that Pillow knows.
    """
    from PIL import Image
    from PIL.ExifTags import Base

    with _decoding(path.name), Image.open(path) as image:
        width, height = image.size
        if image.getexif().get(Base.Orientation, 1) >= 5:  # on its side
            width, height = height, width
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        return frames, width, height


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

    with open_image(path, name) as image, _decoding(name or path.name):
        return np.stack([pixels_of(frame.convert("RGB")) for frame in upright_frames(image)])


def upright_frames(image: Image) -> Iterator[Image]:
    """The frames that LoadImage takes of a picture, EXIF rotation applied.

    Those that have the first one's size (an icon has several), and of a camera's MPO the first:
    the others are other views. Greys of 16 bits are scaled to 8.
    """
    from PIL import ImageOps, ImageSequence

    size: tuple[int, int] | None = None
    for frame in ImageSequence.Iterator(image):
        upright = ImageOps.exif_transpose(frame)
        if upright.mode.startswith("I"):
            upright = upright.convert("I").point(lambda value: value * (1 / 255))
        if size is None or upright.size == size:
            size = upright.size
            yield upright
        if image.format == "MPO":
            break


def pixels_of(picture: Image) -> NDArray[numpy.float32]:
    """``[H, W]`` or ``[H, W, C]`` float32 in ``0.0..1.0``."""
    import numpy as np

    values: NDArray[np.float32] = np.asarray(picture).astype(np.float32) / np.float32(255.0)
    return values
