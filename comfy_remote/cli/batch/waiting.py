"""Waiting until the process that drives a batch has done what its user wants."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ...aio import Deadline
from ...batch.store import is_driven

if TYPE_CHECKING:
    from ...jobs.record import BatchEntry, Record

__all__ = ["at_rest"]

_EVERY = 0.25  # seconds


async def at_rest(entry: BatchEntry, record: Record, seconds: float | None) -> BatchEntry:
    """The batch as soon as no process drives it.

    Raises:
        asyncio.TimeoutError: One still does after so many seconds.
    """

    deadline = Deadline(seconds)
    while await asyncio.to_thread(is_driven, record.path.parent, entry.id):
        if deadline.left == 0:
            raise asyncio.TimeoutError
        await asyncio.sleep(_EVERY)
    return await record.read(record.batches.get, entry.id)
