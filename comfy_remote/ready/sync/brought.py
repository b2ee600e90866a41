"""What was brought to targets from here, and uploads that can be continued: one SQLite file.

No address is in it, so no token either: only names, sizes, hashes, and which way was taken. Calls
block; each opens the file for itself, so that two syncs share it.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...database import MigrationStep, NewerFile, migrate, transaction, write_ahead
from ...errors import LocalStorageError
from ...media.files import OWN_DATA, storage_errors
from ...media.temporary import ProcessLock
from ...net.parted_bucket import Upload
from ...types import JsonValue
from .steps import Speeds

__all__ = ["Brought", "BroughtRecord", "Unfinished"]

_MIGRATIONS: list[list[MigrationStep]] = [
    [
        "CREATE TABLE brought (at REAL NOT NULL, target TEXT NOT NULL, model TEXT NOT NULL, "
        "size INTEGER, sha256 TEXT, way TEXT NOT NULL, seconds REAL NOT NULL, "
        "destination TEXT NOT NULL)",
        "CREATE INDEX brought_of ON brought (target, at)",
        "CREATE TABLE uploads (destination TEXT PRIMARY KEY, upload_id TEXT NOT NULL, "
        "sha256 TEXT NOT NULL, size INTEGER NOT NULL, part_size INTEGER NOT NULL, "
        "began REAL NOT NULL)",
        "CREATE TABLE parts (destination TEXT NOT NULL, number INTEGER NOT NULL, etag TEXT NOT "
        "NULL, PRIMARY KEY (destination, number)) WITHOUT ROWID",
    ],
    [
        "CREATE TABLE copies (sha256 TEXT NOT NULL, target TEXT NOT NULL, nonce TEXT NOT NULL, "
        "PRIMARY KEY (sha256, target)) WITHOUT ROWID",
    ],
]
_PATIENCE = 10.0  # seconds for another sync that writes
_MOST = 10_000  # rows of what was brought
_LATELY = 20  # of them count for the speed
_SMALLEST = 1_000_000  # bytes: smaller ones say nothing of it


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload that has begun, or a file that is to be removed again.

    Attributes:
        destination: Service, bucket and key.
        began: In s since 1970.
        size: Bytes of the file.
        sent: Bytes that are there.
        is_complete: Whether the whole file is there.
    """

    destination: str
    began: float
    size: int
    sent: int
    is_complete: bool

    def to_json(self) -> dict[str, JsonValue]:
        """The same keys."""
        return {
            "destination": self.destination,
            "began": self.began,
            "size": self.size,
            "sent": self.sent,
            "is_complete": self.is_complete,
        }


@dataclass(frozen=True, slots=True)
class Brought:
    """One model that was brought.

    Attributes:
        at: In s since 1970.
        target: The target's name.
        model: ``loras/style.safetensors``.
        way: A `Way`'s value.
        seconds: How long it took.
        destination: Where it is, for people: the target, the volume; no address.
    """

    at: float
    target: str
    model: str
    size: int | None
    sha256: str | None
    way: str
    seconds: float
    destination: str

    def to_json(self) -> dict[str, JsonValue]:
        """The same keys."""
        return {
            "at": self.at,
            "target": self.target,
            "model": self.model,
            "size": self.size,
            "sha256": self.sha256,
            "way": self.way,
            "seconds": self.seconds,
            "destination": self.destination,
        }


class BroughtRecord:
    """The file ``synced.sqlite`` in the user's data folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "synced.sqlite"
        self._locks = folder / "sync"

    def add(self, one: Brought) -> None:
        """Note a model that is there now."""
        with self._open() as connection, transaction(connection):
            connection.execute(
                "INSERT INTO brought VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(one.at, one.target, one.model, one.size, one.sha256),
                    *(one.way, one.seconds, one.destination),
                ),
            )
            connection.execute(
                "DELETE FROM brought WHERE rowid <= (SELECT max(rowid) FROM brought) - ?", (_MOST,)
            )

    def all(self, target: str | None = None) -> list[Brought]:
        """What was brought, the newest first."""
        if not self._path.exists():
            return []
        with self._open() as connection:
            rows = connection.execute(
                "SELECT * FROM brought WHERE ? IS NULL OR target = ? ORDER BY at DESC, rowid DESC",
                (target, target),
            ).fetchall()
        return [Brought(*row) for row in rows]

    def speeds(self, target: str) -> Speeds:
        """How fast models came to a target lately."""
        rows = [one for one in self.all(target) if (one.size or 0) >= _SMALLEST]

        def speed(ways: frozenset[str]) -> float | None:
            some = [one for one in rows if one.way in ways][:_LATELY]
            seconds = sum(one.seconds for one in some)
            return sum(one.size or 0 for one in some) / seconds if seconds > 0 else None

        return Speeds(speed(frozenset({"send", "volume", "bucket"})), speed(frozenset({"fetch"})))

    # Uploads

    @contextlib.contextmanager
    def alone(self, destination: str, waits: Callable[[], bool]) -> Iterator[bool]:
        """See `UploadNotes.alone`."""
        # A few files for all destinations: two that share one only wait for each other.
        path = self._locks / f"upload-{hashlib.sha256(destination.encode()).hexdigest()[:2]}.lock"
        with storage_errors(path, denied=OWN_DATA):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            try:
                lock = ProcessLock(path)
            except sqlite3.Error:
                if not waits():
                    yield False
                    return
            else:
                break
        try:
            yield True
        finally:
            lock.close()

    def nonce(self, sha256: str, target: str) -> str:
        """What names the copy of a model that is sent by a bucket to a target from here. It is
        the same until `end` is called with a destination that has it.
        """
        with self._open() as connection, transaction(connection):
            connection.execute(
                "INSERT OR IGNORE INTO copies VALUES (?, ?, ?)",
                (sha256, target, secrets.token_hex(6)),
            )
            row = connection.execute(
                "SELECT nonce FROM copies WHERE sha256 = ? AND target = ?", (sha256, target)
            ).fetchone()
        return str(row[0])

    def upload(self, destination: str) -> Upload | None:
        """The upload to a destination that has begun, if there is one."""
        if not self._path.exists():
            return None
        with self._open() as connection:
            row = connection.execute(
                "SELECT upload_id, sha256, size, part_size FROM uploads WHERE destination = ?",
                (destination,),
            ).fetchone()
            if row is None:
                return None
            parts = connection.execute(
                "SELECT number, etag FROM parts WHERE destination = ?", (destination,)
            )
            upload_id, sha256, size, part_size = row
            etags = dict(parts.fetchall())
            return Upload(destination, upload_id, sha256, size, part_size, etags)

    def unfinished(self) -> list[Unfinished]:
        """What has begun and is not complete, or is to be removed again; the oldest first."""
        if not self._path.exists():
            return []
        with self._open() as connection:
            rows = connection.execute(
                "SELECT destination, began, size, part_size, (SELECT count(*) FROM parts "
                "WHERE parts.destination = uploads.destination) FROM uploads ORDER BY began"
            ).fetchall()
        return [
            Unfinished(name, began, size, min(size, part * count) if part else size, not part)
            for name, began, size, part, count in rows
        ]

    def begin(self, upload: Upload) -> None:
        """Note an upload before its first part is sent."""
        with self._open() as connection, transaction(connection):
            _forget(connection, upload.destination)
            connection.execute(
                "INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?)",
                (
                    *(upload.destination, upload.upload_id, upload.sha256),
                    *(upload.size, upload.part_size, time.time()),
                ),
            )

    def part(self, upload: Upload, number: int, etag: str) -> None:
        """Note a part that is there."""
        with self._open() as connection, transaction(connection):
            connection.execute(
                "INSERT OR REPLACE INTO parts VALUES (?, ?, ?)", (upload.destination, number, etag)
            )

    def end(self, destination: str) -> None:
        """Forget an upload that is complete, or was given up."""
        with self._open() as connection, transaction(connection):
            _forget(connection, destination)
            connection.execute("DELETE FROM copies WHERE instr(?, nonce) > 0", (destination,))

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with storage_errors(self._path, denied=OWN_DATA):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with contextlib.closing(
                sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)
            ) as connection:
                write_ahead(connection, _PATIENCE)
                migrate(connection, _MIGRATIONS)
                yield connection
        except NewerFile:
            raise LocalStorageError(
                f"{self._path} was written by a newer Comfy Remote.",
                advice="Update Comfy Remote.",
            ) from None
        except sqlite3.Error as error:
            raise LocalStorageError(
                f"{self._path} cannot be used: {error}.", advice=OWN_DATA
            ) from error


def _forget(connection: sqlite3.Connection, destination: str) -> None:
    connection.execute("DELETE FROM parts WHERE destination = ?", (destination,))
    connection.execute("DELETE FROM uploads WHERE destination = ?", (destination,))
