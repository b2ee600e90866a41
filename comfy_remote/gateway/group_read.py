"""Many small reads of a database in few turns of a thread."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import LocalStorageError
from .schema import database_error

__all__ = ["GroupRead"]

_T = TypeVar("_T")

_AT_A_TIME = 32  # a millisecond or two, in which Python's lock may be the thread's


@dataclass(slots=True, eq=False)
class _Read:
    """One read, and who waits for it."""

    read: Callable[[sqlite3.Connection], Any]
    waiter: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class GroupRead:
    """A thread that reads what it is asked for: all that has been asked meanwhile at once.

    All methods are for one event loop.

    Args:
        connection: For this alone.
        path: Of the database.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._thread = ThreadPoolExecutor(1, "gateway-reader")
        self._waiting: deque[_Read] = deque()
        self._is_busy = False

    async def call(self, read: Callable[[sqlite3.Connection], _T]) -> _T:
        """What ``read`` gives, called in the thread.

        Raises:
            LocalStorageError: The database cannot be read.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[_T] = loop.create_future()
        self._waiting.append(_Read(read, waiter))
        if not self._is_busy:
            self._is_busy = True
            loop.call_soon(self._begin)  # what this round of the loop asks is read together
        return await waiter

    def close(self) -> None:
        """End the thread, when it has done what it is doing. This blocks."""
        self._thread.shutdown()

    def _begin(self) -> None:
        some = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_A_TIME))]
        loop = asyncio.get_running_loop()

        def done(_: Future[None]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits
                loop.call_soon_threadsafe(self._end, some)

        try:
            self._thread.submit(self._read, some).add_done_callback(done)
        except RuntimeError:
            for one in some:
                one.error = LocalStorageError("The gateway's database has been closed.")
            loop.call_soon(self._end, some)

    def _end(self, reads: Sequence[_Read]) -> None:
        for one in reads:
            if one.waiter.done():
                continue
            if one.error is None:
                one.waiter.set_result(one.result)
            else:
                one.waiter.set_exception(database_error(self._path, one.error))
        self._is_busy = bool(self._waiting)
        if self._is_busy:
            self._begin()

    def _read(self, reads: Sequence[_Read]) -> None:
        for one in reads:
            try:
                one.result = one.read(self._connection)
            except Exception as error:  # noqa: BLE001  whoever waits gets it
                one.error = error
