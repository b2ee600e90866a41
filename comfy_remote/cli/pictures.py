"""Small pictures in the terminal.

Four ways: kitty's graphics protocol (sw.kovidgoyal.net/kitty/graphics-protocol), iTerm2's
inline images (iterm2.com/documentation-images.html), sixels, and, in any terminal with at least
256 colours, half-block characters of two pixels each. A terminal is recognized by its environment;
``COMFY_REMOTE_GRAPHICS`` decides where that is wrong. rich has no pictures; textual-image 0.13 does
not speak iTerm2's protocol, draws each preview beside the one before in kitty, and writes a query
to the terminal and reads its standard input when it is imported.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import ControlType, Segment
from rich.style import Style

from ..errors import OutputCorrupt

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "Graphics",
    "Picture",
    "cell_size",
    "encode_sixel",
    "graphics_of",
    "load_picture",
    "remove_preview",
]

Graphics: TypeAlias = Literal["kitty", "iterm2", "sixel", "blocks"]

# Terminals whose own names say that they show sixels, always.
_SIXEL_TERMS = ("foot", "mlterm", "contour", "yaft")

_LARGEST = 512 * 1024**2  # bytes as float32: 44 million pixels
_LARGE = 4_000_000
# Terminal cells are about twice as high as wide.
_CELL_WIDTH, _CELL_HEIGHT = 10, 20
_COLOURS = 128
_REPEATED = re.compile(r"(.)\1{3,}")
_USUAL_CELL = (8, 16)
_KITTY_CHUNK = 4096
_KITTY_PREVIEW = 7621  # any number: the same one replaces the picture before


def graphics_of(console: Console, environment: Mapping[str, str] = os.environ) -> Graphics | None:
    """How this terminal can show a picture; ``None`` for not at all (a pipe, NO_COLOR)."""
    if not console.is_terminal or console.is_dumb_terminal or console.no_color:
        return None
    chosen = environment.get("COMFY_REMOTE_GRAPHICS", "")
    if chosen in ("none", *get_args(Graphics)):
        return None if chosen == "none" else cast("Graphics", chosen)
    term = environment.get("TERM", "")
    program = environment.get("TERM_PROGRAM", "")
    # tmux and screen pass on the variables of the terminal around them, not its graphics.
    if not (environment.get("TMUX") or term.startswith(("tmux", "screen"))):
        if "KITTY_WINDOW_ID" in environment or term in ("xterm-kitty", "xterm-ghostty"):
            return "kitty"
        if program in ("iTerm.app", "WezTerm") or environment.get("LC_TERMINAL") == "iTerm2":
            return "iterm2"
        if term.startswith(_SIXEL_TERMS) or program == "mintty":
            return "sixel"
    unicode = console.encoding.lower().startswith("utf") and not console.legacy_windows
    return "blocks" if console.color_system in ("truecolor", "256") and unicode else None


def load_picture(
    source: bytes | Path, graphics: Graphics, *, columns: int, rows: int, preview: bool = False
) -> Picture | None:
    """A picture to print; ``None`` if Pillow cannot read it, or it is too large for a preview.

    Args:
        source: The encoded picture, or its file.
        columns: The most cells that it may be wide, as ``rows`` are for its height.
        preview: Whether it replaces the preview before it.
    """
    from PIL import Image

    from ..media.images import check_decoded_size, decoding_errors

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            # Decodes a large JPEG at a fraction of its size.
            image.draft("RGB", (columns * _CELL_WIDTH * 2, rows * _CELL_HEIGHT * 2))
            check_decoded_size(image, "The preview", _LARGEST, one_frame=True)
            if image.width * image.height > _LARGE:
                # Smaller first: in RGB, it would be in memory twice.
                image.thumbnail((columns * _CELL_WIDTH * 2, rows * _CELL_HEIGHT * 2))
            small = image.convert("RGB")
    except (OutputCorrupt, *decoding_errors()):  # type: ignore[misc]  # they are exceptions
        return None
    width, height = small.size
    scale = min(columns * _CELL_WIDTH / width, rows * _CELL_HEIGHT / height)
    cells = (
        max(1, min(columns, round(width * scale / _CELL_WIDTH))),
        max(1, min(rows, round(height * scale / _CELL_HEIGHT))),
    )
    return Picture(small, graphics, *cells, preview=preview)


def remove_preview(graphics: Graphics | None) -> str:
    """What to write when a live display ends: kitty's pictures outlive their lines."""
    return f"\x1b_Ga=d,d=I,i={_KITTY_PREVIEW},q=2\x1b\\" if graphics == "kitty" else ""


class Picture:
    """A picture that rich can print, alone or within a live display."""

    def __init__(
        self,
        image: Image,
        graphics: Graphics,
        columns: int,
        rows: int,
        *,
        preview: bool = False,
    ) -> None:
        self.columns = columns
        self.rows = rows
        self._escape: str | None = None
        self._lines: list[list[Segment]] = []
        if graphics == "blocks":
            self._lines = list(_half_blocks(image, columns, rows))
            return
        image = image.copy()
        if graphics == "sixel":
            # The only one that counts in pixels. One row less: the picture must not scroll.
            width, height = cell_size()
            image.thumbnail((columns * width, max(1, rows - 1) * height))
            self._escape = f"\x1b7{encode_sixel(image)}\x1b8"
            return
        image.thumbnail((columns * _CELL_WIDTH, rows * _CELL_HEIGHT))
        encoded = io.BytesIO()
        image.save(encoded, "PNG")
        data = base64.b64encode(encoded.getvalue()).decode("ascii")
        if graphics == "kitty":
            self._escape = _kitty(data, columns, rows, _KITTY_PREVIEW if preview else None)
        else:
            self._escape = _iterm2(data, columns, rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Half blocks, or the terminal's own picture over as many empty lines."""
        for line in self._lines:
            yield from line
            yield Segment.line()
        if self._escape is not None:
            # The room is made before the picture is drawn into it: at the bottom of the screen
            # the lines would scroll away under it.
            for _ in range(self.rows):
                yield Segment.line()
            escape = f"\x1b[{self.rows}A{self._escape}\x1b[{self.rows}B"
            # A control segment has no width for rich.
            yield Segment(escape, None, [(ControlType.BELL,)])


def _half_blocks(image: Image, columns: int, rows: int) -> list[list[Segment]]:
    pixels = image.resize((columns, rows * 2)).load()
    if pixels is None:
        return []

    def cell(x: int, y: int) -> Segment:
        above, below = pixels[x, 2 * y], pixels[x, 2 * y + 1]
        return Segment("▀", Style.from_color(_color(above), _color(below)))

    return [[Segment("  "), *(cell(x, y) for x in range(columns))] for y in range(rows)]


def _color(pixel: object) -> Color:
    assert isinstance(pixel, tuple)  # noqa: S101  # the picture is RGB
    red, green, blue = pixel[:3]
    return Color.from_rgb(red, green, blue)


def _kitty(data: str, columns: int, rows: int, number: int | None) -> str:
    """Transmit and show in one go; C=1 leaves the cursor, q=2 asks for no answer."""
    chunks = [data[i : i + _KITTY_CHUNK] for i in range(0, len(data), _KITTY_CHUNK)]
    which = "" if number is None else f"i={number},p=1,"
    keys = f"a=T,f=100,{which}c={columns},r={rows},C=1,q=2,"
    parts = []
    for index, chunk in enumerate(chunks):
        more = int(index < len(chunks) - 1)
        parts.append(f"\x1b_G{keys if index == 0 else ''}m={more};{chunk}\x1b\\")
    return "".join(parts)


def _iterm2(data: str, columns: int, rows: int) -> str:
    """The terminal leaves the cursor below the picture, so its position is saved and restored."""
    return (
        f"\x1b7\x1b]1337;File=inline=1;width={columns};height={rows};"
        f"preserveAspectRatio=1:{data}\x07\x1b8"
    )


def encode_sixel(image: Image) -> str:
    """An RGB picture as sixels; the cursor ends below it.

    DEC's VT330/VT340 Programmer Reference, chapter 14: each character stands for six pixels, one
    above the other, of one colour; a band of six rows is written once for each colour in it.
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
    """Width and height of a character in pixels, as the terminal reports them or as is usual."""
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
