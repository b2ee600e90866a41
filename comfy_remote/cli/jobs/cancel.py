"""``comfy-remote jobs cancel``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import chosen_jobs, several_jobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...errors import ComfyRemoteError
    from ...events import Finished
    from ...jobs.job import Job
    from ...jobs.record import JobEntry, Record

__all__ = ["cancel"]


@click.command()
@several_jobs
def cancel(job_ids: tuple[str, ...], everything: bool, on: str | None) -> None:
    """Cancel jobs on their targets.

    \b
    Examples:
      comfy-remote jobs cancel 3f2a
      comfy-remote jobs cancel --all --on gpu
    """
    from ...jobs.record import Record
    from ..console import say
    from ..interrupt import run_interruptible

    with Record() as record:
        entries = chosen_jobs(record, job_ids, on, everything=everything)
        for entry in entries:
            if entry.state.final:
                say(f"Job {entry.id} had ended already: {entry.state.value}.")
        entries = [entry for entry in entries if not entry.state.final]
        if not entries and everything:
            say("No job is waiting or running.")
        failed = run_interruptible(_cancelled(record, entries)) if entries else []
    if len(failed) == 1:
        raise failed[0]
    if failed:
        for error in failed:
            say(str(error))
        raise click.exceptions.Exit(failed[0].exit_status)


async def _cancelled(record: Record, entries: Sequence[JobEntry]) -> list[ComfyRemoteError]:
    """Cancel all of them side by side; the errors of those that could not be."""
    from ...aio import concurrent_map
    from ...errors import ComfyRemoteError

    async def one(entry: JobEntry) -> ComfyRemoteError | None:
        try:
            await _cancel(record, entry)
        except ComfyRemoteError as error:
            return error
        return None

    return [error for error in await concurrent_map(one, entries) if error is not None]


async def _cancel(record: Record, entry: JobEntry) -> None:
    import asyncio

    from ...aio import within
    from ...errors import TargetUnreachable
    from ...jobs.client import resume as take_up
    from ...jobs.interruption import PATIENCE
    from ..console import resume_command

    async with take_up(entry.id, record=record, on_interrupt=None) as taken_up:
        await taken_up.cancel()
        try:
            finished = await within(_to_its_end(taken_up), PATIENCE.cancel)
        except asyncio.TimeoutError:
            raise TargetUnreachable(
                f"{entry.target} was asked to cancel job {entry.id}, and has not confirmed it "
                f"within {PATIENCE.cancel:.0f} s.",
                advice=f"`{resume_command(entry.id)}` follows it to its end.",
            ) from None
    _say_end(entry, finished)


async def _to_its_end(taken_up: Job) -> Finished:
    from ...events import Finished, Log
    from ..console import say

    async for event in taken_up:
        if isinstance(event, Log) and event.level == "warning":
            say(f"Warning: {event.message}")
        if isinstance(event, Finished):
            return event
    raise AssertionError("unreachable: a job's last event is Finished")


def _say_end(entry: JobEntry, finished: Finished) -> None:
    from ...events import JobState
    from ..console import resume_command, say

    match finished.state:
        case JobState.CANCELLED:
            say(f"Job {entry.id} was cancelled.")
        case JobState.SUCCEEDED:
            say(
                f"Job {entry.id} had succeeded before it could be cancelled. "
                f"`{resume_command(entry.id)}` fetches its outputs."
            )
        case _:
            error = finished.error
            say(f"Job {entry.id} has ended: {error.message if error else finished.state.value}")
