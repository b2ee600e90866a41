"""``comfy-remote jobs list``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..options import json_option
from .options import offline_option, to_target_option
from .options import since as moment

if TYPE_CHECKING:
    from ...jobs.record import BatchEntry, Record

__all__ = ["list_jobs"]

_STATES = ["queued", "running", "succeeded", "failed", "cancelled", "expired"]


@click.command("list")
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 1_000_000),
    default=20,
    show_default=True,
    help="How many, the newest first.",
)
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(_STATES),
    help="Only those in this state, as last known. May be repeated.",
)
@to_target_option
@click.option(
    "--since",
    metavar="WHEN",
    callback=moment,
    help="Only those sent since then: 90m, 12h, 3d, today, 2026-11-30.",
)
@click.option(
    "--text", metavar="TEXT", help="Only those with this in their id, workflow's file or error."
)
@click.option("--batch", metavar="BATCH", help="Only the runs of this batch, a line each.")
@offline_option
@json_option
def list_jobs(
    limit: int,
    states: tuple[str, ...],
    on: str | None,
    since: float | None,
    text: str | None,
    batch: str | None,
    offline: bool,
    json_lines: bool,
) -> None:
    """List the jobs sent from this machine.

    Targets are asked about jobs that have not ended, side by side, for a few seconds. A job whose
    target cannot be reached is shown as unknown. A batch is one line, unless --batch, --state,
    --text or --json asks for its runs.

    \b
    Examples:
      comfy-remote jobs list --state failed --since 3d
      comfy-remote jobs list --text portrait --limit 100
    """
    from ...events import JobState
    from ...jobs.record import JobFilter, Record
    from ..console import print_json, print_table, say
    from .shown import present, table_of, to_json

    with Record() as record:
        folded = not (batch or states or text or json_lines)
        of = record.batches.get(batch).id if batch else "" if folded else None
        wanted = JobFilter([JobState(state) for state in states], on, since, text, of)
        jobs = present(record, record.newest(limit, wanted), offline=offline)
        batches = _batches(record, limit, on, since) if folded else []
    if json_lines:
        for job in jobs:
            print_json(to_json(job))
    elif jobs or batches:
        print_table(*table_of(jobs, batches, limit), may_be_cut=["Result"])
    elif wanted == JobFilter([], batch=""):
        say("No jobs yet. `comfy-remote run WORKFLOW.json` sends one.")
    else:
        say("No such jobs.")


def _batches(record: Record, limit: int, on: str | None, since: float | None) -> list[BatchEntry]:
    """The newest batches, of those that are wanted."""
    return [
        entry
        for entry in record.batches.all()
        if on in (None, entry.target) and entry.created >= (since or 0)
    ][:limit]
