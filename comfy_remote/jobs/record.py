"""The record of every job, in one SQLite file in the user's data folder.

A job is written before it is submitted, and each change with it, so that a client that was
killed can be taken up again: nothing runs twice, and no output that still exists is lost.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..advice import Hint
from ..errors import (
    ComfyRemoteError,
    ConfigurationError,
    JobNotFound,
    LocalStorageError,
    error_from_json,
)
from ..events import JobState
from ..secrets import redact_json
from ..targets.base import RemoteRef
from ..workflow.prompt import Prompt
from ..workflow.workload import workload_of

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["JobEntry", "PastRun", "Record", "SavedOutput"]

_LOCK_PATIENCE = 30.0
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE jobs (
            id         TEXT PRIMARY KEY,
            created    REAL NOT NULL,
            updated    REAL NOT NULL,
            target     TEXT NOT NULL,
            source     TEXT NOT NULL,
            folder     TEXT,
            prompt     TEXT NOT NULL,
            state      TEXT NOT NULL,
            remote_id  TEXT,
            details    TEXT,
            progress   TEXT,
            error      TEXT,
            outputs    TEXT
        )
        """,
        "CREATE INDEX jobs_by_time ON jobs (created)",
    ),
    ("ALTER TABLE jobs ADD COLUMN page TEXT",),
    (
        "ALTER TABLE jobs ADD COLUMN started REAL",
        "ALTER TABLE jobs ADD COLUMN run_seconds REAL",
        "ALTER TABLE jobs ADD COLUMN shape TEXT",
        "ALTER TABLE jobs ADD COLUMN work REAL",
    ),
    (
        "ALTER TABLE jobs ADD COLUMN request TEXT",
        """
        CREATE TABLE kept_inputs (
            keeper     TEXT NOT NULL,
            sha256     TEXT NOT NULL,
            seen       REAL NOT NULL,
            PRIMARY KEY (keeper, sha256)
        )
        """,
    ),
)
"""The statements that lead from each version of the file to the next. Only ever added to."""

_UNUSABLE = "Check the folder's permissions and space, or set COMFY_REMOTE_HOME to another folder."


@dataclass(frozen=True, slots=True)
class SavedOutput:
    """An output that is here."""

    path: Path
    node_id: str | None
    kind: str
    filename: str
    sha256: str
    size: int

    def to_json(self) -> dict[str, JsonValue]:
        """As printed and recorded."""
        return {
            "path": str(self.path),
            "node_id": self.node_id,
            "kind": self.kind,
            "filename": self.filename,
            "sha256": self.sha256,
            "size": self.size,
        }


@dataclass(frozen=True, slots=True)
class JobEntry:
    """One job as recorded.

    Attributes:
        id: A lower-case UUID.
        created: Seconds since the epoch.
        updated: Seconds since the epoch.
        target: The name or address it was sent to.
        source: The workflow's file, or a word for where it came from.
        folder: Where its outputs are wanted; ``None`` when the caller takes them.
        prompt: API format, as submitted.
        state: The last state known here.
        ref: How to find it on the target; ``None`` until the target has answered.
        progress: The last snapshot, as `event_to_json` gives it; ``None`` before the first.
        error: Why it did not succeed.
        outputs: What was saved here.
        page: For a job of a page that has not ended there: see `Record.add`.
        started: Seconds since the epoch when it was first heard to run; ``None`` before.
        run_seconds: How long it ran; ``None`` when that was not seen.
    """

    id: str
    created: float
    updated: float
    target: str
    source: str
    folder: Path | None
    prompt: Prompt
    state: JobState
    ref: RemoteRef | None
    progress: dict[str, JsonValue] | None
    error: ComfyRemoteError | None
    outputs: tuple[SavedOutput, ...]
    page: dict[str, JsonValue] | None = None
    started: float | None = None
    run_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class PastRun:
    """How long a job that succeeded has run.

    Attributes:
        seconds: Without the time in the queue.
        prompt: API format, as it ran.
    """

    seconds: float
    prompt: Prompt


class Record:
    """The jobs known on this machine.

    Several processes may use one record at a time. Close it, or use it in ``with``.

    Args:
        folder: Where ``jobs.sqlite3`` is or will be; made when missing.

    Raises:
        LocalStorageError: The folder or the file cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "jobs.sqlite3"
        with self._errors():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.touch(mode=0o600)
            self._connection = sqlite3.connect(
                self.path, timeout=_LOCK_PATIENCE, isolation_level=None
            )
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        with self._errors():
            self._connection.row_factory = sqlite3.Row
            self._write_ahead()
            # Survives a killed process, which is what the record is for.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            if self._version() < len(_MIGRATIONS):
                self._migrate()
            elif self._version() > len(_MIGRATIONS):
                raise LocalStorageError(
                    f"{self.path} was written by a newer Comfy Remote.",
                    advice="Update this one, or set COMFY_REMOTE_HOME to another folder.",
                )

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self) -> None:
        """Bring the file to today's version: all the way, or not at all."""
        # Two programs that start at once must not both change it: the second waits here.
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for statements in _MIGRATIONS[self._version() :]:
                for statement in statements:
                    self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _write_ahead(self) -> None:
        """The journal that lets `jobs list` read while a run writes."""
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                # SQLite's own waiting leaves this one out: two who make the file at once collide.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def add(
        self,
        job_id: str,
        *,
        target: str,
        source: str,
        folder: Path | None,
        prompt: Prompt,
        page: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Record a job that is about to be submitted.

        Args:
            page: For a job of a page: what its server needs to show it again after a restart.
        """
        now = time.time()
        workload = workload_of(prompt)
        self.execute(
            "INSERT INTO jobs (id, created, updated, target, source, folder, prompt, state, page, "
            "shape, work) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            job_id,
            now,
            now,
            target,
            source,
            str(folder) if folder else None,
            json.dumps(prompt),
            JobState.QUEUED.value,
            None if page is None else json.dumps(dict(page)),
            workload.shape,
            workload.work,
        )

    def submitted(self, ref: RemoteRef) -> None:
        """The target has answered."""
        self.execute(
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
    ) -> None:
        """The job has come to another state.

        A success stays one, also when the target has forgotten the job since.

        Args:
            run_seconds: How long it has run, where that is known at its end.
        """
        now = time.time()
        self.execute(
            "UPDATE jobs SET updated = ?, state = ?, error = ?, started = COALESCE(started, ?), "
            "run_seconds = COALESCE(?, run_seconds) "
            "WHERE id = ? AND NOT (state = 'succeeded' AND ? = 'expired')",
            now,
            state.value,
            json.dumps(redact_json(error.to_json())) if error else None,
            now if state is JobState.RUNNING else None,
            run_seconds,
            job_id,
            state.value,
        )

    def progress(self, job_id: str, progress: dict[str, JsonValue]) -> None:
        """The newest snapshot."""
        self.execute(
            "UPDATE jobs SET updated = ?, progress = ? WHERE id = ?",
            time.time(),
            json.dumps(progress),
            job_id,
        )

    def saved(self, job_id: str, outputs: list[SavedOutput]) -> None:
        """These outputs are here."""
        self.execute(
            "UPDATE jobs SET updated = ?, outputs = ? WHERE id = ?",
            time.time(),
            json.dumps([output.to_json() for output in outputs]),
            job_id,
        )

    def page_served(self, job_id: str) -> None:
        """The page's server has shown how the job ended, and need not take it up again."""
        self.execute("UPDATE jobs SET page = NULL WHERE id = ?", job_id)

    def unserved(self) -> list[JobEntry]:
        """The jobs of pages whose server ended before they did, oldest first."""
        rows = self.execute("SELECT * FROM jobs WHERE page IS NOT NULL ORDER BY created")
        return [self._entry(row) for row in rows]

    def get(self, job_id: str) -> JobEntry:
        """One job, by its id or the beginning of it (at least four characters).

        Raises:
            JobNotFound: There is none, or several begin so.
        """
        rows: list[sqlite3.Row] = []
        if len(job_id) >= 4:
            escaped = job_id.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            rows = self.execute("SELECT * FROM jobs WHERE id LIKE ? ESCAPE '\\'", f"{escaped}%")
        if len(rows) == 1:
            return self._entry(rows[0])
        if rows:
            raise JobNotFound(
                f"{len(rows)} jobs begin with {job_id!r}.", advice="Give more of the id."
            )
        raise JobNotFound(
            f"The record knows no job {job_id!r}.",
            advice=Hint.JOB_NOT_RECORDED(job_id=job_id),
        )

    def newest(self, limit: int = 20) -> list[JobEntry]:
        """The newest jobs first."""
        rows = self.execute("SELECT * FROM jobs ORDER BY created DESC LIMIT ?", limit)
        return [self._entry(row) for row in rows]

    def past_runs(self, target: str, shape: str | None = None, limit: int = 9) -> list[PastRun]:
        """What ran on a target, the newest first: only what succeeded, and how long is known.

        Args:
            target: Its name, as jobs are recorded with it.
            shape: Only prompts of this `workflow.workload.Workload.shape`.
            limit: At most so many.
        """
        rows = self.execute(
            "SELECT run_seconds, prompt FROM jobs WHERE target = ? AND state = 'succeeded' "
            "AND run_seconds IS NOT NULL AND work > 0 AND (? IS NULL OR shape = ?) "
            "ORDER BY created DESC LIMIT ?",
            target,
            shape,
            shape,
            limit,
        )
        with self._errors():
            return [PastRun(row["run_seconds"], json.loads(row["prompt"])) for row in rows]

    def execute(self, sql: str, *values: str | float | None) -> list[sqlite3.Row]:
        """Run one statement, for what the record keeps beside the jobs (see `sent_inputs`).

        Raises:
            LocalStorageError: The file cannot be used.
        """
        with self._errors():
            return self._connection.execute(sql, values).fetchall()

    def _entry(self, row: sqlite3.Row) -> JobEntry:
        with self._errors():
            return _entry(row)

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


def _entry(row: sqlite3.Row) -> JobEntry:
    ref = None
    if row["remote_id"] is not None:
        ref = RemoteRef(row["id"], row["remote_id"], json.loads(row["details"]))
    return JobEntry(
        id=row["id"],
        created=row["created"],
        updated=row["updated"],
        target=row["target"],
        source=row["source"],
        folder=Path(row["folder"]) if row["folder"] else None,
        prompt=cast("Prompt", json.loads(row["prompt"])),
        state=JobState(row["state"]),
        ref=ref,
        progress=json.loads(row["progress"]) if row["progress"] else None,
        error=error_from_json(json.loads(row["error"])) if row["error"] else None,
        outputs=tuple(
            SavedOutput(**{**saved, "path": Path(saved["path"])})
            for saved in json.loads(row["outputs"] or "[]")
        ),
        started=row["started"],
        run_seconds=row["run_seconds"],
        page=json.loads(row["page"]) if row["page"] else None,
    )
