"""Reading and writing the record.

A job is written before it is submitted, and each change with it, so that a client that was
killed can be resumed: nothing runs twice, and no output that still exists is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import tzinfo
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ...advice import Hint
from ...config.folders import home
from ...database import NewerFile, migrate, transaction, write_ahead
from ...errors import ComfyRemoteError, ConfigurationError, JobNotFound, LocalStorageError
from ...events import JobState
from ...schedule.money import Allowance, Charge
from ...secrets import redact, redact_json
from ...targets.base import RemoteRef
from ...types import JsonValue
from ...workflow.prompt import Prompt
from ...workflow.workload import workload_of
from .batches import Batches
from .choosing import JobFilter, Retention
from .entries import (
    LINE_COLUMNS,
    JobEntry,
    JobLine,
    PastRun,
    PastStart,
    SavedOutput,
    entry_of,
    line_of,
)
from .schema import MIGRATIONS, store_prompt, whole_prompt

if TYPE_CHECKING:
    from ...schedule.caps import Cap
    from .ledger import Ledger
    from .results import Results
    from .routes import Routes

__all__ = ["Record"]

_log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_LOCK_PATIENCE = 30.0
_MOST_QUEUED = 10_000
_WHOLE_ID = 36  # characters
_FORGET_EVERY = 64  # jobs that are added
_FORGET_AT_ONCE = 256
_MOST_WARNINGS = 20
_LONGEST_WARNING = 500  # characters
_CHARGED = "SELECT 1 FROM charges WHERE job = ? LIMIT 1"
_REMOVE = "DELETE FROM jobs WHERE id = ?"
_NEXT_ATTEMPT = """
    SELECT COALESCE(MAX(other.attempt), 0) + 1, COALESCE(one.first, one.id)
    FROM jobs AS one JOIN jobs AS other
    ON other.id = COALESCE(one.first, one.id) OR other.first = COALESCE(one.first, one.id)
    WHERE one.id = :id
"""
_JOBS = "SELECT jobs.*, prompts.prompt FROM jobs LEFT JOIN prompts ON number = prompt_number"

_UNSHOWN = (
    "(state IN ('queued', 'running') OR state = 'succeeded' AND COALESCE(outputs, '[]') = '[]')"
)

_UNUSABLE = "Check the folder's permissions and space, or set COMFY_REMOTE_HOME to another folder."


class Record:
    """The jobs known on this machine.

    Several processes and threads may use one record at a time. All writes go through one thread,
    in order. A method that is called waits until it is done. On an event loop, nothing may wait
    for another process's lock; there, `write` and `read` give the same methods as awaitables::

        await record.write(record.state, job_id, JobState.RUNNING)
        entry = await record.read(record.get, job_id)

    Whatever reads sees all that was written through the same object before. Close it, or use it
    in ``with``.

    Args:
        folder: Where ``jobs.sqlite3`` is or will be; made when missing. The user's own by default.
        lock_patience: Seconds to wait for another process that is writing.
        retention: Which jobs are forgotten, now and then, when others are added.
        now: Seconds since the epoch, for the ledger.
        zone: In which the ledger's days begin; the local one by default.

    Attributes:
        batches: The batches that are known, and how far each is.

    Raises:
        LocalStorageError: The folder or the file cannot be used.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        lock_patience: float = _LOCK_PATIENCE,
        retention: Retention = Retention(),  # noqa: B008 - frozen
        now: Callable[[], float] = time.time,
        zone: tzinfo | None = None,
    ) -> None:
        folder = folder or home()
        self.path = folder / "jobs.sqlite3"
        self.retention = retention
        self._lock_patience = lock_patience
        self._writer = _Thread("comfy-remote-record-writer")
        self._reader = _Thread("comfy-remote-record-reader")
        self._reading = threading.Lock()
        self.batches = Batches(self._write, self._read)
        self._now, self._zone = now, zone
        with self._errors():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.touch(mode=0o600)
            self._connection = self._connect()
        try:
            self._prepare()
            with self._errors():
                self._read_connection = self._connect()
        except BaseException:
            self._connection.close()
            raise

    def __repr__(self) -> str:
        return f"Record({str(self.path.parent)!r})"

    # Imported by those who ask for them: a run on one's own machine does not.

    @cached_property
    def ledger(self) -> Ledger:
        """What jobs cost."""
        from .ledger import Ledger

        return Ledger(self._write, self._read, now=self._now, zone=self._zone)

    @cached_property
    def results(self) -> Results:
        """What runs gave, for `jobs.cache`."""
        from .results import Results

        return Results(self._write, self._read)

    @cached_property
    def routes(self) -> Routes:
        """What routes have done with their jobs, and which of their members cool down."""
        from .routes import Routes

        return Routes(self._write, self._read, self.ledger)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=self._lock_patience,
            isolation_level=None,
            check_same_thread=False,  # one thread, or one lock, has it at a time
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _prepare(self) -> None:
        with self._errors():
            # So that `jobs list` reads while a run writes.
            write_ahead(self._connection, self._lock_patience)
            # Survives a killed process, which is what the record is for.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            try:
                migrate(self._connection, MIGRATIONS)
            except NewerFile:
                raise LocalStorageError(
                    f"{self.path} was written by a newer Comfy Remote.",
                    advice="Update this one, or set COMFY_REMOTE_HOME to another folder.",
                ) from None

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, after what was to be written to it."""
        self._writer.end()
        self._reader.end()
        self._connection.close()
        self._read_connection.close()

    # From an event loop

    def write(
        self, method: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> asyncio.Future[_T]:
        """Have the writer's thread call a method of this record, after what it was given before.

        It is called whether or not the result is awaited, and also where the await is cancelled.

        Raises:
            LocalStorageError: When awaited: the file cannot be used. At once: 10,000 calls wait.
        """
        return _awaitable(self._queued(method, *args, **kwargs))

    def _queued(self, method: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        if self._writer.waiting >= _MOST_QUEUED:
            raise LocalStorageError(
                f"The record of jobs, {self.path}, has long been locked by another program, "
                f"and {_MOST_QUEUED} changes wait to be written.",
                advice="End that program, or set COMFY_REMOTE_HOME to another folder.",
                details={"path": str(self.path)},
            )
        return self._writer.run(method, *args, **kwargs)

    def post(
        self,
        failed: Callable[[LocalStorageError], None],
        method: Callable[_P, None],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> None:
        """`write`, for what nobody waits for: an error is given to ``failed``."""

        loop = asyncio.get_running_loop()

        def report(error: BaseException) -> None:
            if isinstance(error, LocalStorageError):
                failed(error)
            else:
                _log.error("The record failed.", exc_info=error)

        def written(writing: Future[None]) -> None:
            # Only an error wakes the loop.
            if (error := writing.exception()) is not None:
                with contextlib.suppress(RuntimeError):  # it has been closed: nobody waits
                    loop.call_soon_threadsafe(report, error)

        try:
            self._queued(method, *args, **kwargs).add_done_callback(written)
        except LocalStorageError as error:
            failed(error)

    async def read(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Call what only reads, such as `get` or `newest`, in the reader's thread.

        Raises:
            LocalStorageError: The file cannot be used.
        """
        await self.written()
        return await _awaitable(self._reader.run(function, *args, **kwargs))

    async def read_at_once(
        self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T:
        """`read`, without waiting for what is being written now: for what looks at past runs."""
        return await _awaitable(self._reader.run(function, *args, **kwargs))

    async def written(self) -> None:
        """Wait until all that was given to `write` has been written, or has failed."""
        last = self._writer.last
        if last is not None and not last.done():
            await asyncio.gather(_awaitable(last), return_exceptions=True)

    @property
    def waiting(self) -> int:
        """How many writes are waiting, the one under way among them."""
        return self._writer.waiting

    # Writing

    def add(
        self,
        job_id: str,
        *,
        target: str,
        source: str,
        folder: Path | None,
        prompt: Prompt,
        page: Mapping[str, JsonValue] | None = None,
        request: str | None = None,
        charge: Charge | None = None,
        caps: Iterable[Cap] = (),
        allowance: Allowance = Allowance(),  # noqa: B008 - frozen
        batch: str | None = None,
        sent: str | None = None,
        again: str | None = None,
        cached: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Record a job that is about to be submitted.

        Args:
            page: For a job of a page, or of a server's client: what its server needs to show it
                again after a restart. Until `mark_shown`, it is not forgotten.
            request: What `claim_request` is to give.
            charge: What it may cost, which is reserved; ``None`` for one that costs nothing.
            caps: Those that apply to it.
            allowance: What `allowance` is to give; of a run of a batch, the batch's cap counts.
            batch: The id of its batch.
            sent: What `sent` is to give.
            again: The id of a job of which this is a further attempt.

        Raises:
            SpendingCap: It does not fit under a cap; nothing is recorded.
        """
        now = time.time()
        state = JobState.QUEUED if cached is None else JobState.SUCCEEDED
        workload = workload_of(prompt)

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                number, values = store_prompt(connection, prompt)
                attempt, first = 1, None
                if again is not None:
                    attempt, first = connection.execute(_NEXT_ATTEMPT, {"id": again}).fetchone()
                row = connection.execute(
                    "INSERT INTO jobs (id, created, updated, target, source, folder, state, page, "
                    "shape, work, request, prompt_number, prompt_values, batch, sent, attempt, "
                    "first, cached, cap, over_cap) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(job_id, now, now, target, source, str(folder) if folder else None),
                        *(state.value, None if page is None else json.dumps(dict(page))),
                        *(workload.shape, workload.work, request, number, values),
                        *(batch, sent, attempt, first),
                        None if cached is None else json.dumps(dict(cached)),
                        *(None if batch else allowance.cap, allowance.over_cap),
                    ),
                ).lastrowid
                if charge is not None:
                    self.ledger.reserve(
                        connection, job_id, charge, caps, workflow=source, batch=batch
                    )
                if row is not None and row % _FORGET_EVERY == 0:
                    _forget(connection, self.retention, now, size=_size(connection))

        self._write(write)

    def allowance(self, job_id: str) -> Allowance:
        """What may be spent on a job; of a run of a batch, on all of the batch."""
        rows = self._read(
            "SELECT COALESCE(batches.cap, jobs.cap) AS cap, "
            "jobs.over_cap OR COALESCE(batches.over_cap, 0) AS over_cap "
            "FROM jobs LEFT JOIN batches ON batches.id = jobs.batch WHERE jobs.id = ?",
            job_id,
        )
        return Allowance(rows[0]["cap"], bool(rows[0]["over_cap"])) if rows else Allowance()

    def submitted(self, ref: RemoteRef) -> None:
        """Note the target's answer."""
        self._execute(
            "UPDATE jobs SET updated = ?, remote_id = ?, details = ? WHERE id = ?",
            time.time(),
            ref.remote_id,
            json.dumps(dict(ref.details)),
            ref.job_id,
        )

    def state(
        self,
        job_id: str,
        state: JobState,
        error: ComfyRemoteError | None = None,
        *,
        run_seconds: float | None = None,
        typical: bool = True,
        billed: float | None = None,
        at: float | None = None,
    ) -> None:
        """Note that the job has reached another state, and settle what it costs if it has ended.

        A success stays one, even if the target has forgotten the job since.

        Args:
            run_seconds: How long it has run, where that is known at its end.
            typical: Whether that says how long such a prompt takes; else `past_runs` leaves it out.
            billed: Seconds that are billed, where they are known at its end.
            at: When, in seconds since the epoch; now by default.
        """
        now = time.time() if at is None else at

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                changed = connection.execute(
                    "UPDATE jobs SET updated = ?, state = ?, error = ?, "
                    "started = COALESCE(started, ?), run_seconds = COALESCE(?, run_seconds), "
                    "work = CASE WHEN ? THEN work ELSE 0 END "
                    "WHERE id = ? AND NOT (state = 'succeeded' AND ? = 'expired')",
                    (
                        *(now, state.value),
                        json.dumps(redact_json(error.to_json())) if error else None,
                        now if state is JobState.RUNNING else None,
                        *(run_seconds, typical, job_id, state.value),
                    ),
                ).rowcount
                if changed and state.final and connection.execute(_CHARGED, (job_id,)).fetchone():
                    self.ledger.settle(connection, job_id, state, error, billed)

        self._write(write)

    def progress(self, job_id: str, progress: dict[str, JsonValue]) -> None:
        """Note the newest snapshot."""
        self._execute(
            "UPDATE jobs SET updated = ?, progress = ? WHERE id = ?",
            time.time(),
            json.dumps(progress),
            job_id,
        )

    def saved(self, job_id: str, outputs: list[SavedOutput]) -> None:
        """Note the outputs that are here."""
        self._execute(
            "UPDATE jobs SET updated = ?, outputs = ? WHERE id = ?",
            time.time(),
            json.dumps([output.to_json() for output in outputs]),
            job_id,
        )

    def warned(self, job_id: str, message: str, *, at: float) -> None:
        """Note a warning; of many, the last 20 stay."""

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                row = connection.execute("SELECT said FROM jobs WHERE id = ?", (job_id,)).fetchone()
                said = json.loads(row["said"] or "[]") if row is not None else []
                one = {"at": at, "message": redact(message)[:_LONGEST_WARNING]}
                connection.execute(
                    "UPDATE jobs SET said = ? WHERE id = ?",
                    (json.dumps([*said, one][-_MOST_WARNINGS:]), job_id),
                )

        self._write(write)

    def remove(self, job_ids: Iterable[str]) -> None:
        """Forget these jobs. What they have saved stays."""
        rows = [(job_id,) for job_id in job_ids]
        self._write(lambda connection: connection.executemany(_REMOVE, rows))

    def forget(self, retention: Retention) -> int:
        """Forget what a retention no longer covers; how many jobs."""

        def write(connection: sqlite3.Connection) -> int:
            count = 0
            while forgotten := _forget(connection, retention, time.time()):
                count += forgotten
            return count

        return self._write(write)

    def named(self, job_id: str, name: str, *, instead_of: str) -> None:
        """Note what its workflow is called, for a job with that word as its source."""

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                values = (name, job_id, instead_of)
                connection.execute("UPDATE jobs SET source = ? WHERE id = ? AND source = ?", values)
                connection.execute(
                    "UPDATE charges SET workflow = ? WHERE job = ? AND workflow = ?", values
                )

        self._write(write)

    def mark_shown(self, job_id: str) -> None:
        """Note that a page, or a server's client, has been shown how the job ended."""
        self._execute("UPDATE jobs SET page = NULL WHERE id = ?", job_id)

    def mark_shown_before(self, source: str, before: float) -> None:
        """`mark_shown`, for all of a server's jobs that ended before that.

        Args:
            source: Its name, as jobs are recorded with it.
            before: Seconds since the epoch.
        """
        self._execute(
            f"UPDATE jobs SET page = NULL WHERE page IS NOT NULL AND source = ? "  # noqa: S608
            f"AND updated < ? AND NOT {_UNSHOWN}",
            *(source, before),
        )

    def claim_request(self, ref: RemoteRef) -> str | None:
        """The request that was recorded with a job, to send it once more; ``None`` if it is gone.

        From then on the job is one whose submission was not answered, and no other process gets
        its request.
        """

        def write(connection: sqlite3.Connection) -> str | None:
            with transaction(connection):
                row = connection.execute(
                    "SELECT request FROM jobs WHERE id = ? AND remote_id = ?",
                    (ref.job_id, ref.remote_id),
                ).fetchone()
                connection.execute(
                    "UPDATE jobs SET remote_id = NULL, details = NULL, request = NULL "
                    "WHERE id = ? AND remote_id = ? AND request IS NOT NULL",
                    (ref.job_id, ref.remote_id),
                )
            return None if row is None else row["request"]

        return self._write(write)

    def drop_request(self, job_id: str) -> str | None:
        """Remove the request that was recorded with a job, and return it."""

        def write(connection: sqlite3.Connection) -> str | None:
            row = connection.execute("SELECT request FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row is None or row["request"] is None:
                return None
            connection.execute("UPDATE jobs SET request = NULL WHERE id = ?", (job_id,))
            return str(row["request"])

        return self._write(write)

    def inputs_kept(self, keeper: str, hashes: Iterable[str], *, since: float) -> None:
        """Note the files that a target has; those last seen before ``since`` are forgotten."""
        rows = [(keeper, sha256, time.time()) for sha256 in hashes]

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.execute("DELETE FROM kept_inputs WHERE seen <= ?", (since,))
                connection.executemany(
                    "INSERT OR REPLACE INTO kept_inputs (keeper, sha256, seen) VALUES (?, ?, ?)",
                    rows,
                )

        self._write(write)

    def inputs_gone(self, keeper: str, hashes: Iterable[str]) -> None:
        """Note that a target may no longer have these files."""
        rows = [(keeper, sha256) for sha256 in hashes]
        self._write(
            lambda connection: connection.executemany(
                "DELETE FROM kept_inputs WHERE keeper = ? AND sha256 = ?", rows
            )
        )

    # Reading

    def unshown(self, key: str = "") -> list[JobEntry]:
        """The jobs that a page, or a server's client, has yet to be shown, oldest first.

        Args:
            key: Of those, the ones whose ``page`` may have it: others may be many.
        """
        query = f"{_JOBS} WHERE page IS NOT NULL AND instr(page, ?) > 0 ORDER BY created"
        return self._entries(query, f'"{key}"' if key else "{")

    def unshown_of(self, source: str) -> list[JobEntry]:
        """The jobs of a server whose ends it has not shown yet: also those without their outputs.

        Args:
            source: Its name, as jobs are recorded with it.
        """
        return self._entries(
            f"{_JOBS} WHERE page IS NOT NULL AND source = ? AND {_UNSHOWN} ORDER BY created", source
        )

    def lines_of(self, job_ids: Sequence[str]) -> list[JobLine]:
        """These jobs, as far as they are known, in any order; see `lines`."""
        return self._lines(f"id IN ({', '.join('?' * len(job_ids))})", *job_ids)

    def get(self, job_id: str) -> JobEntry:
        """One job, by its id or the beginning of it (at least four characters).

        Raises:
            JobNotFound: There is none, or several begin so.
        """
        found = self._entries(f"{_JOBS} WHERE id = ?", job_id)
        if not found and 4 <= len(job_id) < _WHOLE_ID:  # reads the whole table
            escaped = job_id.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            found = self._entries(f"{_JOBS} WHERE id LIKE ? ESCAPE '\\'", f"{escaped}%")
        if len(found) == 1:
            return found[0]
        if found:
            raise JobNotFound(
                f"{len(found)} jobs begin with {job_id!r}.", advice="Give more of the id."
            )
        raise JobNotFound(
            f"The record has no job {job_id!r}.",
            advice=Hint.JOB_NOT_RECORDED(job_id=job_id),
        )

    def newest(
        self,
        limit: int = 20,
        wanted: JobFilter = JobFilter(),  # noqa: B008 - frozen
    ) -> list[JobEntry]:
        """The newest jobs first, of those that are wanted."""
        condition, values = wanted.sql()
        return self._entries(
            f"{_JOBS} WHERE {condition} ORDER BY created DESC LIMIT ?", *values, limit
        )

    def lines(self, since: float, limit: int, *, ended: bool) -> list[JobLine]:
        """The newest jobs first, of those sent since then, without what is large of them.

        Args:
            since: Seconds since the epoch.
            ended: Only those that have ended, runs of batches left out; otherwise only the others.
        """
        wanted = "state IN ('queued', 'running') AND created >= ?"
        if ended:
            wanted = "state NOT IN ('queued', 'running') AND batch IS NULL AND created >= ?"
        return self._lines(f"{wanted} ORDER BY created DESC LIMIT ?", since, limit)

    def due(self, retention: Retention) -> list[JobLine]:
        """What `forget` would forget, the oldest first."""
        condition, values = retention.sql(time.time())
        return self._lines(f"{condition} ORDER BY created", *values)

    def sent(self, job_id: str) -> str | None:
        """What was recorded of a job's request besides its prompt: see `add`."""
        rows = self._read("SELECT sent FROM jobs WHERE id = ?", job_id)
        return rows[0]["sent"] if rows else None

    def attempts(self, first: str) -> list[JobEntry]:
        """A job and all that ran it again, in order."""
        return self._entries(f"{_JOBS} WHERE id = ? OR first = ? ORDER BY attempt", first, first)

    def past_runs(
        self,
        target: str,
        shape: str | None = None,
        limit: int = 9,
        server: Mapping[str, str] | None = None,
    ) -> list[PastRun]:
        """What ran on a target, the newest first: only what succeeded, and how long is known.

        Args:
            target: Its name, as jobs are recorded with it.
            shape: Only prompts of this `workflow.workload.Workload.shape`.
            limit: At most so many.
            server: See `targets.base.server_of`: then what ran there counts, by whatever name.
        """
        ran, values = _ran_at(target, server)
        rows = self._read(
            f"{_JOBS} WHERE {ran} AND (? IS NULL OR shape = ?) ORDER BY created DESC LIMIT ?",
            *(*values, shape, shape, limit),
        )
        with self._errors():
            return [
                PastRun(row["run_seconds"], whole_prompt(row["prompt"], row["prompt_values"]))
                for row in rows
            ]

    def past_times(
        self, target: str, shape: str, limit: int, server: Mapping[str, str] | None = None
    ) -> list[tuple[float, float]]:
        """Seconds and work of what ran on a target, the newest first: see `past_runs`."""
        ran, values = _ran_at(target, server)
        rows = self._read(
            f"SELECT run_seconds, work FROM jobs WHERE {ran} AND shape = ? "  # noqa: S608 - see there
            "ORDER BY created DESC LIMIT ?",
            *values,
            *(shape, limit),
        )
        return [(row["run_seconds"], row["work"]) for row in rows]

    def last_start(self, target: str, longer_than: float = 5.0) -> float | None:
        """Seconds that a job waited for a worker to start, the last time that one had to.

        Taken from jobs that had the target for themselves, so they waited for nothing else, and
        that waited longer than a worker that is awake takes. ``None`` where that was never seen.

        Args:
            target: Its name, as jobs are recorded with it.
        """
        rows = self._read(_STARTS, target, target, longer_than, 1)
        return float(rows[0]["waited"]) if rows else None

    def starts(self, target: str, limit: int, longer_than: float = 5.0) -> list[PastStart]:
        """The starts of a target's workers that jobs waited for, the newest first: see
        `last_start`.
        """
        rows = self._read(
            # Others of its shape, by their work: those that a worker was ready for.
            "SELECT waited, run_seconds - work * (SELECT SUM(o.run_seconds) / SUM(o.work) "  # noqa: S608
            "FROM jobs AS o WHERE (o.target = ? OR o.placed = ?) AND o.shape = cold.shape "
            "AND o.state = 'succeeded' AND o.run_seconds IS NOT NULL AND o.work > 0 "
            f"AND o.started - o.created <= ?) AS longer FROM ({_STARTS}) AS cold",
            *(target, target, longer_than, target, target, longer_than, limit),
        )
        return [PastStart(row["waited"], row["longer"]) for row in rows]

    def ran_again(self, target: str, server: Mapping[str, str] | None = None) -> bool:
        """Whether a workflow has run twice on a target. See `past_runs`."""
        ran, values = _ran_at(target, server)
        query = f"SELECT 1 FROM jobs WHERE {ran} GROUP BY shape HAVING COUNT(*) > 1 LIMIT 1"  # noqa: S608
        return bool(self._read(query, *values))

    def can_be_sent_again(self, ref: RemoteRef) -> bool:
        """Whether a request is recorded with a job; or another process has taken it already."""
        rows = self._read("SELECT request, remote_id FROM jobs WHERE id = ?", ref.job_id)
        return any(row["request"] or row["remote_id"] != ref.remote_id for row in rows)

    def kept_inputs(self, keeper: str, *, since: float) -> frozenset[str]:
        """The SHA-256 of the files that a target was seen to keep."""
        rows = self._read(
            "SELECT sha256 FROM kept_inputs WHERE keeper = ? AND seen > ?", keeper, since
        )
        return frozenset(row["sha256"] for row in rows)

    def _execute(self, sql: str, *values: str | float | None) -> None:
        self._write(lambda connection: connection.execute(sql, values))

    def _write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run it in the writer's thread, and wait for it."""

        def run() -> _T:
            with self._errors():
                return work(self._connection)

        return run() if self._writer.is_current else self._writer.run(run).result()

    def _read(self, sql: str, *values: str | float | None) -> list[sqlite3.Row]:
        if self._writer.waiting and not (self._writer.is_current or self._reader.is_current):
            self._writer.run(lambda: None).result()
        with self._errors(), self._reading:
            return self._read_connection.execute(sql, values).fetchall()

    def _entries(self, sql: str, *values: str | float | None) -> list[JobEntry]:
        rows = self._read(sql, *values)
        with self._errors():
            return [entry_of(row) for row in rows]

    def _lines(self, condition: str, *values: str | float | None) -> list[JobLine]:
        rows = self._read(f"SELECT {LINE_COLUMNS} FROM jobs WHERE {condition}", *values)  # noqa: S608
        with self._errors():
            return [line_of(row) for row in rows]

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            raise ConfigurationError(
                f"{error.object[:80]!a} cannot be recorded: it is not UTF-8.",
                advice="Give that file, folder or target another name.",
            ) from error
        except (
            sqlite3.Error,
            OSError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:
            # The last four: a row that somebody or something else has changed.
            damaged = type(error) is sqlite3.DatabaseError  # "malformed", "not a database"
            raise LocalStorageError(
                f"The record of jobs, {self.path}, cannot be used: {error}.",
                advice=Hint.RECORD_DAMAGED() if damaged else _UNUSABLE,
                details={"path": str(self.path)},
            ) from error


class _Thread:
    """A thread that runs what it is given, in order. It begins with the first of it.

    Attributes:
        waiting: How much of it has not ended.
        last: What was given last: once it has ended, all has.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(1, name, initializer=self._begin)
        self._ident: int | None = None
        self._process = os.getpid()
        self._count = threading.Lock()
        self.waiting = 0
        self.last: Future[Any] | None = None

    def _begin(self) -> None:
        self._ident = threading.get_ident()

    @property
    def is_current(self) -> bool:
        """Whether this is called in it."""
        return threading.get_ident() == self._ident

    def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have it call ``work``.

        Raises:
            LocalStorageError: It has ended, or this process was forked from the one that has it.
        """
        if os.getpid() != self._process:
            raise LocalStorageError(
                "The record of jobs was opened before this process was forked.",
                advice="Open it, or a client, in the process that uses it.",
            )
        with self._count:
            try:
                running = self._pool.submit(work, *args, **kwargs)
            except RuntimeError as error:
                raise LocalStorageError("The record of jobs has been closed.") from error
            self.waiting += 1
            self.last = running
        running.add_done_callback(self._done)
        return running

    def _done(self, _: Future[_T]) -> None:
        with self._count:
            self.waiting -= 1

    def end(self) -> None:
        """Wait until it has done everything."""
        self._pool.shutdown()


def _forget(
    connection: sqlite3.Connection, retention: Retention, now: float, *, size: int = 0
) -> int:
    """Forget some of the oldest jobs that a retention no longer covers; how many."""
    condition, values = retention.sql(now, size)
    rows = connection.execute(
        f"SELECT id FROM jobs WHERE {condition} ORDER BY created LIMIT ?",  # noqa: S608 - see there
        (*values, _FORGET_AT_ONCE),
    ).fetchall()
    connection.executemany(_REMOVE, [(row["id"],) for row in rows])
    return len(rows)


def _size(connection: sqlite3.Connection) -> int:
    """Bytes of what is in the file, without what is free in it."""
    pages, free, page = (
        int(connection.execute(f"PRAGMA {what}").fetchone()[0])
        for what in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * page


_STARTS = (
    "SELECT started - created AS waited, run_seconds, work, shape FROM ("
    "SELECT created, started, run_seconds, work, shape, MAX(updated) OVER (ORDER BY created "
    "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS others FROM jobs "
    "WHERE target = ? OR placed = ?) "
    "WHERE started - created > ? AND COALESCE(others, 0) <= created ORDER BY created DESC LIMIT ?"
)


def _ran_at(target: str, server: Mapping[str, str] | None) -> tuple[str, list[str]]:
    """What finds the jobs that ran on a target, and its values: see `Record.past_runs`."""
    ran = "state = 'succeeded' AND run_seconds IS NOT NULL AND work > 0"
    if not server:
        return f"{ran} AND (target = ? OR placed = ?)", [target, target]
    # A pair of the JSON is found as text: quotes in another value are escaped there.
    said = [json.dumps({name: value})[1:-1] for name, value in server.items()]
    return ran + " AND instr(details, ?) > 0" * len(said), said


def _awaitable(running: Future[_T]) -> asyncio.Future[_T]:
    """For the running loop. Unlike with `asyncio.wrap_future`, a cancel leaves the work alone."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[_T] = loop.create_future()

    def settle() -> None:
        if waiting.done():
            return
        error = running.exception()
        if error is not None:
            waiting.set_exception(error)
        else:
            waiting.set_result(running.result())

    def done(_: Future[_T]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits
            loop.call_soon_threadsafe(settle)

    running.add_done_callback(done)
    return waiting
