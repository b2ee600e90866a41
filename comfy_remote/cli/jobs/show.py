"""``comfy-remote jobs show``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..options import json_option
from .options import job_argument, offline_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...jobs.record.ledger import Booking
    from ...jobs.status import JobStatus
    from ...targets.route.journal import Step

__all__ = ["show"]


@click.command()
@job_argument
@offline_option
@json_option
def show(job: str, offline: bool, json_lines: bool) -> None:
    """Show all that is recorded of a job.

    If it has not ended, its target is asked first.
    """
    from ...jobs.record import Record
    from ..console import print_json
    from .shown import present, step_to_json, to_json

    with Record() as record:
        [status] = present(record, [record.get(job)], offline=offline)
        steps = record.routes.steps(status.entry.id)
        booking = record.ledger.of(status.entry.id)
    if json_lines:
        route = [step_to_json(step) for step in steps]
        cost = None if booking is None else booking.to_json()
        more = {"route": route, "cost": cost, "prompt": status.entry.prompt}
        print_json({**to_json(status), **more})
        return
    _print_details(status, steps, booking)


def _print_details(job: JobStatus, steps: Sequence[Step], booking: Booking | None) -> None:
    from ...units import seconds_text, size_text
    from ..console import printable_line, resume_command
    from ..errors import explain, traceback_of
    from .shown import progress_of, when, where

    entry = job.entry
    state = entry.state.value
    if job.unknown:
        state = f"unknown ({state} when last seen). {job.unknown}"
    rows = [
        ("Job", entry.id),
        ("State", state),
        ("Target", where(entry)),
        ("Its id there", entry.ref.remote_id if entry.ref else "unknown"),
        ("Workflow", f"{entry.source} ({len(entry.prompt)} nodes)"),
        ("Sent", when(entry.created)),
        ("Changed", when(entry.updated)),
        ("Folder", str(entry.folder or "-")),
    ]
    rows += [("Route", f"{when(step.at)}  {step.why}") for step in steps]
    if progress := progress_of(entry):
        rows.append(("Progress", progress))
    if entry.run_seconds is not None:
        rows.append(("Ran", seconds_text(entry.run_seconds)))
    if entry.cached is not None:
        from ...jobs.cache.hit import cached_sentence

        found = cached_sentence(entry.cached, entry.created)
        ran = f"job {entry.cached.get('job')} on {entry.cached.get('target')}"
        rows.append(("Not run", f"its result was in the cache, {found}, by {ran}"))
    if booking is not None:
        rows.append(("Cost", booking.sentence()))
    rows += [("Output", f"{o.path} ({size_text(o.size)})") for o in entry.outputs]
    for name, value in rows:
        print(f"{name:<13}{printable_line(value)}")
    if entry.error is not None:
        headline, *rest = explain(entry.error)
        print(f"{'Error':<13}{headline}", *rest, *traceback_of(entry.error), sep="\n")
    elif not entry.state.final or not entry.outputs:
        print(f"{'To resume':<13}{resume_command(entry.id)}")
