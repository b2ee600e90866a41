"""What takes a while in a terminal: one line that changes, or a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .console import is_interactive, print_json, redraw, say

__all__ = ["Throttle", "progress_shown"]


@contextmanager
def progress_shown(json_lines: bool) -> Iterator[Callable[[str], None]]:
    """Shows progress: on a terminal in one line, else every ten seconds; as JSON, each line."""
    if json_lines:
        yield lambda message: print_json({"event": "progress", "message": message})
    elif is_interactive(sys.stderr):
        try:
            yield redraw
        finally:
            redraw("")
    else:
        yield _Seldom()


class Throttle:
    """Whether so many seconds have passed since it was last due; at first, it is."""

    def __init__(self, seconds: float = 1.0) -> None:
        self._seconds = seconds
        self._next = 0.0

    def due(self) -> bool:
        """Whether it is time again."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


class _Seldom:
    """A line every ten seconds."""

    def __init__(self) -> None:
        self._throttle = Throttle(10.0)

    def __call__(self, message: str) -> None:
        if self._throttle.due():
            say(message)
