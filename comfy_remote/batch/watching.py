"""What happens to a batch that another process drives, from the record and its manifest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TYPE_CHECKING

from ..errors import JobNotFound
from ..events import Progress
from ..jobs.record import BatchState
from .events import BatchEvent, GoesOn, RunBegan, RunEnded, RunProgress, Stopped, Waits
from .frozen import batch_folder
from .manifest import MANIFEST, ManifestTail
from .one_run import job_id_of
from .plan import Plan
from .store import is_driven

if TYPE_CHECKING:
    from ..jobs.record import BatchEntry, Record

__all__ = ["watched"]

_PATIENCE = 3.0
"""Seconds without a driver before it counts as gone: one may be about to start."""


async def watched(
    entry: BatchEntry, record: Record, *, every: float = 1.0, patience: float = _PATIENCE
) -> AsyncGenerator[BatchEvent, None]:
    """The events of a batch, as far as what its driver writes down tells them.

    The last is `Stopped`: it has ended, is paused, or nobody drives it.

    Args:
        every: Seconds between two looks.
        patience: Seconds without a driver before it counts as gone.

    Raises:
        JobNotFound: It was removed meanwhile.
        LocalStorageError: Its manifest or the record cannot be read.
    """
    batches, folder = record.batches, record.path.parent
    plan = await asyncio.to_thread(Plan.load, batch_folder(folder, entry.id))
    manifest = ManifestTail(entry.folder / MANIFEST)
    await asyncio.to_thread(manifest.more)
    running: dict[int, int] = {}
    waits: str | None = None
    alone = 0.0
    try:
        while True:
            driven = await asyncio.to_thread(is_driven, folder, entry.id)
            now = await record.read(batches.get, entry.id)
            began = await record.read(batches.under_way, entry.id)
            for row, attempt in began.items():
                if running.get(row) != attempt:
                    job_id = job_id_of(entry.id, row, attempt)
                    yield RunBegan(row, plan.row(row), job_id, attempt)
                elif (event := await _progress(record, entry.id, row, attempt)) is not None:
                    yield event
            running = began
            for line in await asyncio.to_thread(manifest.more):
                yield RunEnded(line)
            alone = 0.0 if driven else alone + every
            if not driven and (now.state in _AT_REST or alone > patience):
                yield Stopped(now)
                return
            blocked = now.state in (BatchState.PAUSED, BatchState.WAITING)
            if (why := now.why if blocked else None) != waits:
                waits = why
                yield GoesOn() if why is None else Waits(why)
            await asyncio.sleep(every)
    finally:
        plan.close()


_AT_REST = (BatchState.PAUSED, BatchState.ENDED, BatchState.CANCELLED)


async def _progress(record: Record, batch_id: str, row: int, attempt: int) -> RunProgress | None:
    with suppress(JobNotFound, TypeError):
        entry = await record.read(record.get, job_id_of(batch_id, row, attempt))
        if entry.progress is not None:
            known = {name: entry.progress.get(name) for name in _PROGRESS}
            return RunProgress(row, Progress(**known))  # type: ignore[arg-type]
    return None


_PROGRESS = ("nodes_done", "nodes_total", "node_id", "node_class", "step", "steps")
