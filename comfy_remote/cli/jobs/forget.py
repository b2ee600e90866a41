"""``comfy-remote jobs rm`` and ``prune``: jobs that the record forgets. No file goes with them."""

from __future__ import annotations

import click

from .options import age as length
from .options import job_arguments, jobs_named

__all__ = ["prune", "rm"]

_SHOWN = 20


@click.command()
@job_arguments(required=True)
@click.option(
    "--force",
    is_flag=True,
    help="Also jobs that have not ended, and those whose outputs have not been fetched.",
)
def rm(job_ids: tuple[str, ...], force: bool) -> None:
    """Forget jobs. The files that they have made stay; a job that runs continues."""
    from ...errors import ConfigurationError
    from ...jobs.record import Record
    from ...units import counted
    from ..console import resume_command, say

    with Record() as record:
        entries = jobs_named(record, job_ids)
        for entry in entries:
            if entry.owed and not force:
                owed = "has not ended" if not entry.state.final else "has outputs to be fetched"
                raise ConfigurationError(
                    f"Job {entry.id} {owed}. Nothing was removed.",
                    advice=f"Fetch them with `{resume_command(entry.id)}`, or remove it all the "
                    "same with --force.",
                )
        record.remove([entry.id for entry in entries])
    say(f"Removed {counted(len(entries), 'job')} from the record.")


@click.command()
@click.option(
    "--older-than",
    "age",
    metavar="AGE",
    callback=length,
    help="Those that changed last before then: 12h, 30d, 8w.",
)
@click.option(
    "--keep", metavar="N", type=click.IntRange(min=0), help="All but the newest N of all jobs."
)
@click.option("--dry-run", is_flag=True, help="Only say which.")
def prune(age: float | None, keep: int | None, dry_run: bool) -> None:
    """Forget old jobs. The files that they have made stay.

    Never one that has not ended, or whose outputs have not been fetched. Without this, jobs are
    forgotten after 180 days, and the oldest when there are more than 50,000.

    \b
    Examples:
      comfy-remote jobs prune --older-than 30d --dry-run
      comfy-remote jobs prune --keep 1000
    """
    from ...jobs.record import Record, Retention
    from ...units import counted
    from ..console import say
    from .shown import when

    if age is None and keep is None:
        raise click.UsageError("Say which: --older-than AGE, --keep N, or both.")
    never, all_of_them = float("inf"), 2**40  # SQLite has no larger numbers than 2**63
    retention = Retention(
        never if age is None else age, all_of_them if keep is None else min(keep, all_of_them)
    )
    with Record() as record:
        if dry_run:
            due = record.due(retention)
            for entry in due[:_SHOWN]:
                say(f"{entry.id}  {when(entry.created)}  {entry.state.value}")
            if len(due) > _SHOWN:
                say(f"… and {len(due) - _SHOWN} more")
            say(f"{counted(len(due), 'job')} would be removed from the record.")
            return
        count = record.forget(retention)
    say(f"Removed {counted(count, 'job')} from the record.")
