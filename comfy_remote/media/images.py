"""Pictures as arrays, in ComfyUI's own IMAGE layout."""

from __future__ import annotations

import io
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
    "LARGEST_DECODED",
    "check_decoded_size",
    "decoded_preview",
    "decoding_errors",
    "image_array",
    "open_image",
    "picture_size",
    "pixels_of",
    "upright_frames",
]


LARGEST_DECODED = 4 * 1024**3
"""Bytes that the frames of a picture may have as float32 RGB."""

_FLOAT_RGB = 12
_LARGEST_OPENED = 180_000_000  # pixels of one frame, which Pillow decodes to 4 bytes each
_LARGEST_PREVIEW = 256 * 1024**2  # bytes as float32: 22 million pixels


def check_decoded_size(
    image: Image, name: str, limit: int = LARGEST_DECODED, *, one_frame: bool = False
) -> None:
    """Refuse a picture that would take too much memory, before it is decoded.

    Args:
        image: Opened, not loaded.
        limit: Bytes of its frames as float32 RGB.
        one_frame: Whether only its first frame is wanted.

    Raises:
        OutputCorrupt: It would take more; ``name`` begins the message.
    """
    pixels = image.width * image.height
    # Of a camera's MPO only the first is taken.
    if not one_frame and image.format != "MPO" and pixels * _FLOAT_RGB <= limit:
        pixels *= getattr(image, "n_frames", 1)
    if pixels * _FLOAT_RGB > limit or image.width * image.height > _LARGEST_OPENED:
        raise OutputCorrupt(
            f"{name} is too large to be decoded: {image.width} x {image.height} pixels, "
            f"{pixels * _FLOAT_RGB} bytes in all; {limit} are allowed.",
            advice="Make it smaller, or give its frames in parts.",
        )


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
    """Decode a picture with Pillow; of an animated one, the first frame.

    Raises:
        OutputCorrupt: It is not a picture that Pillow can decode, or too large.
    """
    from PIL import Image

    with _decoding(name or path.name):
        image = Image.open(path)
        check_decoded_size(image, name or path.name, one_frame=True)
        image.load()
    return image


def decoded_preview(data: bytes) -> Image | None:
    """A picture of work in progress; ``None`` if it is damaged or too large: the run goes on."""
    from PIL import Image

    try:
        with _decoding("The preview"):
            picture = Image.open(io.BytesIO(data))
            check_decoded_size(picture, "The preview", _LARGEST_PREVIEW, one_frame=True)
            picture.load()
    except OutputCorrupt:
        return None
    return picture


def picture_size(path: Path) -> tuple[int, int, int]:
    """Number of frames, width and height of a picture, EXIF rotation applied.

    Reads the head of the file only, but for one with frames.

    Raises:
        OutputCorrupt: It is not a picture that Pillow knows.
    """
    from PIL import Image
    from PIL.ExifTags import Base

    with _decoding(path.name), Image.open(path) as image:
        width, height = image.size
        if image.getexif().get(Base.Orientation, 1) >= 5:  # on its side
            width, height = height, width
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        return frames, width, height


def image_array(
    path: Path, name: str | None = None, *, limit: int = LARGEST_DECODED
) -> NDArray[numpy.float32]:
    """A picture, or the frames of an animated one, as ComfyUI's LoadImage decodes it.

    Returns:
        ``[B, H, W, 3]`` float32 in ``0.0..1.0``, RGB, alpha dropped, EXIF rotation applied;
        B is the number of frames.

    Raises:
        OutputCorrupt: It is not a picture that Pillow can decode, or has more than ``limit`` bytes.
    """
    import numpy as np
    from PIL import Image

    shown = name or path.name
    with _decoding(shown), Image.open(path) as image:
        check_decoded_size(image, shown, limit)
        return np.stack([pixels_of(frame.convert("RGB")) for frame in upright_frames(image)])


def upright_frames(image: Image) -> Iterator[Image]:
    """The frames that LoadImage takes of a picture, EXIF rotation applied.

    Those of the first one's size (an icon has several sizes); of a camera's MPO only the first,
    since the others are other views. Greys of 16 bits are scaled to 8.
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
