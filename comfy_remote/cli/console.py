"""How all commands print to a terminal or a pipe."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO, cast

from ..clean import clean, one_line
from ..secrets import redact
from ..types import JsonValue, with_texts

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

__all__ = [
    "fits",
    "is_interactive",
    "json_text",
    "print_document",
    "print_json",
    "print_table",
    "printable",
    "printable_line",
    "redraw",
    "resume_command",
    "say",
    "say_lines",
    "table",
    "wrapped",
]

# No line of a table is folded in a pipe, however long an address or a path in it.
_PIPED_WIDTH = 10_000
_GAP = "  "
_LEAST_OF_A_SENTENCE = 16
# What is copied stays in one piece: what is in backticks, and a command at the end of a line.
_PIECES = re.compile(r"\S*`[^`]*`\S*|(?<=: )comfy-(?:run-)?remote .*|\S+")


def is_interactive(stream: TextIO) -> bool:
    """Whether a person watches a terminal that can redraw lines."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """Text from elsewhere, without secrets and without what would control the terminal."""
    return clean(redact(_worded(text)))


def printable_line(text: str) -> str:
    """`printable`, in one line: a name with a line break in it must not look like two."""
    return one_line(redact(_worded(text)))


def _worded(text: str) -> str:
    if type(text) is str:
        return text
    from .advice import for_terminal

    return for_terminal(text)


def print_json(data: Mapping[str, object]) -> None:
    """One JSON object, a line on standard output: `json_text`. Flushed, for readers of a pipe."""
    print(json_text(data), flush=True)


def print_document(data: Mapping[str, object]) -> None:
    """One JSON document for people and files, without secrets."""
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    print(redact(json.dumps(data, indent=2, ensure_ascii=ascii_only)), flush=True)


def json_text(data: Mapping[str, object]) -> str:
    """One JSON object in a line, without secrets; advice names our flags.

    ASCII, whatever the console's encoding.
    """
    from .advice import for_terminal

    worded = with_texts(cast("JsonValue", dict(data)), for_terminal)
    return redact(json.dumps(worded))


def print_table(
    columns: Sequence[Column | str],
    rows: Iterable[Sequence[str | Text]],
    may_be_cut: Collection[str] = (),
    sentences: Collection[str] = (),
) -> None:
    """Print a table; in a pipe, one row a line, for grep.

    Where it is wider than the terminal, sentences go below their rows, and if that is not enough,
    each row is a few lines, a cell a line: nothing that a person may want to copy is cut or split.

    Args:
        may_be_cut: The headings of columns with sentences, which may lose their ends first.
        sentences: Those of columns with sentences that are read whole: somebody says yes to them.
    """
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(highlight=False, width=None if terminal else _PIPED_WIDTH)
    made = table(columns, rows)
    if fits(made, console, may_be_cut):
        console.print(made)
        return
    below = {*may_be_cut, *sentences}
    if _print_with_sentences_below(made, console, below):
        return
    for cells in zip(*(column.cells for column in made.columns), strict=True):
        headings = [str(column.header) for column in made.columns]
        _print_record(console, headings, cast("Sequence[Text]", cells), below)


def fits(made: Table, console: Console, may_be_cut: Collection[str] = ()) -> bool:
    """Whether a terminal has room for a table with no cell cut or folded.

    Columns that ``may_be_cut`` are narrowed for that, to no less than a few words.
    """
    from rich.measure import Measurement

    unlimited = console.options.update(width=_PIPED_WIDTH)
    excess = Measurement.get(console, unlimited, made).maximum - console.width
    for column in made.columns:
        if column.header in may_be_cut and excess > 0:
            widest = max(Measurement.get(console, unlimited, cell).maximum for cell in column.cells)
            column.width = max(widest - excess, min(widest, _LEAST_OF_A_SENTENCE))
            column.no_wrap, column.overflow = True, "ellipsis"
            excess -= widest - column.width
    return excess <= 0


def _print_with_sentences_below(made: Table, console: Console, sentences: Collection[str]) -> bool:
    """Print each row in a line, and below it what has no room: the last cell, or the last two.

    Returns:
        ``False`` if that needs a wider terminal, too, or the last column is none of sentences.
    """
    from rich.text import Text

    if made.columns[-1].header not in sentences:
        return False
    cells = [
        [Text(str(column.header)), *cast("list[Text]", [*column.cells])] for column in made.columns
    ]
    widths = [max(cell.cell_len for cell in column) for column in cells]
    last = next((n for n in (-1, -2) if _width(widths[:n]) <= console.width), None)
    if last is None:
        return False
    for number, row in enumerate(zip(*cells, strict=True)):
        line = Text(style="bold" if number == 0 else "")
        for cell, width in zip(row[:last], widths, strict=False):
            line.append_text(cell).append(" " * (width - cell.cell_len) + _GAP)
        rest = " · ".join(cell.plain for cell in row[last:] if cell.plain)
        beside = number == 0 or line.cell_len + len(rest) <= console.width
        if beside:
            line.append(rest)
        line.rstrip()
        console.print(line, soft_wrap=True)
        if not beside:
            below = wrapped(rest, widths[0] + len(_GAP), console.width)
            console.print(Text(below, "dim"), soft_wrap=True)
    return True


def _width(columns: Sequence[int]) -> int:
    return sum(columns) + len(_GAP) * (len(columns) - 1)


def wrapped(text: str, indent: int = 0, columns: int | None = None) -> str:
    """Text with its lines broken between words, all of them after ``indent`` blanks.

    Addresses, paths and commands stay whole: the terminal wraps what is longer than a line.

    Args:
        columns: The terminal's, by default as it says.
    """
    import shutil

    width = (columns or shutil.get_terminal_size().columns) - indent
    if len(text) <= width:
        return " " * indent + text
    lines: list[str] = []
    for piece in _PIECES.findall(text):
        if lines and len(lines[-1]) + 1 + len(piece) <= width:
            lines[-1] += f" {piece}"
        else:
            lines.append(piece)
    return "\n".join(" " * indent + line for line in lines)


def _print_record(
    console: Console, headings: Sequence[str], cells: Sequence[Text], sentences: Collection[str]
) -> None:
    """One row of a table: its first cell, and the others below it.

    Sentences are broken between words, and nothing else: what the terminal itself wraps is one line
    for whoever copies it.
    """
    from rich.text import Text

    indent = max(map(len, headings)) + 4
    for number, (heading, cell) in enumerate(zip(headings, cells, strict=True)):
        label = heading if number == 0 else f"  {heading}"
        if heading in sentences:
            cell = Text(wrapped(cell.plain, columns=console.width - indent))
        for line in cell.split("\n"):
            if line.plain:
                text = Text.assemble((label.ljust(indent), "dim"), line)
                console.print(text, style="bold" if number == 0 else "", soft_wrap=True)
                label = ""


def table(columns: Sequence[Column | str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A table in our style.

    Text in a cell may have come from elsewhere: what would control the terminal is removed.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for row in rows:
        made.add_row(
            *(cell if isinstance(cell, Text) else Text(printable_line(cell)) for cell in row)
        )
    return made


def say(text: str) -> None:
    """A line on standard error; in a terminal, broken between words, unless it is indented."""
    line = printable_line(text)
    if is_interactive(sys.stderr) and not line.startswith(" "):
        line = wrapped(line)
    print(line, file=sys.stderr, flush=True)


def say_lines(text: str) -> None:
    """Several lines on standard error; line breaks in text from elsewhere stay."""
    print(printable(text), file=sys.stderr, flush=True)


def redraw(message: str, columns: int | None = None) -> None:
    """Show one line on standard error in place of the last one; nothing if it is empty.

    Blanks erase the last one: old consoles of Windows show escape codes as they are.

    Args:
        columns: The terminal's, by default as it says.
    """
    import shutil

    from rich.cells import set_cell_size

    columns = columns or shutil.get_terminal_size().columns
    line = set_cell_size(printable_line(message), columns - 1)
    print(f"\r{line}" if message else f"\r{line}\r", end="", file=sys.stderr, flush=True)


def resume_command(job_id: str) -> str:
    """The command that resumes a job."""
    from ..targets.own_command import own_command  # not for --help

    return f"{own_command()} jobs resume {job_id}"
