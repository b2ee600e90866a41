"""A lock that the system releases when its process ends, however it ends, on every platform."""

from __future__ import annotations

import sqlite3
from pathlib import Path

__all__ = ["ProcessLock"]


class ProcessLock:
    """Held from here to `close`, or to the end of the process.

    Args:
        path: The lock's file, made when missing.

    Raises:
        sqlite3.Error: Another process holds it, or files cannot be locked there.
    """

    def __init__(self, path: Path) -> None:
        # SQLite has solved this for all platforms, and is imported anyway.
        self._connection = sqlite3.connect(
            path, timeout=0.0, isolation_level=None, check_same_thread=False
        )
        try:
            self._connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error:
            self._connection.close()
            raise

    def close(self) -> None:
        """Release it."""
        self._connection.close()

    def __del__(self) -> None:
        # Since Python 3.13, SQLite warns if the connection is not closed.
        if hasattr(self, "_connection"):
            self._connection.close()
