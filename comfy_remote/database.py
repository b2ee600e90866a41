"""What our SQLite files have in common: whole transactions, and a log that lets others read."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

__all__ = ["MigrationStep", "NewerFile", "migrate", "transaction", "write_ahead"]

MigrationStep: TypeAlias = "str | Callable[[sqlite3.Connection], None]"
"""SQL, or what is to be done in Python."""

_TRY_AGAIN_AFTER = 0.01


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is written in it, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself has rolled it back where the disk is full
            connection.execute("ROLLBACK")
        raise


def write_ahead(connection: sqlite3.Connection, patience: float) -> None:
    """Set the journal that lets others read while one writes. This blocks.

    Args:
        patience: Seconds to wait for another process that does the same.

    Raises:
        sqlite3.Error: It cannot be set.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # SQLite's own waiting leaves this one out: two who make the file at once collide.
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_TRY_AGAIN_AFTER)


class NewerFile(Exception):
    """A newer version of this program wrote the file."""


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[MigrationStep]]) -> None:
    """Bring a file to its current version, completely or not at all. This blocks.

    Args:
        migrations: What leads from each version to the next; only ever added to.

    Raises:
        NewerFile: Nothing was changed.
        sqlite3.Error: It cannot be read or written.
    """
    if _version(connection) == len(migrations):
        return
    with transaction(connection):  # two programs that start at once: the second waits here
        version = _version(connection)
        if version > len(migrations):
            raise NewerFile
        for steps in migrations[version:]:
            for step in steps:
                if callable(step):
                    step(connection)
                else:
                    connection.execute(step)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
