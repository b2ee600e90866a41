"""What the commands say of a batch: how to call one, how it ended, what it would do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...batch.manifest import MANIFEST, read_manifest
from ...errors import ExecutionFailed, JobCancelled
from ...jobs.record import BatchState
from ...targets.own_command import own_command
from ...units import counted, dollars, seconds_text
from ..advice import shell_quoted
from ..follow import INCOMPLETE

if TYPE_CHECKING:
    from ...batch.events import Stopped
    from ...batch.manifest import RunLine
    from ...batch.plan import Axis
    from ...jobs.record import BatchEntry
    from .tally import Tally

__all__ = [
    "axes_lines",
    "batch_command",
    "ending",
    "exit_status",
    "failed_of",
    "failure_of",
    "heading",
    "progress_text",
    "sheet_of",
]

_MOST_VALUES = 4
_MOST_AXES = 12


def batch_command(word: str, entry: BatchEntry) -> str:
    """The command that does something with a batch: ``comfy-remote batch resume portrait``."""
    return f"{own_command()} batch {word} {shell_quoted(entry.name)}"


def heading(count: int, axes: Sequence[Axis], target: str, combinations: int, repeat: int) -> str:
    """What a batch is, in a sentence."""
    product = " x ".join(f"{', '.join(axis.names)} ({axis.count})" for axis in axes[:_MOST_AXES])
    if len(axes) > _MOST_AXES:
        product += " x …"
    if repeat > 1:
        product = f"{product} x {repeat} seeds each" if axes else f"{repeat} seeds"
    if count != combinations * repeat:
        product += f", {counted(count // repeat, 'sample')} of {combinations:,}"
    what = f": {product}" if product else ""
    return f"{count:,} run{'' if count == 1 else 's'} on {target}{what}."


def axes_lines(axes: Sequence[Axis]) -> list[str]:
    """What varies, a line each, what changes least often first."""
    from .tally import values_text

    lines = []
    for axis in axes[:_MOST_AXES]:
        shown = [values_text(axis.at(index)) for index in range(min(axis.count, _MOST_VALUES))]
        if len(axis.names) == 1:
            shown = [text.partition("=")[2] for text in shown]
        more = ", …" if axis.count > len(shown) else ""
        # Texts with commas in them would run into each other.
        separator = "; " if len(axis.names) > 1 or "," in "".join(shown) else ", "
        lines.append(f"  {', '.join(axis.names)}: {separator.join(shown)}{more}")
    if len(axes) > _MOST_AXES:
        lines.append(f"  and {len(axes) - _MOST_AXES} more")
    return lines


def sheet_of(entry: BatchEntry) -> Path | None:
    """Its sheet, if that is made."""
    path = entry.folder / "sheet.html"
    return path if path.is_file() else None


def progress_text(entry: BatchEntry) -> str:
    """``12 of 48``, with what failed."""
    done = entry.count - entry.left
    parts = [f"{done} of {entry.count}"]
    parts += [
        f"{number} {word}"
        for number, word in ((entry.failed, "failed"), (entry.cancelled, "cancelled"))
        if number
    ]
    return ", ".join(parts)


def ending(stopped: Stopped, tally: Tally) -> str:
    """How it stands at the end of a command, in a sentence."""
    entry = stopped.entry
    good = f"{entry.succeeded} of {counted(entry.count, 'run')} succeeded"
    bad = "".join(
        f", {number} {word}"
        for number, word in ((entry.failed, "failed"), (entry.cancelled, "were cancelled"))
        if number
    )
    cost = "" if tally.cost is None else f", {dollars(tally.cost)}"
    took = f" in {seconds_text(tally.seconds)}" if tally.to_do else ""
    cached = f", {tally.cached} of them from the cache" if tally.cached else ""
    saved = f", {dollars(tally.saved)} saved" if tally.saved else ""
    counts = f"{good}{bad}{took}{cached}{cost}{saved}."
    match entry.state:
        case BatchState.ENDED:
            return f"Done: {counts}"
        case BatchState.CANCELLED:
            return f"Cancelled: {counts}"
        case BatchState.PAUSED:
            why = stopped.error.message if stopped.error is not None else entry.why or ""
            return f"Paused: {counts} {why}".rstrip()
        case _:
            return f"The program that ran it has ended: {counts}"


def failed_of(entry: BatchEntry) -> list[RunLine]:
    """The runs of a batch that have failed, by row. Blocking."""
    if not entry.failed:
        return []
    lines = read_manifest(entry.folder / MANIFEST)
    return [lines[row] for row in sorted(lines) if lines[row].state == "failed"]


def failure_of(line: RunLine) -> str:
    """Why a run failed, in a line."""
    error = line.error or {}
    words = " ".join(str(error[name]) for name in ("message", "advice") if error.get(name))
    return f"{line.run} {line.state}: {' '.join(words.split())}".rstrip(": ")


def exit_status(stopped: Stopped) -> int:
    """The command's: 0 if all runs succeeded.

    Else that of what stopped it, of failed runs, of a cancel, or of something incomplete.
    """
    entry = stopped.entry
    if stopped.error is not None:
        return stopped.error.exit_status
    match entry.state:
        case BatchState.CANCELLED:
            return JobCancelled.exit_status
        case BatchState.ENDED:
            if entry.failed:
                return ExecutionFailed.exit_status
            return JobCancelled.exit_status if entry.cancelled else 0
        case _:
            return ExecutionFailed.exit_status if entry.failed else INCOMPLETE
