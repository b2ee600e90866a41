"""An IMAGE as 8-bit pictures instead of floats: a tenth of the bytes, or less, for a known loss.

A value is rounded to the nearest of 256 levels, and comes back as ``level / 255`` in float32: what
ComfyUI's LoadImage makes of a picture. So an image that came from 8-bit pictures loses nothing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..images import decoding_errors
from .limits import invalid
from .tensors import TensorBits, TensorLibrary

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

__all__ = ["ImageFormat", "PictureFormat", "Pictures", "decode_pictures", "encode_pictures"]

PictureFormat = Literal["png", "webp"]
ImageFormat = Literal["exact", "png", "webp"]
"""How an IMAGE travels: bit for bit, or as 8-bit PNG or lossless WebP pictures."""

_FLOATS: Mapping[str, str] = {"F32": "<f4", "F16": "<f2"}
_MODES: Mapping[PictureFormat, Mapping[int, str]] = {
    "png": {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"},
    "webp": {3: "RGB", 4: "RGBA"},
}
_LARGEST_SIDE: Mapping[PictureFormat, int] = {"png": 2**31 - 1, "webp": 16383}


@dataclass(frozen=True, slots=True)
class Pictures:
    """The frames of an IMAGE batch, one file each.

    Attributes:
        worst: The largest difference that rounding made, 0..1; 0 if it made none at all.
    """

    files: list[bytes]
    worst: float


def encode_pictures(image: TensorBits, format_: PictureFormat) -> Pictures:
    """Round each frame to 8 bits and compress it, without loss from there.

    Args:
        image: ``[B, H, W, C]``, F32 or F16, in ``0.0..1.0``.

    Raises:
        ValueError: It is not such a tensor, or the format has no such picture; with the reason.
    """
    if len(image.shape) != 4 or image.dtype not in _FLOATS:
        raise ValueError(f"it is {image.dtype} of shape {list(image.shape)}, not [B,H,W,C] of F32")
    _, height, width, channels = image.shape
    if channels not in _MODES[format_]:
        raise ValueError(f"a {format_.upper()} picture cannot have {channels} channels")
    if max(height, width) > _LARGEST_SIDE[format_]:
        raise ValueError(f"{format_.upper()} pictures end at {_LARGEST_SIDE[format_]} pixels")
    frames = image.bits.view(_FLOATS[image.dtype])

    def one(index: int) -> tuple[bytes, float]:
        return _encode(frames[index], format_)

    # Pillow and NumPy work without the interpreter's lock.
    with ThreadPoolExecutor() as pool:
        made = list(pool.map(one, range(len(frames))))
    return Pictures([data for data, _ in made], max((worst for _, worst in made), default=0.0))


def _encode(frame: NDArray[numpy.floating], format_: PictureFormat) -> tuple[bytes, float]:
    import numpy as np
    from PIL import Image

    low, high = float(frame.min()), float(frame.max())
    if np.isnan(low) or np.isnan(high):
        raise ValueError("it holds NaN, which a picture cannot hold")
    if low < 0 or high > 1:
        raise ValueError(
            f"its values go from {low:g} to {high:g}, and what is outside 0..1 would be cut off"
        )
    levels = np.rint(frame.astype(np.float32) * np.float32(255)).astype(np.uint8)
    back = _floats(levels).astype(frame.dtype)
    exact = back.tobytes() == frame.tobytes()  # a zero's sign counts
    worst = 0.0 if exact else float(np.abs(back.astype(np.float64) - frame).max()) or 1e-9
    shape = levels.shape[:2] if levels.shape[2] == 1 else levels.shape
    picture = Image.fromarray(np.ascontiguousarray(levels).reshape(shape))
    out = io.BytesIO()
    if format_ == "png":
        picture.save(out, "PNG", compress_level=4)
    else:
        # `exact`: else the colours below a transparent pixel are given up.
        picture.save(out, "WEBP", lossless=True, exact=True, quality=25, method=2)
    return out.getvalue(), worst


def decode_pictures(
    files: Sequence[memoryview],
    format_: PictureFormat,
    shape: tuple[int, int, int, int],
    dtype: str,
    library: TensorLibrary,
    *,
    pixels: bool = True,
) -> object:
    """The IMAGE that was encoded so.

    Args:
        shape: ``[B, H, W, C]``, already held against the limits.
        pixels: Whether to decode them. If not, the result is zeros that take no memory.

    Raises:
        ValueInvalid: The pictures are damaged, or not of that shape.
    """
    import numpy as np

    count, height, width, channels = shape
    mode = _MODES[format_].get(channels)
    if mode is None or dtype not in _FLOATS or len(files) != count:
        raise invalid("its pictures are described wrongly")
    # Before memory is taken for them all.
    for data in files:
        _open(data, format_, mode, (width, height), load=False)
    if not pixels:
        return np.broadcast_to(np.zeros((), _FLOATS[dtype]), shape)
    image = np.empty(shape, _FLOATS[dtype])
    for index, data in enumerate(files):
        levels = _open(data, format_, mode, (width, height), load=True)
        image[index] = _floats(levels.reshape(height, width, channels))
    if library == "torch":
        import torch

        return torch.from_numpy(image)
    return image


def _open(
    data: memoryview, format_: PictureFormat, mode: str, size: tuple[int, int], *, load: bool
) -> NDArray[numpy.uint8]:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=[format_.upper()]) as picture:
            # libwebp leaves out an alpha channel that is opaque everywhere.
            fits = picture.mode == mode or (format_ == "webp" and picture.mode == "RGB")
            if picture.size != size or not fits:
                raise ValueError(f"{picture.mode} {picture.size} instead of {mode} {size}")
            if not load:
                return np.empty(0, np.uint8)
            return np.asarray(picture.convert(mode), np.uint8)
    except decoding_errors() as error:
        raise invalid(f"a picture in it cannot be decoded ({str(error)[:200]})") from error


def _floats(levels: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    import numpy as np

    floats: NDArray[np.float32] = levels.astype(np.float32) / np.float32(255)
    return floats
