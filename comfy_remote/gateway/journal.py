"""What the gateway knows of its jobs, on disk.

The queue decides in memory and posts each change; an answer that promises something waits for
`Journal.committed`. One thread writes all that was posted meanwhile in one transaction, so that
many promises share one write to the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from ..errors import (
    ComfyRemoteError,
    ConfigurationError,
    LocalStorageError,
    RateLimited,
    WorkflowInvalid,
)
from ..media.files import OWN_DATA, storage_errors
from ..media.temporary import ProcessLock
from .clock import GatewayClock
from .group_commit import GroupCommit
from .group_read import GroupRead
from .job import Job
from .job_rows import JobRow, delete_row, forget_row, insert_row, jobs_where, row_of, update_row
from .limits import GatewayLimits
from .schema import DATABASE, check, connect, database_errors, give_back, is_full, prepare
from .worker_list import WorkerList, WorkerNotes

__all__ = ["INLINE_BYTES", "Counts", "Expired", "Journal", "Recovered"]

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

INLINE_BYTES = 32 * 1024
"""Up to here, an input or a result is better in the job's row: a file costs five times as much."""

_LOCK = ".lock"
_WAITING_LIMIT = 32 * 2**20  # as many jobs at once as there are connections
_LOG_LIMIT = 32 * 2**20  # and what waits then: 64 MiB at most
_CLOCK_SAVED_EVERY = 5.0
_AGAIN_AFTER = 10
_PARAMETERS = 400  # of one statement; SQLite takes 999
_KEY_RETENTION = GatewayLimits().key_retention


@dataclass(slots=True)
class Counts:
    """Jobs since the gateway was first started, for ``/health``."""

    completed: int = 0
    failed: int = 0
    retried: int = 0


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a gateway goes on with.

    Attributes:
        clock: What its clock showed last.
        live: Jobs that wait or run, in the order of their numbers.
        owed: The ids of jobs that are final, and whose webhooks have yet to be called.
    """

    clock: float
    live: list[Job]
    owed: list[str]
    counts: Counts


@dataclass(frozen=True, slots=True)
class Expired:
    """What was forgotten.

    Attributes:
        results: The ids of jobs whose results went.
        keys: How many keys went.
        more: Whether more is due.
    """

    results: list[str]
    keys: int
    more: bool


class Journal:
    """The gateway's jobs and their keys, in ``gateway.sqlite3``. All but `open` is for one loop.

    What the disk refuses stays in memory, for the jobs that are live: it is written as soon as
    that is possible (`look_after` tries). Until then `add` refuses new jobs.

    Args:
        folder: The gateway's own. No other process may have it open.
        key_retention: Seconds that a key is good for after its job's result has gone.
        waiting_limit: Bytes that may wait to be written; above it, `add` refuses new jobs.
        log_limit: Bytes that the write-ahead log may have; above it, `add` refuses new jobs.
        monotonic: For `clock`.

    Attributes:
        path: The database.
        clock: The gateway's time; it begins with `open`.
        counts: Stored with what is posted next.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key_retention: float = _KEY_RETENTION,
        waiting_limit: int = _WAITING_LIMIT,
        log_limit: int = _LOG_LIMIT,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.path = folder / DATABASE
        self.clock = GatewayClock(monotonic)
        self.counts = Counts()
        self._counted = 0, 0, 0
        self._key_retention = key_retention
        self._waiting_limit = waiting_limit
        self._log_limit = log_limit
        self._number = 0
        self._clock_saved = 0.0
        self._dropped: deque[str] = deque()
        self._disk: _Disk | None = None
        self._notes_version: int | None = None

    # Begin and end

    def open(self) -> Recovered:
        """Take the folder over, and read what has to go on. This blocks.

        Raises:
            ConfigurationError: Another process has it open.
            LocalStorageError: It cannot be used: damaged, read-only, full, of a newer version.
        """
        with contextlib.ExitStack() as undo:
            with storage_errors(
                self.folder, full="Free some space there, then start it again.", denied=OWN_DATA
            ):
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            undo.callback(_locked(self.folder).close)
            with database_errors(self.path):
                self.path.touch(mode=0o600)
                connection = undo.enter_context(contextlib.closing(connect(self.path)))
                check(connection, self.path)
                prepare(connection, self.path)
                recovered = _recovered(connection)
                self._number = _last_number(connection)
                reader = undo.enter_context(contextlib.closing(connect(self.path)))
            self._disk = _Disk(
                GroupCommit(
                    connection,
                    self.path,
                    self._write_row,
                    self._write_last,
                    log_limit=self._log_limit // 4,
                ),
                connection,
                GroupRead(reader, self.path),
                undo.pop_all(),
            )
        self.clock.set(recovered.clock)
        self._clock_saved = recovered.clock
        self.counts = counts = replace(recovered.counts)
        self._counted = counts.completed, counts.failed, counts.retried
        return recovered

    async def close(self) -> None:
        """Write what has been posted, and give the folder back. Nothing is raised."""
        if self._disk is None:
            return
        try:
            await self._in_order(lambda _: None)  # which saves the clock, too
        except LocalStorageError as error:
            lost = len(list(self._open.writer.unwritten))
            _log.error("The last changes of %d jobs are lost. %s", lost, error)
        disk, self._disk = self._disk, None
        await asyncio.to_thread(disk.close)

    # Writing

    @property
    def problem(self) -> ComfyRemoteError | None:
        """Why nothing can be written at present; ``None`` if it can."""
        return self._open.writer.problem

    @property
    def waiting_bytes(self) -> int:
        """Bytes, roughly, that have yet to be written."""
        return self._open.writer.size

    async def add(self, job: Job) -> str | None:
        """Store a new job, and give it its ``number`` and ``created_at``.

        A cancel does not undo it: call it in a task that ends only when the job is in the queue.

        Returns:
            ``None`` if it is on disk now; else the id of the job that its key brought before.

        Raises:
            RateLimited: The disk is full, or too slow.
            LocalStorageError: The database cannot be written.
            WorkflowInvalid: Its key is not valid UTF-8.
        """
        key = job.idempotency_key
        if key is not None and not _is_storable(key):
            raise WorkflowInvalid("The request's Idempotency-Key is not valid UTF-8.")
        if (full := self._refuses()) is not None:
            raise full
        self._number += 1
        job.number, job.created_at = self._number, _utc_now()
        row = row_of(job, self._key_retention)

        def write(connection: sqlite3.Connection) -> str | None:
            if key is not None:
                known = connection.execute("SELECT id FROM jobs WHERE key = ?", (key,)).fetchone()
                if known is not None:
                    return str(known["id"])
            insert_row(connection, row)
            return None

        try:
            return await self._in_order(write, row.size)
        except LocalStorageError as error:
            raise _refusal(error) from error

    def post(self, job: Job) -> None:
        """Write a job's row soon, as it is now. A later post of the job replaces this one."""
        row = row_of(job, self._key_retention)
        counts = self.counts.completed, self.counts.failed, self.counts.retried
        self._open.writer.post(job.number, _Posted(row, counts), row.size)

    async def committed(self) -> None:
        """Wait until all that was posted before is on disk.

        Raises:
            LocalStorageError: It could not be written. It is tried again, unless a later post of
                the same job says otherwise.
        """
        await self._open.writer.committed()

    async def expire(self, now: float, *, most: int = 500) -> Expired:
        """Forget results and keys that have been stored for long enough.

        Args:
            most: How many at a time.

        Raises:
            LocalStorageError: The database cannot be written; nothing is forgotten.
        """

        def write(connection: sqlite3.Connection) -> Expired:
            due = connection.execute(
                "SELECT number, id, key, forgotten FROM jobs WHERE due <= ? ORDER BY due LIMIT ?",
                (now, most),
            ).fetchall()
            results = [row for row in due if row["forgotten"] is None]
            for row in due:
                if row["forgotten"] is None and row["key"] is not None:
                    files = forget_row(connection, row["number"], now, now + self._key_retention)
                else:
                    files = delete_row(connection, row["number"])
                self._dropped.extend(files)
            ids = [str(row["id"]) for row in results]
            return Expired(ids, len(due) - len(ids), len(due) == most)

        return await self._in_order(write)

    async def look_after(self) -> None:
        """Save the clock, try again what could not be written, and give the disk its room back.
        Call it about once a second.
        """
        if (
            self.problem is not None
            or self._is_log_full
            or self.clock() - self._clock_saved >= _CLOCK_SAVED_EVERY
        ):
            with contextlib.suppress(LocalStorageError):
                await self._in_order(lambda _: None)
        if self.problem is None and self.waiting_bytes == 0:
            with contextlib.suppress(LocalStorageError):
                await self._open.writer.run(give_back)

    # Workers

    async def worker_notes(self) -> WorkerNotes | None:
        """Which workers may join, and what the owner says of them: `WorkerList`.

        Returns:
            ``None`` if nothing of it has changed since the last call.

        Raises:
            LocalStorageError: The database cannot be read.
        """

        def read(connection: sqlite3.Connection) -> WorkerNotes | None:
            # It changes when another connection has written: here, only other processes have one.
            version = int(connection.execute("PRAGMA data_version").fetchone()[0])
            if version == self._notes_version:
                return None
            notes = WorkerList(connection).notes()
            self._notes_version = version
            return notes

        return await self._open.writer.run(read)

    async def change_workers(self, change: Callable[[WorkerList], _T]) -> _T:
        """What ``change`` gives: it changes the list, after all that was posted before.

        Raises:
            LocalStorageError: The database cannot be written; nothing is changed.
            ComfyRemoteError: What ``change`` raises; nothing is changed.
        """

        def write(connection: sqlite3.Connection) -> _T:
            self._notes_version = None
            return change(WorkerList(connection))

        return await self._in_order(write)

    # Reading

    async def find(self, job_id: str) -> Job | None:
        """A job that is not live any more: its result, or only its key; ``None`` if unknown.

        Raises:
            LocalStorageError: The database cannot be read.
        """
        for posted in self._open.writer.unwritten:
            if (row := posted.row).job.id == job_id:
                return None if row.is_gone else row.job
        return await self._read_job("id = ?", job_id)

    async def by_key(self, key: str) -> Job | None:
        """The job that a key brought, while it is good.

        Raises:
            LocalStorageError: The database cannot be read.
        """
        return await self._read_job("key = ?", key)

    async def last_ended(self, most: int) -> list[Job]:
        """Of the jobs whose results are stored, those that were submitted last, the newest first.

        Raises:
            LocalStorageError: The database cannot be read.
        """
        newest = (
            "number IN (SELECT number FROM jobs WHERE finished IS NOT NULL AND forgotten IS NULL "
            "ORDER BY number DESC LIMIT ?)"
        )
        jobs = await self._open.reader.call(lambda found: list(jobs_where(found, newest, most)))
        return sorted(jobs, key=lambda job: job.finished or 0.0, reverse=True)

    async def used(self, files: Sequence[str]) -> set[str]:
        """Those of the files (their SHA-256) that a job needs, all earlier posts considered.

        Raises:
            LocalStorageError: The database cannot be written.
        """
        return await self._in_order(lambda connection: _used(connection, files))

    def used_now(self, files: Sequence[str]) -> set[str]:
        """`used`, between `open` and the first post. This blocks."""
        with database_errors(self.path):
            return _used(self._open.connection, files)

    async def size(self) -> int:
        """Bytes that the database takes, without the room in it that is free again.

        Raises:
            LocalStorageError: The database cannot be read.
        """

        def read(connection: sqlite3.Connection) -> int:
            pages, free, size = (
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
            return int((pages - free) * size)

        return await self._open.reader.call(read)

    def take_dropped(self) -> set[str]:
        """Files that a job has ceased to need since the last call; others may need them."""
        dropped: set[str] = set()
        while self._dropped:
            dropped.add(self._dropped.popleft())
        return dropped

    # Inside

    @property
    def _open(self) -> _Disk:
        if self._disk is None:
            raise LocalStorageError("The gateway's database has been closed.")
        return self._disk

    @property
    def _is_log_full(self) -> bool:
        return self._open.writer.log_bytes > self._log_limit

    async def _in_order(self, write: Callable[[sqlite3.Connection], _T], size: int = 0) -> _T:
        return await self._open.writer.call(write, size)

    def _write_row(self, connection: sqlite3.Connection, posted: _Posted) -> None:
        self._dropped.extend(update_row(connection, posted.row))
        # Not what is counted by now: the rows of that may come with the next transaction only.
        before, now = self._counted, posted.counts
        self._counted = max(before[0], now[0]), max(before[1], now[1]), max(before[2], now[2])

    def _write_last(self, connection: sqlite3.Connection) -> None:
        now = self.clock()
        connection.execute(
            "UPDATE gateway SET clock = ?, completed = ?, failed = ?, retried = ?",
            (now, *self._counted),
        )
        self._clock_saved = now

    def _refuses(self) -> ComfyRemoteError | None:
        """Why no job can be added at present."""
        writer = self._open.writer
        if writer.problem is not None:
            return _refusal(writer.problem)
        if writer.size > self._waiting_limit:
            return _later("The gateway's disk is too slow for so many jobs.")
        if self._is_log_full:
            return _later("Another program has long been reading the gateway's database.")
        return None

    async def _read_job(self, condition: str, value: str) -> Job | None:
        if not _is_storable(value):
            return None

        def read(connection: sqlite3.Connection) -> Job | None:
            return next(iter(jobs_where(connection, condition, value)), None)

        return await self._open.reader.call(read)


@dataclass(frozen=True, slots=True)
class _Posted:
    """A job's row, and what was counted when it was posted: completed, failed, retried."""

    row: JobRow
    counts: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Disk:
    """What an open journal has.

    Attributes:
        connection: The writer's.
        undo: Closes the connections, then gives the folder back.
    """

    writer: GroupCommit[_Posted]
    connection: sqlite3.Connection
    reader: GroupRead
    undo: contextlib.ExitStack

    def close(self) -> None:
        """This blocks."""
        self.writer.close()
        self.reader.close()
        with contextlib.suppress(sqlite3.Error):
            self.undo.close()


def _locked(folder: Path) -> ProcessLock:
    path = folder / _LOCK
    try:
        return ProcessLock(path)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise ConfigurationError(
                f"Another gateway is running on {folder}.",
                advice="End that one, or use another endpoint id.",
                details={"path": str(folder)},
            ) from error
        raise LocalStorageError(
            f"{path} cannot be locked: {error}.",
            advice="Check the folder's permissions and the disk's space.",
            details={"path": str(path)},
        ) from error
    except sqlite3.Error as error:
        raise LocalStorageError(
            f"{path} cannot be locked: {error}.",
            advice="Delete that file.",
            details={"path": str(path)},
        ) from error


def _recovered(connection: sqlite3.Connection) -> Recovered:
    saved = connection.execute("SELECT * FROM gateway").fetchone()
    return Recovered(
        clock=saved["clock"],
        live=jobs_where(connection, "state IN ('IN_QUEUE', 'IN_PROGRESS')"),
        owed=[row["id"] for row in connection.execute("SELECT id FROM jobs WHERE owed")],
        counts=Counts(saved["completed"], saved["failed"], saved["retried"]),
    )


def _last_number(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT COALESCE(MAX(number), 0) FROM jobs").fetchone()[0])


def _used(connection: sqlite3.Connection, files: Sequence[str]) -> set[str]:
    used: set[str] = set()
    for first in range(0, len(files), _PARAMETERS):
        some = files[first : first + _PARAMETERS]
        found = connection.execute(
            f"SELECT DISTINCT sha256 FROM uses WHERE sha256 IN ({', '.join('?' * len(some))})",  # noqa: S608
            some,
        )
        used.update(row["sha256"] for row in found)
    return used


def _refusal(error: ComfyRemoteError) -> ComfyRemoteError:
    if is_full(error.__cause__):
        return _later("The gateway's disk is full. No more jobs are accepted for now.")
    return error


def _later(why: str) -> RateLimited:
    return RateLimited(why, advice="Try again later.", details={"retry_after": _AGAIN_AFTER})


def _is_storable(text: str) -> bool:
    """Whether it is UTF-8, as all text in the database: a header or a path need not be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _utc_now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
