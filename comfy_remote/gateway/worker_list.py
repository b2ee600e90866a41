"""Which workers may join a gateway, and what its owner says of them.

It is in the gateway's database, and changed by another process, too: ``comfy-remote workers``,
whether the gateway runs or not. The gateway asks `Journal.worker_notes` about once a second.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, TypeAlias

from ..database import transaction
from ..errors import ConfigurationError
from ..media.files import OWN_DATA, storage_errors
from .schema import DATABASE, connect, database_errors, prepare
from .tokens import name_of_token, sha256_of_token

__all__ = ["Word", "WorkerList", "WorkerNotes", "WorkerToken"]

_LONGEST_TOKEN = 4096

Word: TypeAlias = Literal["drain", "gone"]
"""What an owner says: it gets no more jobs; its machine will not come back."""


@dataclass(frozen=True, slots=True)
class WorkerToken:
    """A token that lets workers join.

    Attributes:
        name: Of the worker that it lets in, or the beginning of several workers' names.
        sha256: Of the token itself, which is stored nowhere.
        created_at: In UTC.
    """

    name: str
    sha256: str
    created_at: str


@dataclass(frozen=True, slots=True)
class WorkerNotes:
    """All tokens, and what the owner says of workers, by name; the value says when, in UTC."""

    tokens: tuple[WorkerToken, ...] = ()
    draining: dict[str, str] = field(default_factory=dict)
    gone: dict[str, str] = field(default_factory=dict)

    @property
    def any_expected(self) -> bool:
        """Whether a worker may come whose owner has not said that it is gone or gets no jobs."""
        away = self.gone.keys() | self.draining.keys()
        return not away.issuperset(token.name for token in self.tokens)

    def admits(self, token: str, worker_id: str) -> bool:
        """Whether the token lets this worker in.

        Its SHA-256 is compared, so the time that this takes says nothing of the token.
        """
        if len(token) > _LONGEST_TOKEN:
            return False
        known = name_of_token(worker_id), sha256_of_token(token)
        return any((one.name, one.sha256) == known for one in self.tokens)

    def knows(self, worker_id: str) -> bool:
        """Whether there is still a token for this worker."""
        return any(one.name == name_of_token(worker_id) for one in self.tokens)

    def is_draining(self, worker_id: str) -> bool:
        """Whether that was said of a worker, or of all workers of its token."""
        return worker_id in self.draining or name_of_token(worker_id) in self.draining

    def is_gone(self, worker_id: str) -> bool:
        """Whether that was said of a worker, or of all workers of its token."""
        return worker_id in self.gone or name_of_token(worker_id) in self.gone


class WorkerList:
    """The list, in a transaction of a connection to the gateway's database.

    In another process than the gateway's::

        with WorkerList.of(folder) as workers:
            workers.add("attic", sha256)
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    @contextlib.contextmanager
    def of(cls, folder: Path) -> Iterator[WorkerList]:
        """The list of the gateway with that folder, which is made when missing. All changes are
        made at the end, together.

        Raises:
            LocalStorageError: The database cannot be used.
        """
        path = folder / DATABASE
        with storage_errors(folder, denied=OWN_DATA):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
        with database_errors(path), contextlib.closing(connect(path)) as connection:
            prepare(connection, path)
            with transaction(connection):
                yield cls(connection)

    def notes(self) -> WorkerNotes:
        """All of it."""
        tokens = self._connection.execute("SELECT * FROM tokens ORDER BY name")
        words = self._connection.execute("SELECT * FROM owners_words ORDER BY worker").fetchall()
        said = {
            word: {row["worker"]: row["said_at"] for row in words if row["word"] == word}
            for word in ("drain", "gone")
        }
        return WorkerNotes(
            tuple(WorkerToken(row["name"], row["sha256"], row["created_at"]) for row in tokens),
            draining=said["drain"],
            gone=said["gone"],
        )

    def add(self, name: str, sha256: str) -> None:
        """Add a token.

        Args:
            sha256: Of the token.

        Raises:
            ConfigurationError: There is one of that name.
        """
        try:
            self._connection.execute("INSERT INTO tokens VALUES (?, ?, ?)", (name, sha256, _now()))
        except sqlite3.IntegrityError as error:
            raise ConfigurationError(
                f"There is a worker {name} already.",
                advice="Choose another name, or remove that one first.",
            ) from error

    def remove(self, name: str) -> bool:
        """Remove a token and what was said of its workers; whether there was one."""
        removed = self._connection.execute("DELETE FROM tokens WHERE name = ?", (name,))
        if removed.rowcount:
            self._connection.execute(
                "DELETE FROM owners_words WHERE worker = ?1 OR substr(worker, 1, ?2) = ?1 || '.'",
                (name, len(name) + 1),
            )
        return removed.rowcount > 0

    def say(self, worker: str, word: Word) -> None:
        """Say something of a worker, until it is taken back."""
        self._connection.execute(
            "INSERT OR REPLACE INTO owners_words VALUES (?, ?, ?)", (worker, word, _now())
        )

    def take_back(self, worker: str, word: Word) -> bool:
        """Take back what was said of a worker, or has been acted on; whether it was."""
        return (
            self._connection.execute(
                "DELETE FROM owners_words WHERE worker = ? AND word = ?", (worker, word)
            ).rowcount
            > 0
        )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
