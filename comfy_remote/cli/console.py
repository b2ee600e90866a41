"""What all commands share in talking to people."""

from __future__ import annotations

import os
import sys
from typing import TextIO

__all__ = ["human_seconds", "human_size", "is_interactive", "printable", "resume_command", "say"]


def is_interactive(stream: TextIO) -> bool:
    """Whether a person watches a terminal that can redraw lines."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """Text that came from elsewhere, without what would steer the terminal.

    Line breaks stay; other control characters become U+FFFD.
    """
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def say(text: str) -> None:
    """A line on standard error."""
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
