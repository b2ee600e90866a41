"""Options that several commands share, and what they decide."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from .reporter import Reporter

__all__ = ["json_option", "make_reporter", "preview_option", "timeout_option"]

timeout_option = click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop waiting after this long. The job goes on, and can be resumed.",
)
preview_option = click.option(
    "--preview/--no-preview", default=True, help="Show pictures in the terminal."
)
json_option = click.option(
    "--json", "json_lines", is_flag=True, help="Print JSON, one object a line."
)


def make_reporter(*, json_lines: bool, preview: bool) -> Reporter:
    """JSON if it is wanted, a live display for who sits at a terminal, else plain lines."""
    from .console import is_interactive

    if json_lines:
        from .reporter import JsonReporter

        return JsonReporter(previews=preview)
    if is_interactive(sys.stderr):
        from .live import LiveReporter

        return LiveReporter(pictures=preview)
    from .plain import PlainReporter

    return PlainReporter()
