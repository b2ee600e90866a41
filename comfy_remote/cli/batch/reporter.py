"""What a command reports while it drives or watches a batch, as JSON lines or plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...batch.events import (
    BatchEvent,
    GoesOn,
    Noted,
    RunBegan,
    RunEnded,
    RunFetches,
    RunProgress,
    RunSends,
    Stopped,
    Waits,
)
from ...events import event_to_json
from ...jobs.record import BatchState
from ...units import counted, seconds_text
from ..console import print_json, say
from ..errors import explain
from ..reporter import LINES_VERSION, JsonReporter, Pace, PlainReporter, Reporter, relative
from .words import batch_command, ending, failure_of, sheet_of

if TYPE_CHECKING:
    from ...batch.manifest import RunLine
    from ...jobs.record import BatchEntry
    from ...types import JsonValue
    from .tally import Tally

__all__ = [
    "BatchReporter",
    "JsonBatchReporter",
    "PlainBatchReporter",
    "Planned",
    "QuietBatchReporter",
    "ended_json",
    "make_reporter",
]

_MOST_FAILURES = 10
_PROGRESS_EVERY = 10.0
_SILENCE = 18.0


@dataclass(frozen=True, slots=True)
class Planned:
    """What a batch would be.

    Attributes:
        lines: For people.
        data: For programs: what ``batch_planned`` has.
        dry: Whether that is all.
    """

    lines: Sequence[str]
    data: Mapping[str, JsonValue]
    dry: bool


class BatchReporter(Reporter):
    """Called at each step of a batch; does nothing by itself."""

    def planned(self, plan: Planned) -> None:
        """What the batch would be; nothing has been sent."""

    def reading(self, files: int) -> None:
        """So many of its input files have been read."""

    def begins(self, tally: Tally) -> None:
        """It is driven, or watched, from now on: what `happened` is counted there."""

    def in_background(self, entry: BatchEntry) -> None:
        """Another process drives it, and nobody waits for it: the command ends well."""

    def happened(self, event: BatchEvent) -> None:
        """Something did, and is counted already."""

    def stopped(self, stopped: Stopped, failed: Sequence[RunLine]) -> None:
        """The last: it has ended, was cancelled, or is paused."""


class PlainBatchReporter(PlainReporter, BatchReporter):
    """Where nobody watches: lines on standard error, the outputs' paths on standard output.

    At least every twenty seconds there is a line.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._tally: Tally | None = None
        self._pace = Pace(_PROGRESS_EVERY)
        self._failures: set[int] = set()

    def planned(self, plan: Planned) -> None:
        for line in plan.lines:
            self.note(line)

    def reading(self, files: int) -> None:
        self._doing = f"reading the input files, {files} so far"

    def begins(self, tally: Tally) -> None:
        self._tally = tally
        entry = tally.entry
        if not tally.to_do:
            return  # it was over before; how it ended follows
        self.note(
            f"Batch {entry.name} ({entry.id[:8]}) on {entry.target}: "
            f"{counted(tally.left, 'run')} to go, into {relative(entry.folder)}."
        )

    def in_background(self, entry: BatchEntry) -> None:
        """The id, alone on standard output."""
        print(entry.id, flush=True)
        self.note(
            f"Batch {entry.name} runs in the background. See how far it is: "
            f"{batch_command('watch', entry)}"
        )

    def happened(self, event: BatchEvent) -> None:
        match event:
            case RunEnded(line):
                self._print_paths(line)
                if line.state == "succeeded":
                    took = "" if line.seconds is None else f" in {seconds_text(line.seconds)}"
                    files = counted(len(line.outputs), "file")
                    self._say(f"{self._counts()} {line.run}{took}, {files}.")
                else:
                    self._say(f"{self._counts()} {self._failure(line)}")
                for problem in line.problems:
                    self._say(f"Warning: {line.run}: {problem}")
            case Waits(why):
                self._say(f"Waiting: {why}")
            case GoesOn():
                self._say("Going on.")
            case Noted(message, warning):
                self._say(f"Warning: {message}" if warning else message)
            case _:
                if self._tally is not None and self._pace.due():
                    self._say(self._tally.sentence())

    def waiting(self) -> None:
        """A line if there was none for long."""
        if self._tally is None:
            super().waiting()
        elif self._clock() - self._said >= _SILENCE:
            self._say(self._tally.sentence())

    def stopped(self, stopped: Stopped, failed: Sequence[RunLine]) -> None:
        for line in self._closing(stopped, failed):
            say(line)

    def _closing(self, stopped: Stopped, failed: Sequence[RunLine]) -> list[str]:
        # What has failed since the command began has been said.
        earlier = [line for line in failed if line.row not in self._failures]
        return closing_lines(stopped, earlier, self._tally)

    def _failure(self, line: RunLine) -> str:
        self._failures.add(line.row)
        return failure_of(line)

    def _counts(self) -> str:
        tally = self._tally
        return "" if tally is None else f"[{tally.count - tally.left}/{tally.count}]"

    def _print_paths(self, line: RunLine) -> None:
        if self._tally is not None:
            for output in line.outputs:
                print(relative(self._tally.entry.folder / output["file"]), flush=True)


class QuietBatchReporter(PlainBatchReporter):
    """Where nobody wants to know: the outputs' paths, and what is wrong."""

    def note(self, message: str) -> None:
        pass

    def waiting(self) -> None:
        pass

    def happened(self, event: BatchEvent) -> None:
        match event:
            case RunEnded(line):
                self._print_paths(line)
                if line.state != "succeeded":
                    say(self._failure(line))
                for problem in line.problems:
                    say(f"Warning: {line.run}: {problem}")
            case Noted(message, True):
                say(f"Warning: {message}")

    def stopped(self, stopped: Stopped, failed: Sequence[RunLine]) -> None:
        if stopped.entry.state is not BatchState.ENDED or stopped.entry.failed:
            super().stopped(stopped, failed)


class JsonBatchReporter(JsonReporter, BatchReporter):
    """One JSON object a line on standard output, each with the batch's id.

    All of them, with their keys, are in ``json_lines.schema.json``.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        quiet: bool = False,
        write: Callable[[Mapping[str, object]], None] = print_json,
    ) -> None:
        super().__init__(clock, quiet=quiet, write=write)
        self._tally: Tally | None = None
        self._batch_id: str | None = None

    def note(self, message: str) -> None:
        """``{"event": "log", "level": "info", "message"}``."""
        if not self._quiet:
            self._print({"event": "log", "level": "info", "message": message})

    def planned(self, plan: Planned) -> None:
        """``{"event": "batch_planned", …}``."""
        if plan.dry or not self._quiet:
            self._print({"event": "batch_planned", "dry_run": plan.dry, **plan.data})

    def begins(self, tally: Tally) -> None:
        """``{"event": "batch", "name", "target", "source", "folder", "state", …counts}``."""
        self._tally, self._batch_id = tally, tally.entry.id
        self._print({"event": "batch", **_entry_json(tally.entry), **tally.to_json()})

    def in_background(self, entry: BatchEntry) -> None:
        """``{"event": "batch_left", …}``."""
        self._batch_id = entry.id
        self._print({"event": "batch_left", **_entry_json(entry)})

    def happened(self, event: BatchEvent) -> None:
        """``run_began``, ``run_progress``, ``run_ended``, ``batch_waits``, ``batch_goes_on``."""
        if self._quiet and not isinstance(event, RunEnded):
            return
        match event:
            case RunBegan():
                self._print(
                    {
                        "event": "run_began",
                        "row": event.row,
                        "values": dict(event.values),
                        "attempt": event.attempt,
                        "resumed": event.resumed,
                    },
                    event.job,
                )
            case RunProgress(row, progress):
                data = {**event_to_json(progress), "event": "run_progress", "row": row}
                self._print(data, self._job_of(row))
            case RunSends(row, sent, total):
                data = {"event": "run_sends", "row": row, "sent": sent, "total": total}
                self._print(data, self._job_of(row))
            case RunFetches(row, received):
                data = {"event": "run_fetches", "row": row, "received": received}
                self._print(data, self._job_of(row))
            case RunEnded(line):
                self._print({"event": "run_ended", "line": line.to_json()}, line.job)
                if self._tally is not None and not self._quiet:
                    self._print({"event": "batch_progress", **self._tally.to_json()})
            case Waits(why):
                self._print({"event": "batch_waits", "why": why})
            case GoesOn():
                self._print({"event": "batch_goes_on"})
            case Noted(message, warning):
                level = "warning" if warning else "info"
                self._print({"event": "log", "level": level, "message": message})

    def waiting(self) -> None:
        """``batch_progress``, if there was no line for long."""
        if self._tally is not None and not self._quiet and self._clock() - self._said >= _SILENCE:
            self._print({"event": "batch_progress", **self._tally.to_json()})

    def stopped(self, stopped: Stopped, failed: Sequence[RunLine]) -> None:
        """``{"event": "batch_ended", …}``, the last."""
        self._print(ended_json(stopped, failed, self._tally))

    def _job_of(self, row: int) -> str | None:
        run = None if self._tally is None else self._tally.running.get(row)
        return None if run is None else run.job

    def _print(self, data: Mapping[str, object], job_id: str | None = None) -> None:
        self._said = self._clock()
        whose = {"batch_id": self._batch_id, "job_id": job_id, "version": LINES_VERSION}
        self._write({**data, **whose})


def ended_json(
    stopped: Stopped, failed: Sequence[RunLine], tally: Tally | None
) -> dict[str, object]:
    """``batch_ended``, the last line of a batch."""
    entry, sheet = stopped.entry, sheet_of(stopped.entry)
    return {
        "event": "batch_ended",
        **_entry_json(entry),
        "why": entry.why,
        "count": entry.count,
        "succeeded": entry.succeeded,
        "failed": entry.failed,
        "cancelled": entry.cancelled,
        "left": entry.left,
        "cached": 0 if tally is None else tally.cached,
        "saved": 0 if tally is None else round(tally.saved, 6),
        "seconds": None if tally is None else round(tally.seconds, 3),
        "cost": None if tally is None or tally.cost is None else round(tally.cost, 6),
        "failed_runs": [line.run for line in failed],
        "sheet": None if sheet is None else str(sheet),
        "error": None if stopped.error is None else stopped.error.to_json(),
        "command": _next_command(stopped),
    }


def _entry_json(entry: BatchEntry) -> dict[str, JsonValue]:
    return {
        "name": entry.name,
        "target": entry.target,
        "source": entry.source,
        "folder": str(entry.folder),
        "state": entry.state.value,
    }


def _next_command(stopped: Stopped) -> str | None:
    """What runs the rest of it; ``None`` if nothing is left."""
    entry, error = stopped.entry, stopped.error
    if entry.state in (BatchState.PAUSED, BatchState.RUNNING, BatchState.WAITING):
        capped = error is not None and error.details.get("span") == "batch"
        return batch_command("resume", entry) + (" --cap DOLLARS" if capped else "")
    return batch_command("retry", entry) if entry.failed or entry.cancelled else None


def closing_lines(stopped: Stopped, failed: Sequence[RunLine], tally: Tally | None) -> list[str]:
    """What people read at the end: how it stands, what failed, and what to do next."""
    entry = stopped.entry
    lines = [failure_of(line) for line in failed[:_MOST_FAILURES]]
    if len(failed) > _MOST_FAILURES:
        lines.append(f"… and {len(failed) - _MOST_FAILURES} more: {batch_command('show', entry)}")
    if tally is not None:
        lines.append(ending(stopped, tally))
    if stopped.error is not None and (advice := explain(stopped.error)[1:]):
        lines += advice
    lines.append(f"Outputs: {relative(entry.folder)}")
    if (sheet := sheet_of(entry)) is not None:
        lines.append(f"Sheet: {relative(sheet)}")
    if (command := _next_command(stopped)) is not None:
        again = "Run what failed again" if entry.state.final else "Go on with it"
        lines.append(f"{again}: {command}")
    return lines


def make_reporter(*, json_lines: bool, quiet: bool) -> BatchReporter:
    """JSON if it is wanted, a live display at a terminal, else plain lines."""
    import logging

    from ..console import is_interactive

    if json_lines:
        return JsonBatchReporter(quiet=quiet)
    if quiet:
        return QuietBatchReporter()
    # Log lines would break a live display.
    if is_interactive(sys.stderr) and not logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
        from .live import LiveBatchReporter

        return LiveBatchReporter()
    return PlainBatchReporter()
