"""Many small changes of a database in few transactions: one write to the disk for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..database import transaction
from ..errors import ComfyRemoteError, LocalStorageError
from .schema import database_error, database_errors

__all__ = ["GroupCommit"]

_log = logging.getLogger(__name__)

_Row = TypeVar("_Row")
_T = TypeVar("_T")

_CHANGES = 500  # of one transaction, at most
_PATIENCE_WITH_READERS = 100  # milliseconds
_LOG_LIMITED_EVERY = 1.0


@dataclass(slots=True, eq=False)
class _Change(Generic[_Row]):
    """One change.

    Attributes:
        write: Makes it, in a transaction.
        row: What was posted; such a change is tried until it succeeds.
        waiter: Gets the result of ``write`` once that is on disk.
        refused: What is wrong with this change alone.
    """

    write: Callable[[sqlite3.Connection], Any]
    size: int
    row: _Row | None = None
    waiter: asyncio.Future[Any] | None = None
    result: Any = None
    done: bool = False
    refused: Exception | None = None


@dataclass(slots=True, eq=False)
class _Group(Generic[_Row]):
    """Changes in order, and who waits for all of them."""

    changes: list[_Change[_Row]] = field(default_factory=list)
    posted: dict[int, _Change[_Row]] = field(default_factory=dict)
    waiters: list[asyncio.Future[None]] = field(default_factory=list)
    size: int = 0

    def add(self, change: _Change[_Row]) -> None:
        self.changes.append(change)
        self.size += change.size

    @property
    def is_awaited(self) -> bool:
        return bool(self.waiters) or any(change.row is None for change in self.changes)


class GroupCommit(Generic[_Row]):
    """A thread that writes what it is given, in order: all that has come meanwhile at once.

    What was posted and could not be written (the disk is full) is written before all else as soon
    as the disk takes it: at the next `call` or `committed`. All methods are for one event loop.

    Args:
        connection: For this alone.
        path: Of the database.
        write_row: Writes what was posted, in a transaction.
        write_last: Ends each transaction.
        log_limit: Bytes of the write-ahead log above which the thread waits a moment for whoever
            reads, so that the log can begin again.

    Attributes:
        log_bytes: Size of the write-ahead log after the last transaction.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        write_row: Callable[[sqlite3.Connection, _Row], None],
        write_last: Callable[[sqlite3.Connection], None],
        *,
        log_limit: int,
    ) -> None:
        self._connection = connection
        self._path = path
        self._log_path = path.with_name(f"{path.name}-wal")
        self._write_row = write_row
        self._write_last = write_last
        self._log_limit = log_limit
        self._thread = ThreadPoolExecutor(1, "gateway-writer")
        self._waiting: _Group[_Row] = _Group()
        self._under_way: _Group[_Row] | None = None
        self._starting = False
        self._problem: ComfyRemoteError | None = None
        self._log_limited_again = 0.0
        self.log_bytes = 0

    @property
    def problem(self) -> ComfyRemoteError | None:
        """Why the last transaction could not be written; ``None`` if it was."""
        return self._problem

    @property
    def size(self) -> int:
        """Bytes, roughly, of what has yet to be written."""
        return self._waiting.size + (self._under_way.size if self._under_way else 0)

    @property
    def unwritten(self) -> Iterator[_Row]:
        """What was posted and is not on disk yet, the newest of each key first."""
        for group in (self._waiting, self._under_way):
            for change in group.posted.values() if group else ():
                if change.row is not None:
                    yield change.row

    def post(self, key: int, row: _Row, size: int) -> None:
        """Write a row soon. It replaces one of the same key that is not being written yet."""
        self._post(self._waiting, key, row, size)
        if self._problem is None:
            self._wake()

    async def call(self, write: Callable[[sqlite3.Connection], _T], size: int = 0) -> _T:
        """What ``write`` gives: called in a transaction, and returned when that is on disk.

        Raises:
            LocalStorageError: It could not be written, and will not be.
        """
        waiter: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._waiting.add(_Change(write, size, waiter=waiter))
        self._wake()
        return await waiter

    async def committed(self) -> None:
        """Wait until all that was posted before is on disk.

        Raises:
            LocalStorageError: It could not be written. It is tried again.
        """
        group = self._waiting if self._waiting.changes else self._under_way
        if group is None:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        group.waiters.append(waiter)
        self._wake()
        await waiter

    async def run(self, read: Callable[[sqlite3.Connection], _T]) -> _T:
        """What ``read`` gives: called between two transactions, and not waiting for any.

        Raises:
            LocalStorageError: The database cannot be read.
        """

        def call() -> _T:
            with database_errors(self._path):
                return read(self._connection)

        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def close(self) -> None:
        """End the thread, when it has done what it is doing. This blocks."""
        self._thread.shutdown()

    # In the event loop

    def _post(self, group: _Group[_Row], key: int, row: _Row, size: int) -> None:
        def write(connection: sqlite3.Connection) -> None:
            self._write_row(connection, row)

        if (known := group.posted.get(key)) is None:
            group.posted[key] = _Change(write, size, row=row)
            group.add(group.posted[key])
        else:
            group.size += size - known.size
            known.write, known.row, known.size = write, row, size

    def _wake(self) -> None:
        if self._under_way is None and not self._starting:
            self._starting = True
            # Not at once: what this round of the loop posts is written together.
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._starting = False
        group, self._waiting = self._waiting, _Group()
        self._under_way = group
        loop = asyncio.get_running_loop()

        def written(writing: Future[Exception | None]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits
                loop.call_soon_threadsafe(self._end, group, writing.result())

        try:
            self._thread.submit(self._write, group).add_done_callback(written)
        except RuntimeError:
            closed = LocalStorageError("The gateway's database has been closed.")
            loop.call_soon(self._end, group, closed)

    def _end(self, group: _Group[_Row], error: Exception | None) -> None:
        self._under_way = None
        self._note(error)
        for change in group.changes:
            if change.waiter is None or change.waiter.done():
                continue
            if change.done:
                change.waiter.set_result(change.result)
            elif (wrong := change.refused or error) is not None:
                self._refuse(change.waiter, wrong)
        lost = next((one.refused for one in group.posted.values() if one.refused), error)
        for waiter in group.waiters:
            if waiter.done():
                continue
            if lost is None:
                waiter.set_result(None)
            else:
                self._refuse(waiter, lost)
        if error is not None:
            self._take_back(group)
        if self._waiting.is_awaited or (self._waiting.changes and error is None):
            self._wake()

    def _take_back(self, group: _Group[_Row]) -> None:
        """Put what was posted before what has been posted since."""
        newer, self._waiting = self._waiting, _Group(waiters=self._waiting.waiters)
        for key, change in group.posted.items():
            if not change.done and change.refused is None and change.row is not None:
                self._post(self._waiting, key, change.row, change.size)
        for key, change in newer.posted.items():
            if change.row is not None:
                self._post(self._waiting, key, change.row, change.size)
        for change in newer.changes:
            if change.row is None:
                self._waiting.add(change)

    def _refuse(self, waiter: asyncio.Future[Any], error: Exception) -> None:
        waiter.set_exception(database_error(self._path, error))
        waiter.exception()  # so that asyncio does not log it where nobody waits any more

    def _note(self, error: Exception | None) -> None:
        if error is None:
            if self._problem is not None:
                _log.warning("The gateway's database can be written again.")
            self._problem = None
            return
        problem = database_error(self._path, error)
        if self._problem is None or problem.message != self._problem.message:
            _log.error("%s New jobs are refused meanwhile.", problem)
        self._problem = problem

    # In the thread

    def _write(self, group: _Group[_Row]) -> Exception | None:
        try:
            changes = iter(group.changes)
            while some := list(itertools.islice(changes, _CHANGES)):
                try:
                    self._transact(some)
                except Exception as error:
                    if _is_of_the_disk(error):
                        raise
                    self._one_by_one(some)
            self._limit_log()
        except Exception as error:  # noqa: BLE001  each waiter gets it
            return error
        return None

    def _transact(self, changes: Iterable[_Change[_Row]]) -> None:
        with transaction(self._connection):
            for change in changes:
                change.result = change.write(self._connection)
            self._write_last(self._connection)
        for change in changes:
            change.done = True

    def _one_by_one(self, changes: Iterable[_Change[_Row]]) -> None:
        """So that one that can never be written holds up no other."""
        for change in changes:
            try:
                self._transact([change])
            except Exception as error:
                if _is_of_the_disk(error):
                    raise
                change.refused = error
                if not isinstance(error, ComfyRemoteError):
                    _log.exception("A change could not be written to the gateway's database.")

    def _limit_log(self) -> None:
        """Restart the write-ahead log if a reader has let it grow.

        Raises:
            FileNotFoundError: Somebody has removed it: nothing that is written stays.
        """
        self.log_bytes = self._log_path.stat().st_size
        if self.log_bytes <= self._log_limit or time.monotonic() < self._log_limited_again:
            return
        self._log_limited_again = time.monotonic() + _LOG_LIMITED_EVERY
        patience = self._connection.execute("PRAGMA busy_timeout").fetchone()[0]
        self._connection.execute(f"PRAGMA busy_timeout = {_PATIENCE_WITH_READERS}")
        with contextlib.suppress(
            sqlite3.Error
        ):  # what is wrong with the disk, the next commit says
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.execute(f"PRAGMA busy_timeout = {patience}")
        self.log_bytes = self._log_path.stat().st_size


def _is_of_the_disk(error: Exception) -> bool:
    """Whether nothing can be written; else, one change is wrong, and the others are not."""
    return (
        isinstance(error, sqlite3.OperationalError | OSError)
        or type(error) is sqlite3.DatabaseError  # "malformed", "not a database"
    )
