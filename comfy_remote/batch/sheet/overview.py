"""``sheet.png``: the whole sheet as one picture with labels, for those who only look."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...clean import one_line
from ...media.files import storage_errors, written_whole
from ...media.images import decoding_errors
from ...types import JsonValue
from ...units import counted
from .page_data import as_script, default_view
from .reading import Batch, Output, Run
from .thumbnails import THREADS, Thumbnails

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

__all__ = ["OVERVIEW", "write_overview"]

OVERVIEW = "sheet.png"
LONGEST = 8000
"""Pixels of its longer side."""
MOST_PIXELS = 16_000_000
_LARGEST, _SMALLEST = 256, 64  # pixels across of a cell's picture
_GAP = 8
_MARGIN = 20
_LABEL = 200
_HEAD = 34
_TITLE = 64
_CAPTION = 36
_READABLE = 112  # pixels across of a cell with a caption

_GROUND, _CARD, _LINE = "#f6f6f4", "#ffffff", "#d9d9d4"
_TEXT, _QUIET, _BAD, _GOOD = "#1c1e21", "#5b6068", "#b3261e", "#137a46"


@dataclass(frozen=True, slots=True)
class _Line:
    label: str
    note: str
    cells: list[int | None]  # indexes of runs


@dataclass(slots=True)
class _Layout:
    """What stands where."""

    columns: list[str]
    lines: list[_Line]
    table: bool
    cell: int = _LARGEST
    high: int = _LARGEST
    left_out: int = field(default=0)

    @property
    def label(self) -> int:
        return _LABEL if self.table and any(line.label or line.note for line in self.lines) else 0

    @property
    def head(self) -> int:
        return _HEAD if any(self.columns) else 0

    @property
    def caption(self) -> int:
        return 0 if self.table or self.cell < _READABLE else _CAPTION

    @property
    def size(self) -> tuple[int, int]:
        across = max((len(line.cells) for line in self.lines), default=1)
        width = 2 * _MARGIN + self.label + across * (self.cell + _GAP)
        height = _TITLE + self.head + len(self.lines) * (self.high + self.caption + _GAP) + _MARGIN
        return max(width, 640), height + (24 if self.left_out else 0)


def write_overview(
    batch: Batch, data: dict[str, JsonValue], folder: Path, thumbnails: Thumbnails
) -> list[str]:
    """Draw the sheet, if anything has changed since.

    Its cells are as large as fits `LONGEST` and `MOST_PIXELS`. What does not fit at the smallest
    is left out, and the picture says so.

    Returns:
        What was left out, as sentences.

    Raises:
        LocalStorageError: It cannot be written.
    """
    from PIL import features

    if not features.check("freetype2"):
        return [f"{OVERVIEW} was not made: this Pillow draws no text (it lacks FreeType)."]
    layout = _best(batch, _aspect(batch, thumbnails))
    notes = []
    if layout.left_out:
        notes.append(
            f"{OVERVIEW} shows the first part; {counted(layout.left_out, 'run')} are left out."
        )
    path = folder / OVERVIEW
    shown = {name: data[name] for name in ("name", "count", "axes", "runs", "keeps")}
    mark = hashlib.sha256(as_script(shown).encode()).hexdigest()
    if _has_mark(path, mark):
        return notes
    picture = _drawn(batch, layout, thumbnails)
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_text(_MARK, mark)
    with storage_errors(path), written_whole(path) as beside:
        picture.save(beside, "PNG", pnginfo=about, compress_level=3)
    return notes


_MARK = "comfy-remote-sheet"


def _has_mark(path: Path, mark: str) -> bool:
    """Whether a picture of ours was made of the same; the text stands before its pixels."""
    try:
        with path.open("rb") as file:
            return f"{_MARK}\0{mark}".encode() in file.read(1024)
    except OSError:
        return False


# -- What stands where -----------------------------------------------------------------------------


def _best(batch: Batch, aspect: float) -> _Layout:
    """The page's own table if all of it fits; else the one that leaves out the least."""
    rows, columns = default_view(batch)
    if columns is None:
        return _fitted(_Layout([], _in_lines(len(batch.runs)), table=False), aspect)
    best = _fitted(_table(batch, rows, columns), aspect)
    varying = [n for n, axis in enumerate(batch.axes) if len(axis.values) > 1]
    for other in reversed(varying):
        if best.left_out and other != columns:
            first = next(n for n in varying if n != other)
            tried = _fitted(_table(batch, first, other), aspect)
            best = min(best, tried, key=lambda one: one.left_out)
    return best


def _table(batch: Batch, rows: int | None, columns: int) -> _Layout:
    varying = [n for n, axis in enumerate(batch.axes) if len(axis.values) > 1]
    others = [n for n in varying if n not in (rows, columns)]
    used = sorted({place[columns] for place in batch.places})
    lines: dict[tuple[int, ...], list[int | None]] = {}
    for number, place in enumerate(batch.places):
        outer = (*((place[rows],) if rows is not None else ()), *(place[n] for n in others))
        column = used.index(place[columns])
        for copy in range(len(batch.runs)):
            cells = lines.setdefault((*outer, copy), [None] * len(used))
            if cells[column] is None:
                cells[column] = number
                break
    drawn = []
    for key in sorted(lines):
        inner = [
            f"{_name(batch, n)} {_value(batch, n, at)}"
            for n, at in zip(others, key[1:], strict=False)
        ]
        label = _value(batch, rows, key[0]) if rows is not None else ""
        drawn.append(_Line(label, ", ".join(inner), lines[key]))
    return _Layout([_value(batch, columns, at) for at in used], drawn, table=True)


def _in_lines(count: int) -> list[_Line]:
    across = max(1, math.ceil(math.sqrt(count * 1.4)))
    starts = range(0, count, across)
    return [_Line("", "", [*range(at, min(count, at + across))]) for at in starts]


def _fitted(layout: _Layout, aspect: float) -> _Layout:
    for cell in range(_LARGEST, _SMALLEST - 1, -8):
        layout.cell, layout.high = cell, max(24, round(cell / aspect))
        width, height = layout.size
        if max(width, height) <= LONGEST and width * height <= MOST_PIXELS:
            return layout
    runs = sum(cell is not None for line in layout.lines for cell in line.cells)
    # At the smallest, as many columns and lines as there is room for.
    across = (LONGEST - 2 * _MARGIN - layout.label) // (layout.cell + _GAP)
    layout.columns = layout.columns[:across]
    layout.lines = [_Line(one.label, one.note, one.cells[:across]) for one in layout.lines]
    width = layout.size[0]
    room = min(LONGEST, MOST_PIXELS // width) - _TITLE - layout.head - _MARGIN - 24
    layout.lines = layout.lines[: max(1, room // (layout.high + layout.caption + _GAP))]
    layout.left_out = runs - sum(c is not None for line in layout.lines for c in line.cells)
    return layout


def _aspect(batch: Batch, thumbnails: Thumbnails) -> float:
    """Width by height of what most runs have made."""
    seen: dict[float, int] = {}
    for run in batch.runs:
        output = _shown(run)
        if output is not None and (made := thumbnails.of(output)):
            aspect = round(made.width / made.height, 2)
            seen[aspect] = seen.get(aspect, 0) + 1
    return min(2.4, max(0.45, max(seen, key=lambda one: seen[one]))) if seen else 4 / 3


def _shown(run: Run) -> Output | None:
    ranks = {"image": 0, "video": 1, "audio": 2, "3d": 3, "text": 4}
    return min(run.outputs, key=lambda one: ranks.get(one.kind, 9), default=None)


def _name(batch: Batch, axis: int) -> str:
    return ", ".join(name.rpartition(".")[2] for name in batch.axes[axis].names)


def _value(batch: Batch, axis: int, index: int) -> str:
    values = batch.axes[axis].values
    if not 0 <= index < len(values):
        return "-"
    return " · ".join(_text(one) for one in values[index])


def _text(value: JsonValue) -> str:
    if isinstance(value, float):
        return f"{value:.8g}"
    return value if isinstance(value, str) else str(value)


# -- Drawing ---------------------------------------------------------------------------------------


def _drawn(batch: Batch, layout: _Layout, thumbnails: Thumbnails) -> Image:
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", layout.size, _GROUND)
    draw = ImageDraw.Draw(picture)
    name = batch.file.name or "Batch"
    _write(draw, (_MARGIN, 14), name, 22, _TEXT, layout.size[0] - 2 * _MARGIN)
    _write(draw, (_MARGIN, 40), _summary(batch), 13, _QUIET, layout.size[0] - 2 * _MARGIN)
    step = layout.cell + _GAP
    left, top = _MARGIN + layout.label, _TITLE + layout.head
    size = (layout.cell, layout.high)
    for column, label in enumerate(layout.columns):
        at = (left + column * step + layout.cell // 2, _TITLE + 8)
        _write(draw, at, label, 14, _TEXT, layout.cell, centred=True)
    decoded = partial(_decoded, batch, thumbnails, size)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="overview") as pool:
        for row, line in enumerate(layout.lines):
            y = top + row * (layout.high + layout.caption + _GAP)
            if layout.label:
                words = [(line.label, _TEXT), (line.note, _QUIET)]
                _lines(draw, (_MARGIN, y + 4), words, layout.high)
            # A line at a time, so that few pictures are held.
            for column, small in enumerate(pool.map(decoded, line.cells)):
                number = line.cells[column]
                if number is not None:
                    _cell(picture, draw, batch, number, layout, (left + column * step, y), small)
    if layout.left_out:
        said = f"{counted(layout.left_out, 'more run')}: see sheet.html"
        _write(draw, (_MARGIN, layout.size[1] - 30), said, 14, _QUIET, layout.size[0] - 2 * _MARGIN)
    return picture


def _summary(batch: Batch) -> str:
    states: dict[str, int] = {}
    for run in batch.runs:
        states[run.state] = states.get(run.state, 0) + 1
    said = [counted(batch.count, "run"), *(f"{count} {state}" for state, count in states.items())]
    if missing := batch.count - len(batch.runs):
        said.append(f"{missing} not run yet")
    return " · ".join(one for one in (*said, batch.file.workflow, batch.file.target) if one)


def _cell(
    picture: Image,
    draw: ImageDraw,
    batch: Batch,
    number: int,
    layout: _Layout,
    at: tuple[int, int],
    small: Image | None,
) -> None:
    x, y = at
    wide, high = layout.cell, layout.high
    run, place = batch.runs[number], batch.places[number]
    output = _shown(run)
    if small is not None:
        corner = (x + (wide - small.width) // 2, y + (high - small.height) // 2)
        picture.paste(small, corner, small if small.mode == "RGBA" else None)
    else:
        failed = run.state != "succeeded"
        draw.rectangle((x, y, x + wide - 1, y + high - 1), _CARD, _BAD if failed else _LINE)
        words = [(_suffix(output) if output is not None else run.state, _BAD if failed else _QUIET)]
        if run.error is not None:
            words.append((run.error.message or run.error.code, _BAD))
        _lines(draw, (x + 8, y + 8), words, high - 12, width=wide - 16)
    if run.row in batch.keeps.keep:
        draw.rectangle((x - 3, y - 3, x + wide + 2, y + high + 2), outline=_GOOD, width=3)
    elif run.row in batch.keeps.reject:
        draw.line((x, y, x + wide, y + high), _BAD, 3)
    if layout.caption:
        varying = [n for n, axis in enumerate(batch.axes) if len(axis.values) > 1]
        said = [f"{_name(batch, n)} {_value(batch, n, place[n])}" for n in varying]
        words = [(" · ".join(said) or run.run or f"run {run.row + 1}", _QUIET)]
        _lines(draw, (x, y + high + 2), words, layout.caption, width=wide, size=12)


def _suffix(output: Output) -> str:
    return f"{output.file.rpartition('.')[2].upper()[:8]} ({output.kind})"


def _decoded(
    batch: Batch, thumbnails: Thumbnails, size: tuple[int, int], number: int | None
) -> Image | None:
    """What a run has made, as large as that; ``None`` for a cell without a picture."""
    from PIL import Image, ImageOps

    output = None if number is None else _shown(batch.runs[number])
    made = None if output is None else thumbnails.of(output)
    if made is None:
        return None
    try:
        with Image.open(thumbnails.folder / made.name, formats=("WEBP",)) as opened:
            return ImageOps.contain(opened, size, Image.Resampling.BILINEAR)
    except decoding_errors():
        return None


def _lines(
    draw: ImageDraw,
    at: tuple[int, int],
    words: Sequence[tuple[str, str]],
    high: int,
    *,
    width: int = _LABEL - 16,
    size: int = 14,
) -> None:
    """Texts below each other, broken between words, as far as there is room."""
    x, y = at
    step = size + 3
    end = y + high
    for text, colour in words:
        left = one_line(text)
        font = _font(size, left)
        while left and y + step <= end:
            line, left = _broken(font.getlength, left, width)
            if left and y + 2 * step > end:
                line, left = _clipped(font.getlength, f"{line} {left}", width), ""
            draw.text((x, y), line, colour, font)
            y += step


def _broken(length: Callable[[str], float], text: str, width: int) -> tuple[str, str]:
    """The first line of a text, and the rest."""
    text = text[:2000]
    if length(text) <= width:
        return text, ""
    fits = _fitting_length(length, text, width)
    space = text.rfind(" ", 1, fits + 1)
    cut = space if space > fits // 2 else fits
    return text[:cut].rstrip(), text[cut:].lstrip()


def _fitting_length(length: Callable[[str], float], text: str, width: int) -> int:
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(text[:middle]) <= width else (low, middle - 1)
    return low


def _clipped(length: Callable[[str], float], text: str, width: int) -> str:
    if length(text) <= width:
        return text
    return f"{text[: _fitting_length(length, f'{text}…', width) - 1].rstrip()}…"


def _write(
    draw: ImageDraw,
    at: tuple[int, int],
    text: str,
    size: int,
    colour: str,
    width: int,
    *,
    centred: bool = False,
) -> None:
    text = one_line(text)
    font = _font(size, text)
    draw.text(
        at,
        _clipped(font.getlength, text[:500], width),
        colour,
        font,
        anchor="ma" if centred else None,
    )


def _font(size: int, text: str) -> FreeTypeFont:
    """The first font that has all of a text's characters; else Pillow's own, with boxes."""
    for name in _FONTS:
        font = _loaded(name, size)
        if font is not None and not _lacks(font, text):
            return font
    own = _loaded(_OWN, size)
    assert own is not None  # noqa: S101 (FreeType is there)
    return own


# What systems bring: many scripts; then Chinese, Japanese and Korean on Linux, Windows and macOS.
_OWN = ""
_FONTS = (
    _OWN,
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansJP-Regular.otf",
    "wqy-zenhei.ttc",
    "segoeui.ttf",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
)


@lru_cache(maxsize=128)
def _loaded(name: str, size: int) -> FreeTypeFont | None:
    from PIL import ImageFont

    try:
        font = ImageFont.load_default(size) if name == _OWN else ImageFont.truetype(name, size)
    except OSError:
        return None
    return font if isinstance(font, ImageFont.FreeTypeFont) else None


def _lacks(font: FreeTypeFont, text: str) -> bool:
    """Whether a font draws the same box for a character as for one that no font has."""
    unusual = {one for one in text if not one.isascii()}
    if not unusual:
        return False
    box = bytes(font.getmask("\U0010fffd"))
    return any(bytes(font.getmask(one)) == box for one in unusual if not one.isspace())
