"""What all commands share in talking to people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO, cast

from ..clean import clean, one_line
from ..secrets import redact
from ..types import with_texts

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = [
    "human_seconds",
    "human_size",
    "is_interactive",
    "print_json",
    "printable",
    "printable_line",
    "resume_command",
    "say",
    "say_lines",
]


def is_interactive(stream: TextIO) -> bool:
    """Whether a person watches a terminal that can redraw lines."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """Text that came from elsewhere, without secrets and what would steer the terminal."""
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
    """One JSON object, a line on standard output, without secrets; advice names our flags.

    ASCII, whatever the console's encoding; at once, for who reads a pipe.
    """
    from .advice import for_terminal

    worded = with_texts(cast("JsonValue", dict(data)), for_terminal)
    print(redact(json.dumps(worded)), flush=True)


def say(text: str) -> None:
    """A line on standard error."""
    print(printable_line(text), file=sys.stderr, flush=True)


def say_lines(text: str) -> None:
    """Several lines on standard error; line breaks within what came from elsewhere stay."""
    print(printable(text), file=sys.stderr, flush=True)


def human_size(size: float) -> str:
    """Bytes as people write them: ``812 B``, ``3.4 MB``."""
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.{0 if size >= 100 else 1}f} {unit}"
    return f"{size / 1000:.1f} TB"


def human_seconds(seconds: float) -> str:
    """A duration: ``0.8 s``, ``42 s``, ``3:07``, ``1:02:09``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def resume_command(job_id: str) -> str:
    """What to type to take the job up again."""
    return f"comfy-remote jobs resume {job_id}"
