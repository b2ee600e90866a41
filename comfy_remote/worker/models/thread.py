"""Blocking work in a thread, to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

__all__ = ["run_whole"]

_T = TypeVar("_T")


async def run_whole(work: Callable[[], _T]) -> _T:
    """Run blocking work in a thread, and to its end also when cancelled.

    A volume may take seconds for a write, and its file must not be closed, or its lock given
    back, under it.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait({thread})
        raise
