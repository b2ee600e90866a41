"""The same for many things, a few of them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

__all__ = ["concurrent_map"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_AT_A_TIME = 4


async def concurrent_map(
    function: Callable[[_Item], Awaitable[_Result]], items: Iterable[_Item]
) -> list[_Result]:
    """Await ``function(item)`` for every item, four side by side.

    When one fails, or the caller is cancelled, the others are cancelled too, and have ended
    when this returns: none writes on into a folder that goes away.

    Returns:
        The results, in the order of ``items``.
    """
    free = asyncio.Semaphore(_AT_A_TIME)

    async def one(item: _Item) -> _Result:
        async with free:
            return await function(item)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
