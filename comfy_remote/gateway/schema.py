"""The gateway's database: its tables, and how a connection to it is opened."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ..database import NewerFile, migrate, write_ahead
from ..errors import ComfyRemoteError, LocalStorageError

__all__ = [
    "DATABASE",
    "check",
    "connect",
    "database_error",
    "database_errors",
    "give_back",
    "is_full",
    "prepare",
]

DATABASE = "gateway.sqlite3"
"""The name of the file in the gateway's folder."""

_PATIENCE = 10.0
"""Seconds to wait for another process that writes, which takes it milliseconds."""

_CHECKPOINT_PAGES = 1000
_LOG_BYTES = 8 * 2**20
"""What the write-ahead log is cut down to when all of it is in the database."""

_CHECKED_BYTES = 2**29
_FREE_PAGES = 4096
_GIVEN_BACK_PAGES = 512  # in some tens of milliseconds

_DAMAGED = (
    "The file is damaged. Restore it from a backup; or move it and the folder {files} away: "
    "the gateway then begins with none of its jobs."
)
_UNUSABLE = "Check the folder's permissions and the disk's space."

_MIGRATIONS = (
    (
        # Times are those of `GatewayClock`; `created_at` is UTC, for people.
        # `labels`, `needs` and `earlier` are JSON.
        # `due`: when the result goes, and then when the key goes; NULL while the job is not final,
        # or its webhook has yet to be called.
        """
        CREATE TABLE jobs (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            key TEXT UNIQUE,
            created_at TEXT NOT NULL,
            execution_timeout REAL NOT NULL,
            retention REAL NOT NULL,
            result_limit INTEGER NOT NULL,
            webhook TEXT,
            client TEXT NOT NULL,
            batch TEXT NOT NULL,
            priority INTEGER NOT NULL,
            low_priority INTEGER NOT NULL,
            front INTEGER NOT NULL,
            repeat_lost INTEGER NOT NULL,
            memory INTEGER NOT NULL,
            labels BLOB NOT NULL,
            needs BLOB NOT NULL,
            state TEXT NOT NULL,
            attempt INTEGER NOT NULL,
            lost INTEGER NOT NULL,
            earlier BLOB NOT NULL,
            worker TEXT,
            boot TEXT NOT NULL,
            created REAL NOT NULL,
            queued REAL NOT NULL,
            expires REAL NOT NULL,
            started REAL,
            finished REAL,
            forgotten REAL,
            owed INTEGER NOT NULL,
            more BLOB NOT NULL,
            due REAL
        )
        """,
        "CREATE INDEX jobs_due ON jobs (due) WHERE due IS NOT NULL",
        "CREATE INDEX jobs_live ON jobs (number) WHERE state IN ('IN_QUEUE', 'IN_PROGRESS')",
        "CREATE INDEX jobs_owed ON jobs (number) WHERE owed",
        # Beside the jobs, so that a change of a job does not write its input again.
        "CREATE TABLE inputs (number INTEGER PRIMARY KEY, input BLOB NOT NULL)",
        # Which files a job needs. `role`: its input or result as a whole, or one file of it.
        """
        CREATE TABLE uses (
            number INTEGER NOT NULL,
            role TEXT NOT NULL CHECK (role IN ('input', 'input file', 'result', 'output file')),
            sha256 TEXT NOT NULL,
            PRIMARY KEY (number, role, sha256)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX uses_sha256 ON uses (sha256)",
        """
        CREATE TABLE gateway (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            clock REAL NOT NULL,
            completed INTEGER NOT NULL,
            failed INTEGER NOT NULL,
            retried INTEGER NOT NULL
        )
        """,
        "INSERT INTO gateway VALUES (1, 0, 0, 0, 0)",
        # Written by `comfy-remote workers`, a process of its own; `said_at` is UTC.
        """
        CREATE TABLE tokens (
            name TEXT PRIMARY KEY,
            sha256 TEXT NOT NULL UNIQUE,
            created_at TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE owners_words (
            worker TEXT NOT NULL,
            word TEXT NOT NULL CHECK (word IN ('drain', 'gone')),
            said_at TEXT NOT NULL,
            PRIMARY KEY (worker, word)
        ) WITHOUT ROWID
        """,
    ),
)


def connect(path: Path, *, patience: float = _PATIENCE) -> sqlite3.Connection:
    """A connection that writes durably: what is committed survives a power cut.

    Raises:
        sqlite3.Error, OSError: The file cannot be used.
    """
    is_new = not path.exists() or path.stat().st_size == 0
    connection = sqlite3.connect(
        path,
        timeout=patience,
        isolation_level=None,
        check_same_thread=False,  # one thread has it at a time
    )
    try:
        connection.row_factory = sqlite3.Row
        if is_new:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # for `give_back`
        write_ahead(connection, patience)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # for macOS; others have no such thing
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Look for damage, if the file is small enough for that to take no more than a second or two.

    Raises:
        sqlite3.DatabaseError: It is damaged.
    """
    if path.stat().st_size > _CHECKED_BYTES:
        return
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found.replace("\n", " "))


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the database to the current version, completely or not at all.

    Raises:
        LocalStorageError: A newer version of this program wrote it.
        sqlite3.Error: It cannot be read or written.
    """
    try:
        migrate(connection, _MIGRATIONS)
    except NewerFile:
        raise LocalStorageError(
            f"{path} was written by a newer Comfy Remote.",
            advice="Update this one, or use another endpoint id.",
            details={"path": str(path)},
        ) from None


def give_back(connection: sqlite3.Connection) -> None:
    """Give some room back to the disk, where much of the file is free again.

    Raises:
        sqlite3.Error: The database cannot be written.
    """
    pages, free = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count")
    )
    if free > max(_FREE_PAGES, pages // 4):
        # `execute` would do one page of them.
        connection.executescript(f"PRAGMA incremental_vacuum({_GIVEN_BACK_PAGES})")


def database_error(path: Path, error: Exception) -> ComfyRemoteError:
    """What to raise instead of an error of the database; one of ours stays as it is."""
    if isinstance(error, ComfyRemoteError):
        return error
    damaged = not isinstance(error, sqlite3.OperationalError | OSError)
    problem = LocalStorageError(
        f"The gateway's database, {path}, cannot be used: {error}.",
        advice=_DAMAGED.format(files=path.with_name("files")) if damaged else _UNUSABLE,
        details={"path": str(path)},
    )
    problem.__cause__ = error
    return problem


@contextlib.contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the database into `LocalStorageError`."""
    try:
        yield
    except (sqlite3.Error, OSError, ValueError, LookupError, TypeError) as error:
        # The last three: a row that somebody or something else has changed.
        raise database_error(path, error) from error


def is_full(error: BaseException | None) -> bool:
    """Whether the disk had no room."""
    return isinstance(error, sqlite3.OperationalError) and "full" in str(error)
