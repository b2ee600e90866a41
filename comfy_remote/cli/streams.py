"""Standard streams as commands may expect them: there, and never the reason for a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO, cast

__all__ = ["prepare_streams", "silence_stdout"]


def prepare_streams() -> None:
    """Make the three streams usable, whatever they are at the start.

    A closed one (``2>&-``, a service without a console) is replaced by one that swallows all: its
    number would otherwise go to the next file that is opened, which then gets our messages. What
    cannot be written to standard error, because its disk is full, costs the message and not the
    run. A console that cannot show a character (cp1252) gets its escape.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdin = sys.stdin or _nothing("r")
    sys.stdout = sys.stdout or _nothing("w")
    sys.stderr = sys.stderr or _nothing("w")
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    sys.stderr = cast("TextIO", _Unfailing(sys.stderr))


def silence_stdout() -> None:
    """After standard output has failed: keep its buffer from failing again at the exit."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)


def _nothing(mode: str) -> TextIO:
    return cast("TextIO", open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123


class _Unfailing:
    """A stream that drops what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.flush()
