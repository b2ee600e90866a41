"""``comfy-remote jobs watch``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from .options import to_target_option

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...jobs.record import JobEntry, Record
    from ...jobs.status import JobStatus

__all__ = ["watch"]

_EVERY = 3.0  # seconds
_MOST = 200
_FOLLOWED = 10.0  # seconds: a job that changed since then is followed by another program


@click.command(short_help="Show the jobs that wait or run, until all have ended.")
@to_target_option
def watch(on: str | None) -> None:
    """Show the jobs that wait or run, in a table that follows them, until all have ended.

    Jobs that are sent meanwhile appear in it. Ctrl-C ends it, and stops no job. In a pipe, a line
    is printed whenever a job's state changes.
    """
    import asyncio

    from ...jobs.record import Record
    from ..console import is_interactive
    from ..interrupt import run_interruptible

    try:
        with Record() as record:
            if is_interactive(sys.stdout):
                _watch_live(record, on)
            else:
                run_interruptible(_watched(record, on, _LinePrinter().show))
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise click.exceptions.Exit(130) from None


def _watch_live(record: Record, on: str | None) -> None:
    from rich.console import Console
    from rich.live import Live

    from ..console import table
    from ..interrupt import run_interruptible
    from .shown import table_of

    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        run_interruptible(
            _watched(record, on, lambda jobs: live.update(table(*table_of(jobs)), refresh=True))
        )


class _LinePrinter:
    """Prints a line for each job whose state has changed."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}

    def show(self, jobs: Sequence[JobStatus]) -> None:
        """How they stand now."""
        from ..console import printable_line
        from .shown import result_of, state_of

        for job in jobs:
            state = state_of(job)
            if self._shown.get(job.entry.id) != state:
                self._shown[job.entry.id] = state
                line = f"{job.entry.id}  {state:<9}  {job.entry.target}  {result_of(job)}"
                print(printable_line(line.rstrip()), flush=True)


async def _watched(
    record: Record, on: str | None, show: Callable[[Sequence[JobStatus]], None]
) -> None:
    """Show how jobs stand, every few seconds, until all have ended."""
    import asyncio

    seen: list[str] = []
    while True:
        seen = await _all_of(record, on, seen)
        entries = [entry for job_id in seen if (entry := await _if_known(record, job_id))]
        jobs = await _asked(record, entries)
        show(jobs)
        if all(job.entry.state.final for job in jobs):
            return
        await asyncio.sleep(_EVERY)


async def _if_known(record: Record, job_id: str) -> JobEntry | None:
    """A job; ``None`` if it was removed from the record meanwhile."""
    from ...errors import JobNotFound

    try:
        return await record.read(record.get, job_id)
    except JobNotFound:
        return None


async def _all_of(record: Record, on: str | None, seen: list[str]) -> list[str]:
    """The jobs that were seen before, and those that wait or run now; the newest first."""
    from ...jobs.record import JobFilter

    running = await record.read(record.newest, _MOST, JobFilter.not_ended(on))
    new = [entry.id for entry in running if entry.id not in seen]
    return (new + seen)[:_MOST]


async def _asked(record: Record, entries: Sequence[JobEntry]) -> list[JobStatus]:
    """How they stand. The target of a job that another program follows is not asked, too."""
    import time

    from ...jobs.status import JobStatus, statuses

    since = time.time() - _FOLLOWED
    alone = [one for one in entries if not one.state.final and one.updated < since]
    known = {job.entry.id: job for job in await statuses(record, alone, _EVERY)}
    return [known.get(entry.id, JobStatus(entry)) for entry in entries]
