"""``comfy-remote jobs wait``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..options import SECONDS, json_option
from .options import chosen_jobs, several_jobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...jobs.record import JobEntry, Record

__all__ = ["wait"]


@click.command(short_help="Wait until jobs have ended, and print how.")
@several_jobs
@click.option("--timeout", metavar="SECONDS", type=SECONDS, help="Wait no longer than this.")
@json_option
def wait(
    job_ids: tuple[str, ...],
    everything: bool,
    on: str | None,
    timeout: float | None,
    json_lines: bool,
) -> None:
    """Wait until jobs have ended, and print how: a line for each, as it ends.

    Nothing is fetched: `jobs resume` does that. Ctrl-C stops no job. The exit status is 0 if all
    have succeeded, else that of the first one that has not.
    """
    import asyncio

    from ...errors import JobTimedOut
    from ...jobs.record import Record
    from ..interrupt import run_interruptible

    with Record() as record:
        entries = chosen_jobs(record, job_ids, on, everything=everything)
        try:
            status = run_interruptible(_waited(record, entries, timeout, json_lines=json_lines))
        except asyncio.TimeoutError:
            raise JobTimedOut(
                f"Not all jobs have ended within {timeout:g} s. They continue.",
                advice="`comfy-remote jobs list` shows how they stand.",
            ) from None
        except asyncio.CancelledError:
            raise click.exceptions.Exit(130) from None
    if status:
        raise click.exceptions.Exit(status)


async def _waited(
    record: Record, entries: Sequence[JobEntry], timeout: float | None, *, json_lines: bool
) -> int:
    """Wait for all, side by side; the exit status of the first that ends badly."""
    from contextlib import suppress

    from ...aio import concurrent_map, within
    from ...errors import ComfyRemoteError, JobNotFound
    from ...jobs.client import resume as take_up
    from ...jobs.status import JobStatus
    from ...targets.opening import reopen
    from ..console import print_json, printable_line
    from .shown import result_of, state_of, to_json

    worst = 0

    async def one(entry: JobEntry) -> None:
        nonlocal worst
        unknown = ""
        if not entry.state.final:
            try:
                # To look: the outputs have to be there when they are fetched later.
                there = reopen(entry.target, entry.ref, look=True)
                async with take_up(entry.id, target=there, record=record, on_interrupt=None) as job:
                    await job.wait()
            except ComfyRemoteError as error:
                unknown, worst = error.message, worst or error.exit_status
            with suppress(JobNotFound):  # forgotten meanwhile
                entry = await record.read(record.get, entry.id)
        if entry.error is not None:
            worst = worst or entry.error.exit_status
        status = JobStatus(entry, "" if entry.state.final else unknown)
        if json_lines:
            print_json(to_json(status))
        else:
            line = f"{entry.id}  {state_of(status):<9}  {result_of(status)}"
            print(printable_line(line.rstrip()), flush=True)

    await within(concurrent_map(one, entries, at_a_time=64), timeout)
    return worst
