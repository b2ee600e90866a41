"""SQL on a record's file, beside the `Record` that has it open."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

__all__ = ["sql"]


def sql(path: Path, statement: str, *values: str | float) -> list[sqlite3.Row]:
    """Run one statement on ``jobs.sqlite3``, and commit."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as database:
        database.row_factory = sqlite3.Row
        return database.execute(statement, values).fetchall()
