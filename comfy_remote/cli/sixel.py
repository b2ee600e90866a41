"""Pictures as sixels, the way of DEC's VT340 (VT330/VT340 Programmer Reference, chapter 14).

Each character stands for six pixels, one above the other, of one colour; a band of six rows is
written once for each colour in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["cell_size", "encode_sixel"]

_COLOURS = 128
_REPEATED = re.compile(r"(.)\1{3,}")
_USUAL_CELL = (8, 16)


def encode_sixel(image: Image) -> str:
    """The picture as an escape sequence; the cursor ends below it.

    Args:
        image: RGB.
    """
    import numpy as np

    indexed = image.quantize(_COLOURS)
    width, height = indexed.size
    pixels = np.asarray(indexed)
    palette = indexed.getpalette() or []
    parts = [f'\x1bP0;1q"1;1;{width};{height}']
    for number in np.unique(pixels).tolist():
        red, green, blue = (round(value * 100 / 255) for value in palette[3 * number :][:3])
        parts.append(f"#{number};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        band = pixels[top : top + 6]
        bits = (1 << np.arange(len(band), dtype=np.uint8))[:, None]
        for number in np.unique(band).tolist():
            sixels = ((band == number) * bits).sum(axis=0, dtype=np.uint8) + 63
            text = sixels.astype(np.uint8).tobytes().decode("ascii")
            parts.append(f"#{number}{_REPEATED.sub(_repeat, text)}$")
        parts.append("-")
    return "".join(parts) + "\x1b\\"


def cell_size() -> tuple[int, int]:
    """Width and height of a character in pixels, where the terminal says it; else a usual one."""
    try:
        import fcntl
        import struct
        import sys
        import termios
    except ImportError:  # Windows
        return _USUAL_CELL
    try:
        answer = fcntl.ioctl(sys.stderr.fileno(), termios.TIOCGWINSZ, bytes(8))
    except OSError:
        return _USUAL_CELL
    rows, columns, width, height = struct.unpack("HHHH", answer)
    if not (rows and columns and width >= columns and height >= rows):
        return _USUAL_CELL
    return width // columns, height // rows


def _repeat(found: re.Match[str]) -> str:
    return f"!{len(found[0])}{found[1]}"
