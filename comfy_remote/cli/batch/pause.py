"""``comfy-remote batch pause``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..options import SECONDS
from .options import batch_argument

if TYPE_CHECKING:
    from ...jobs.record import BatchEntry, Record

__all__ = ["pause"]


@click.command(short_help="Pause a batch; what runs of it ends.")
@batch_argument
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=SECONDS,
    default=600.0,
    show_default=True,
    help="Wait no longer than this for the runs under way. It is paused once they have ended.",
)
def pause(batch: str, timeout: float) -> None:
    """Pause a batch: no more runs begin, and those under way end.

    `batch resume` goes on with it.
    """
    import asyncio

    from ...errors import JobTimedOut
    from ...jobs.record import BatchState, Record, Wanted
    from ...units import counted, seconds_text
    from ..console import say
    from ..interrupt import run_interruptible
    from .waiting import at_rest
    from .words import batch_command, progress_text

    async def paused(record: Record, entry: BatchEntry) -> BatchEntry:
        batches = record.batches
        await record.write(batches.want, entry.id, Wanted.PAUSE)
        if entry.begun:
            say(f"{counted(entry.begun, 'run')} under way …")
        try:
            now = await at_rest(entry, record, timeout)
        except asyncio.TimeoutError:
            now = await record.read(batches.get, entry.id)
            raise JobTimedOut(
                f"{counted(now.begun, 'run')} of {entry.name} had not ended after "
                f"{seconds_text(timeout)}. It is paused once they have.",
                advice=f"See how far it is: {batch_command('watch', entry)}",
            ) from None
        if not now.state.final and now.state is not BatchState.PAUSED:
            # Nobody drives it, so nobody else notes this.
            await record.write(batches.state, entry.id, BatchState.PAUSED, "It was paused.")
        return await record.read(batches.get, entry.id)

    with Record() as record:
        entry = record.batches.get(batch)
        if entry.state.final:
            say(f"{entry.name} is over: {progress_text(entry)}.")
            return
        entry = run_interruptible(paused(record, entry))
    if entry.state is BatchState.PAUSED:
        say(
            f"{entry.name} is paused: {progress_text(entry)}. "
            f"Go on with it: {batch_command('resume', entry)}"
        )
    else:
        say(f"{entry.name} had ended before it could be paused: {progress_text(entry)}.")
