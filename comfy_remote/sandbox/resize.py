"""Resizing images to the same pixels as ComfyUI does on a CPU.

ComfyUI resizes with ``torch.nn.functional.interpolate``. What follows computes, in NumPy and
float32, what PyTorch's CPU kernels compute: the same weights, summed in the same order, with
a multiplication and an addition fused where PyTorch's compiler fuses them (found by comparing
with PyTorch 2.11 bit by bit). The order matters: one unit in the last place can turn
into one level of an 8-bit pixel, because saving truncates.

Images are ``[batch, height, width, channels]`` float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["CROP_METHODS", "RESIZE_METHODS", "crop_to_aspect", "resize"]

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

RESIZE_METHODS = ("nearest-exact", "bilinear", "area", "bicubic", "lanczos")
CROP_METHODS = ("disabled", "center")


def resize(image: Floats, width: int, height: int, method: str, crop: str = "disabled") -> Floats:
    """Resize a batch of images.

    Args:
        method: One of `RESIZE_METHODS`.
        crop: ``center`` cuts the image to the result's aspect ratio first.

    Raises:
        ValueError: A side of the result would be empty.
    """
    if width < 1 or height < 1:
        raise ValueError(
            f"Input and output sizes should be greater than 0, but got {width}x{height}"
        )
    if crop == "center":
        image = crop_to_aspect(image, width, height)
    match method:
        case "nearest-exact":
            return _nearest_exact(image, width, height)
        case "bilinear":
            return _bilinear(image, width, height)
        case "area":
            return _area(image, width, height)
        case "bicubic":
            return _bicubic(image, width, height)
        case "lanczos":
            return _lanczos(image, width, height)
        case _:
            raise ValueError(f"Unknown way to resize: {method}")


def crop_to_aspect(image: Floats, width: int, height: int) -> Floats:
    """Cut the middle out of an image, with the aspect ratio of ``width`` by ``height``."""
    old_height, old_width = image.shape[1:3]
    old_aspect, new_aspect = old_width / old_height, width / height
    x = y = 0
    if old_aspect > new_aspect:
        x = round((old_width - old_width * (new_aspect / old_aspect)) / 2)
    elif old_aspect < new_aspect:
        y = round((old_height - old_height * (old_aspect / new_aspect)) / 2)
    return image[:, y : old_height - y, x : old_width - x]


def _fused(a: Floats, b: Floats, c: Floats) -> Floats:
    """``a * b + c``, rounded once. In float64 the product of two float32 is exact."""
    product = a.astype(np.float64) * b
    product += c
    return product.astype(np.float32)


def _along_width(weights: Floats) -> Floats:
    return weights[None, None, :, None]


def _along_height(weights: Floats) -> Floats:
    return weights[None, :, None, None]


def _source_positions(old: int, new: int) -> Floats:
    """Where each new pixel's centre lies in the old image, in old pixels."""
    scale = np.full(new, np.float32(old) / np.float32(new))
    centres = np.arange(new, dtype=np.float32) + np.float32(0.5)
    return _fused(scale, centres, np.full(new, -0.5, np.float32))


def _nearest_exact(image: Floats, width: int, height: int) -> Floats:
    def nearest(old: int, new: int) -> Indices:
        scale = np.float32(old) / np.float32(new)
        centres = np.arange(new, dtype=np.float32) + np.float32(0.5)
        positions: Indices = np.floor(centres * scale).astype(np.int64)
        return np.minimum(positions, old - 1, dtype=np.int64)

    rows, columns = nearest(image.shape[1], height), nearest(image.shape[2], width)
    return image[:, rows][:, :, columns]


def _linear_taps(old: int, new: int) -> tuple[tuple[Indices, Indices], tuple[Floats, Floats]]:
    if old == new:
        same = np.arange(new)
        return (same, same), (np.ones(new, np.float32), np.zeros(new, np.float32))
    position = np.maximum(_source_positions(old, new), np.float32(0))
    first = np.minimum(position.astype(np.int64), old - 1)
    second = np.minimum(first + 1, old - 1)
    weight = np.clip(position - first.astype(np.float32), 0, 1).astype(np.float32)
    return (first, second), (np.float32(1) - weight, weight)


def _bilinear(image: Floats, width: int, height: int) -> Floats:
    (top, bottom), (top_weight, bottom_weight) = _linear_taps(image.shape[1], height)
    (left, right), (left_weight, right_weight) = _linear_taps(image.shape[2], width)

    if width + height <= 128:
        # For small results PyTorch takes another kernel, which sums four products.
        def corner(rows: Indices, columns: Indices) -> Floats:
            return image[:, rows][:, :, columns]

        def corner_weight(vertical: Floats, horizontal: Floats) -> Floats:
            return _along_height(vertical) * _along_width(horizontal)

        total = corner(top, right) * corner_weight(top_weight, right_weight)
        total = _fused(corner(top, left), corner_weight(top_weight, left_weight), total)
        total = _fused(corner(bottom, left), corner_weight(bottom_weight, left_weight), total)
        return _fused(corner(bottom, right), corner_weight(bottom_weight, right_weight), total)

    rows = _weighted_sum(
        [image[:, :, left], image[:, :, right]],
        [_along_width(left_weight), _along_width(right_weight)],
    )
    return _weighted_sum(
        [rows[:, top], rows[:, bottom]],
        [_along_height(top_weight), _along_height(bottom_weight)],
    )


def _weighted_sum(values: Sequence[Floats], weights: Sequence[Floats]) -> Floats:
    """PyTorch's order: the first product is fused with the second, the others follow."""
    total = _fused(values[0], weights[0], values[1] * weights[1])
    for value, weight in zip(values[2:], weights[2:], strict=True):
        total = _fused(value, weight, total)
    return total


def _cubic_taps(old: int, new: int) -> tuple[list[Indices], list[Floats]]:
    a = np.float32(-0.75)

    def constant(value: float) -> Floats:
        return np.full(new, value, np.float32)

    def near(x: Floats) -> Floats:
        weight: Floats = _fused(constant(a + 2), x, constant(-(a + 3))) * x * x + np.float32(1)
        return weight

    def far(x: Floats) -> Floats:
        inner = _fused(constant(a), x, constant(-5 * a))
        weight: Floats = _fused(inner, x, constant(8 * a)) * x - np.float32(4) * a
        return weight

    position = _source_positions(old, new)
    start = np.minimum(np.floor(position).astype(np.int64), old - 1)
    t = np.clip(position - start.astype(np.float32), 0, 1).astype(np.float32)
    rest = np.float32(1) - t
    taps = [np.clip(start + offset, 0, old - 1) for offset in (-1, 0, 1, 2)]
    return taps, [far(t + np.float32(1)), near(t), near(rest), far(rest + np.float32(1))]


def _bicubic(image: Floats, width: int, height: int) -> Floats:
    rows, row_weights = _cubic_taps(image.shape[1], height)
    columns, column_weights = _cubic_taps(image.shape[2], width)
    wide = _weighted_sum(
        [image[:, :, column] for column in columns],
        [_along_width(weight) for weight in column_weights],
    )
    return _weighted_sum(
        [wide[:, row] for row in rows],
        [_along_height(weight) for weight in row_weights],
    )


def _area(image: Floats, width: int, height: int) -> Floats:
    """The mean of the old pixels that each new pixel covers, wholly or in part."""
    old_height, old_width = image.shape[1:3]
    if width == height == 1:
        # PyTorch takes its general mean here, which sums in blocks.
        mean: Floats = image.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
        return mean

    def covered(old: int, new: int) -> tuple[Indices, Indices]:
        first = np.arange(new) * old // new
        last = -(-(np.arange(1, new + 1) * old) // new)
        return first, last - first

    top, row_count = covered(old_height, height)
    left, column_count = covered(old_width, width)
    total = np.zeros((image.shape[0], height, width, image.shape[3]), np.float32)
    for dy in range(int(row_count.max())):
        rows = image[:, np.minimum(top + dy, old_height - 1)]
        for dx in range(int(column_count.max())):
            inside = (dy < row_count)[:, None] & (dx < column_count)[None, :]
            values = rows[:, :, np.minimum(left + dx, old_width - 1)]
            np.add(total, values, out=total, where=inside[None, :, :, None])
    heights, widths = row_count.astype(np.float32), column_count.astype(np.float32)
    return total / _along_height(heights) / _along_width(widths)


def _lanczos(image: Floats, width: int, height: int) -> Floats:
    """ComfyUI hands this one to Pillow, in 8 bits a channel."""
    frames = np.clip(255.0 * image, 0, 255).astype(np.uint8)
    resized = [
        np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS))
        for frame in frames
    ]
    result: Floats = np.stack(resized).astype(np.float32) / np.float32(255.0)
    return result
