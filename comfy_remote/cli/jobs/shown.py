"""Jobs as people and programs are shown them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...types import JsonValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Column
    from rich.text import Text

    from ...jobs.record import BatchEntry, JobEntry, Record
    from ...jobs.status import JobStatus
    from ...targets.route.journal import Step

__all__ = [
    "present",
    "progress_of",
    "result_of",
    "state_of",
    "step_to_json",
    "table_of",
    "to_json",
    "when",
    "where",
]

_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "expired": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "ended": "green",
    "paused": "yellow",
}
_WIDEST_RESULT = 200


def present(record: Record, entries: Sequence[JobEntry], *, offline: bool) -> list[JobStatus]:
    """How jobs stand now: the targets of those that have not ended are asked."""
    from ...jobs.status import JobStatus, statuses
    from ..interrupt import run_interruptible

    # Importing an HTTP stack takes longer than all the rest.
    if offline or all(entry.state.final for entry in entries):
        return [JobStatus(entry) for entry in entries]
    return run_interruptible(statuses(record, entries))


def state_of(job: JobStatus) -> str:
    """A word."""
    return "unknown" if job.unknown else job.entry.state.value


def result_of(job: JobStatus) -> str:
    """What came of it, or how far it is, in a few words."""
    from ...units import counted, seconds_text

    entry = job.entry
    if entry.error is not None:
        return " ".join(entry.error.message.split())[:_WIDEST_RESULT]
    if entry.outputs:
        took = "" if entry.run_seconds is None else f", {seconds_text(entry.run_seconds)}"
        if entry.cached is not None:
            from ...jobs.cache.hit import cached_sentence

            took = f", {cached_sentence(entry.cached, entry.created)}"
        return counted(len(entry.outputs), "file") + took
    if job.unknown:
        return job.unknown
    if entry.owed and entry.state.final:
        return "not fetched yet"
    return progress_of(entry)


def progress_of(entry: JobEntry) -> str:
    """How far a job is, as last recorded: ``3 of 9 nodes``; empty where that is not known."""
    if not entry.progress or entry.state.final:
        return ""
    return f"{entry.progress.get('nodes_done')} of {entry.progress.get('nodes_total')} nodes"


def table_of(
    jobs: Iterable[JobStatus], batches: Iterable[BatchEntry] = (), limit: int | None = None
) -> tuple[list[Column | str], list[tuple[str | Text, ...]]]:
    """The columns and rows of a list of jobs, and of batches among them, each a line.

    Args:
        limit: How many rows; the newest.
    """
    from rich.table import Column
    from rich.text import Text

    columns: list[Column | str] = [
        Column("Job", min_width=8, no_wrap=True),
        Column("Sent", min_width=11, no_wrap=True),
        Column("State", min_width=9, no_wrap=True),
        Column("Target", overflow="ellipsis", no_wrap=True),
        Column("Workflow", overflow="ellipsis", no_wrap=True),
        Column("Result", overflow="ellipsis", no_wrap=True),
    ]
    rows: list[tuple[float, tuple[str, str, str, str, str]]] = [
        (
            job.entry.created,
            (
                job.entry.id[:8],
                state_of(job),
                where(job.entry),
                Path(job.entry.source).name + _marks(job.entry),
                result_of(job),
            ),
        )
        for job in jobs
    ]
    rows += [
        (
            entry.created,
            (
                entry.id[:8],
                entry.state.value,
                entry.target,
                f"batch {entry.name}",
                _progress_of_batch(entry),
            ),
        )
        for entry in batches
    ]
    rows.sort(key=lambda row: row[0], reverse=True)
    return columns, [
        (name, when(created)[5:16], Text(state, _STYLES.get(state, "")), *rest)
        for created, (name, state, *rest) in rows[:limit]
    ]


def _progress_of_batch(entry: BatchEntry) -> str:
    failed = f", {entry.failed} failed" if entry.failed else ""
    return f"{entry.count - entry.left} of {entry.count} runs{failed}"


def _marks(entry: JobEntry) -> str:
    batch = " (of a batch)" if entry.batch else ""
    return f"{batch} (attempt {entry.attempt})" if entry.attempt > 1 else batch


def to_json(job: JobStatus) -> dict[str, JsonValue]:
    """A job for programs."""
    entry = job.entry
    return {
        "job_id": entry.id,
        "state": state_of(job),
        "last_state": entry.state.value,
        "unknown": job.unknown or None,
        "target": entry.target,
        "member": entry.member,
        "source": entry.source,
        "created": entry.created,
        "updated": entry.updated,
        "run_seconds": entry.run_seconds,
        "folder": str(entry.folder) if entry.folder else None,
        "remote_id": entry.ref.remote_id if entry.ref else None,
        "progress": entry.progress,
        "error": entry.error.to_json() if entry.error else None,
        "outputs": [output.to_json() for output in entry.outputs],
        "attempt": entry.attempt,
        "first_attempt": entry.first,
        "batch": entry.batch,
        "cached": entry.cached,
    }


def step_to_json(step: Step) -> dict[str, JsonValue]:
    """One time that a route sent a job to a member, for programs."""
    return {
        "number": step.number,
        "member": step.member,
        "state": step.state.value,
        "at": step.at,
        "why": step.why,
        "decision": [*step.decision],
    }


def where(entry: JobEntry) -> str:
    """Its target, and of a route the member that has it: ``any (gpu)``."""
    return entry.target if entry.member is None else f"{entry.target} ({entry.member})"


def when(seconds: float) -> str:
    """A moment in local time: ``2026-11-30 18:05:00``."""
    from datetime import datetime, timezone

    moment = datetime.fromtimestamp(seconds, timezone.utc).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")
