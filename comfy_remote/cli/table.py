"""Tables on standard output: every command draws them here."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Column
    from rich.text import Text

__all__ = ["print_table"]

# No line of a table is folded in a pipe, however long an address or a path in it.
_PIPED_WIDTH = 10_000


def print_table(columns: Sequence[Column | str], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table as wide as the terminal; piped, it is for grep: a row a line.

    Args:
        columns: Headings, or columns with a heading and a layout.
        rows: A cell for each column. Texts may have come from elsewhere: what would steer the
            terminal is taken out.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .console import printable_line

    terminal = sys.stdout.isatty()
    console = Console(highlight=False, width=None if terminal else _PIPED_WIDTH)
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(
            *(cell if isinstance(cell, Text) else Text(printable_line(cell)) for cell in row)
        )
    console.print(table)
