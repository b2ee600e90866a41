"""Small tools around asyncio: waiting with a limit, waking up, a few things at a time."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

# For what must not change the task, as the start of an HTTP answer: between two tasks, a connection
# that is cut loses what has arrived. Elsewhere, `within`.
if sys.version_info >= (3, 11):
    from asyncio import Timeout, timeout
else:
    from async_timeout import Timeout, timeout

__all__ = [
    "Background",
    "Deadline",
    "Signal",
    "Timeout",
    "Upcoming",
    "concurrent_map",
    "first_of",
    "in_thread",
    "off_the_loop",
    "postpone",
    "timeout",
    "within",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_AT_A_TIME = 4


async def within(work: Awaitable[_T], seconds: float | None) -> _T:
    """What ``work`` gives. It is cancelled if it takes longer, which raises `asyncio.TimeoutError`.

    Unlike `asyncio.wait_for` before Python 3.12, which forgets that it was cancelled (by Ctrl-C,
    say) if the work is done at the same moment.
    """
    if seconds is None:
        return await work
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


def postpone(limit: Timeout, seconds: float) -> None:
    """Let a `timeout` end in so many seconds from now. Nothing happens to one that has ended."""
    when = asyncio.get_running_loop().time() + seconds
    with suppress(RuntimeError):
        if sys.version_info >= (3, 11):
            limit.reschedule(when)
        else:
            limit.update(when)


async def _end(task: asyncio.Future[_T]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def in_thread(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """The result of blocking work, run in a thread.

    Unlike `asyncio.to_thread`, a caller that is cancelled meanwhile waits for its end: no file is
    closed, and no lock given back, while the thread still writes.
    """
    called = partial(copy_context().run, work, *args, **kwargs)
    running = asyncio.get_running_loop().run_in_executor(None, called)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # so that asyncio does not log it: nobody waits for the answer
        raise


@asynccontextmanager
async def off_the_loop(context: AbstractContextManager[_T]) -> AsyncIterator[_T]:
    """A context whose beginning and end block, each in a thread."""

    async def end(error: BaseException) -> bool | None:
        return await in_thread(context.__exit__, type(error), error, error.__traceback__)

    try:
        begun = await in_thread(context.__enter__)
    except asyncio.CancelledError as error:
        await end(error)  # it has begun nevertheless: a thread cannot be cancelled
        raise
    try:
        yield begun
    except BaseException as error:
        if not await end(error):
            raise
    else:
        await in_thread(context.__exit__, None, None, None)


class Background:
    """Tasks that nobody waits for, referenced until they end: asyncio itself keeps no reference."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Awaitable[_T]) -> asyncio.Future[_T]:
        """Begin work, or hold a task that has begun."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def wait(self, seconds: float) -> None:
        """Wait until all have ended, but no longer than that."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def finish(self) -> None:
        """Wait until all have ended; they are cancelled if this is."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self) -> None:
        """Cancel all of them, and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Signal:
    """Wakes everybody who waits at that moment; remembers nothing.

    Check the condition, wait, check again. Unlike `asyncio.Condition` with a timeout, a
    waiter that is cancelled or times out can never take along what it waited for.
    """

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Wake all waiters."""
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            _wake(waiter)

    async def wait(self, timeout: float) -> None:
        """Return at the next `notify`, or after ``timeout`` seconds."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.add(waiter)
        timer = loop.call_later(timeout, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def concurrent_map(
    function: Callable[[_Item], Awaitable[_Result]],
    items: Iterable[_Item],
    *,
    at_a_time: int = _AT_A_TIME,
) -> list[_Result]:
    """``function(item)`` for every item, some at a time; the results are in the items' order.

    If one fails, or the caller is cancelled, the others are cancelled too, and have ended when this
    returns, so none still writes to a folder that is being removed.
    """
    free = asyncio.Semaphore(at_a_time)

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


@asynccontextmanager
async def first_of(*works: Awaitable[Any]) -> AsyncIterator[tuple[asyncio.Future[Any], ...]]:
    """The works as tasks, once one of them has ended; those still running end with the context."""
    tasks = tuple(map(asyncio.ensure_future, works))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Upcoming(Generic[_Item]):
    """The items of an asynchronous generator; the next one can be waited for in steps.

    A context: at its end, the generator is closed, whatever was waited for.
    """

    def __init__(self, items: AsyncGenerator[_Item, None]) -> None:
        self._items = items
        self._next: asyncio.Future[_Item] | None = None

    async def __aenter__(self) -> Upcoming[_Item]:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._next is not None:
            await _end(self._next)
        await self._items.aclose()

    async def within(self, seconds: float | None) -> bool:
        """Whether the next item, or the end, is there within so many seconds."""
        if self._next is None:
            self._next = asyncio.ensure_future(self._items.__anext__())
        limit = None if seconds is None else max(0.0, seconds)
        return bool((await asyncio.wait({self._next}, timeout=limit))[0])

    async def take(self) -> _Item:
        """The next item.

        Raises:
            StopAsyncIteration: There are no more.
        """
        if self._next is None:
            return await self._items.__anext__()
        item = await self._next
        self._next = None
        return item


class Deadline:
    """A time limit that is passed from phase to phase: each has what the earlier ones left.

    It uses the monotonic clock, so setting the wall clock changes nothing.

    Args:
        seconds: ``None`` for no limit.
        begun: When it began, by `time.monotonic`; now by default.
    """

    def __init__(self, seconds: float | None, begun: float | None = None) -> None:
        self.seconds = seconds
        self.begun = time.monotonic() if begun is None else begun

    def __str__(self) -> str:
        """``600 s``."""
        return f"{self.seconds:g} s"

    @property
    def left(self) -> float | None:
        """Seconds from now, at least 0; ``None`` for no limit."""
        if self.seconds is None:
            return None
        return max(0.0, self.begun + self.seconds - time.monotonic())

    def at_most(self, seconds: float) -> float:
        """The smaller of these seconds and what is left."""
        left = self.left
        return seconds if left is None else min(seconds, left)

    async def within(self, work: Awaitable[_T]) -> _T:
        """As `within`, with what is left."""
        return await within(work, self.left)
