"""``comfy-remote batch cancel``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import batch_argument

if TYPE_CHECKING:
    from ...jobs.record import BatchEntry, Record

__all__ = ["cancel"]

_PATIENCE = 120.0  # seconds, for the process that drives it


@click.command(short_help="Cancel a batch, and what runs of it.")
@batch_argument
def cancel(batch: str) -> None:
    """Cancel a batch: no more runs begin, and those under way are cancelled on the target.

    What has been made stays. `batch retry` runs the rest after all.
    """
    import asyncio

    from ...batch.store import driving, is_driven
    from ...errors import TargetUnreachable
    from ...jobs.record import BatchState, Record, Wanted
    from ..console import say
    from ..interrupt import run_interruptible
    from .waiting import at_rest
    from .words import batch_command, progress_text

    async def cancelled(record: Record, entry: BatchEntry) -> BatchEntry:
        batches = record.batches
        await record.write(batches.want, entry.id, Wanted.CANCEL)
        if await asyncio.to_thread(is_driven, record.path.parent, entry.id):
            try:
                now = await at_rest(entry, record, _PATIENCE)
            except asyncio.TimeoutError:
                raise TargetUnreachable(
                    f"{entry.name} was asked to end, and what runs has not been confirmed as "
                    f"cancelled within {_PATIENCE:.0f} s.",
                    advice=f"See how far it is: {batch_command('watch', entry)}",
                ) from None
            if now.state.final:
                return now
        if (await record.read(batches.get, entry.id)).begun:
            # Nobody drives it: its jobs at the target are cancelled from here.
            async with driving(entry, record) as driver:
                async for _ in driver:
                    pass
        else:
            await record.write(batches.state, entry.id, BatchState.CANCELLED)
        return await record.read(batches.get, entry.id)

    with Record() as record:
        entry = record.batches.get(batch)
        if entry.state.final:
            say(f"{entry.name} is over: {progress_text(entry)}.")
            return
        entry = run_interruptible(cancelled(record, entry))
    if entry.state is BatchState.CANCELLED:
        say(f"{entry.name} was cancelled: {progress_text(entry)}.")
    else:
        say(f"{entry.name} is {entry.state.value}: {progress_text(entry)}. {entry.why or ''}")
