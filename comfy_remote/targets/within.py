"""Waiting for something no longer than a while, with no cancel lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["within"]

_T = TypeVar("_T")


async def within(work: Awaitable[_T], seconds: float | None) -> _T:
    """What ``work`` gives; it is cancelled if that takes longer.

    Unlike `asyncio.wait_for` before Python 3.12, which forgets that it was cancelled (by Ctrl-C,
    say) if the work is done at the same moment.

    Args:
        work: What to wait for.
        seconds: ``None`` for as long as it takes.

    Raises:
        asyncio.TimeoutError: It took longer.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        await _end(task)
        raise
    if not done:
        await _end(task)
        raise asyncio.TimeoutError
    return task.result()


async def _end(task: asyncio.Future[_T]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
