"""A recorded job as a tool shows it; text from elsewhere is cleaned, shortened and marked."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, cast

from ..clean import cleaned_error, cleaned_text, one_line
from ..errors import ComfyRemoteError, error_from_json
from ..events import JobState
from .advice import for_agent
from .shapes import BatchShown, Cost, External, JobShown, OutputShown, Trouble

if TYPE_CHECKING:
    from ..jobs.record import BatchEntry, JobEntry, SavedOutput
    from ..jobs.record.ledger import Booking
    from .bounds import Bounds

__all__ = ["batch_shown", "external", "job_shown", "output_uri", "outputs_shown", "trouble"]

_LONGEST = 600
_LONGEST_MESSAGE = 2_000


def external(text: str, most: int = _LONGEST) -> External:
    """Text from elsewhere on one line, cleaned, without secrets, and not too long."""
    line = one_line(cleaned_text(text))
    return External(external=line if len(line) <= most else f"{line[:most]} …")


def trouble(error: ComfyRemoteError) -> Trouble:
    """An error, for an agent."""
    copied = cleaned_error(error_from_json(error.to_json()))
    return Trouble(
        code=error.code,
        message=external(copied.message, _LONGEST_MESSAGE),
        what_to_do=external(for_agent(copied.advice), _LONGEST_MESSAGE),
    )


def output_uri(job_id: str, number: int) -> str:
    """The address of an output as a resource."""
    return f"comfy-remote://jobs/{job_id}/outputs/{number}"


def outputs_shown(job_id: str, outputs: Iterable[SavedOutput], bounds: Bounds) -> list[OutputShown]:
    """Saved outputs; only those below the server's folders have an address. Blocking."""
    return [_output(job_id, number, one, bounds) for number, one in enumerate(outputs)]


def _output(job_id: str, number: int, output: SavedOutput, bounds: Bounds) -> OutputShown:
    readable = bounds.may_read(output.path)
    return OutputShown(
        uri=output_uri(job_id, number) if readable else None,
        path=one_line(str(output.path)) if readable else None,
        node=None if output.node_id is None else one_line(output.node_id),
        kind=output.kind,
        media_type=mimetypes.guess_type(output.path.name)[0] or "application/octet-stream",
        filename=external(output.filename),
        size=output.size,
        sha256=output.sha256,
    )


def job_shown(
    entry: JobEntry, booking: Booking | None, bounds: Bounds, *, unknown: str = "", note: str = ""
) -> JobShown:
    """A recorded job. Blocking: it looks at where the outputs are.

    Args:
        booking: What it costs; ``None`` for one that costs nothing.
        unknown: Why its present state is not known.
        note: Something to add.
    """
    outputs = outputs_shown(entry.id, entry.outputs, bounds)
    progress = entry.progress or {}
    state = "unknown" if unknown else entry.state.value
    return JobShown.model_validate(
        {
            "job": entry.id,
            "state": state,
            "ended": entry.state.final,
            "target": one_line(entry.target),
            "workflow": external(entry.source),
            "sent": datetime.fromtimestamp(entry.created, timezone.utc).isoformat("T", "seconds"),
            "run_seconds": entry.run_seconds,
            "nodes_done": progress.get("nodes_done"),
            "nodes_total": progress.get("nodes_total"),
            "folder": None if entry.folder is None else one_line(str(entry.folder)),
            "outputs": outputs,
            "error": None if entry.error is None else trouble(entry.error),
            "cost": None if booking is None else _cost(booking),
            "note": external(unknown or note) if unknown or note else None,
            "next": _next(entry, outputs),
        }
    )


def batch_shown(entry: BatchEntry) -> BatchShown:
    """A recorded batch."""
    return BatchShown(
        batch=entry.id,
        name=external(entry.name),
        state=entry.state.value,
        why=None if entry.why is None else external(entry.why, _LONGEST_MESSAGE),
        target=one_line(entry.target),
        workflow=external(entry.source),
        runs=entry.count,
        succeeded=entry.succeeded,
        failed=entry.failed,
        cancelled=entry.cancelled,
        under_way=entry.begun,
        folder=external(str(entry.folder)),
    )


def _cost(booking: Booking) -> Cost:
    said = booking.to_json()
    return Cost(
        dollars=cast("float | None", said["dollars"]),
        state=booking.booked.value,
        text=booking.sentence(),
    )


def _next(entry: JobEntry, outputs: list[OutputShown]) -> str:
    if not entry.state.final:
        return f"wait(job='{entry.id}') follows it; it goes on without."
    if outputs:
        return f"outputs(job='{entry.id}', inline=true) shows small pictures."
    if entry.state is JobState.SUCCEEDED or entry.owed:
        return f"resume(job='{entry.id}') fetches its outputs."
    return "Nothing: it has ended."
