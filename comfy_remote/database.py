"""What our SQLite files have in common: whole transactions, and a log that lets others read."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator

__all__ = ["transaction", "write_ahead"]

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
