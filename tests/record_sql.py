"""A record's file, as other programs use it beside the `Record` that has it open."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["locked", "sql"]


def sql(path: Path, statement: str, *values: str | float) -> list[sqlite3.Row]:
    """Run one statement on ``jobs.sqlite3``, and commit."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as database:
        database.row_factory = sqlite3.Row
        return database.execute(statement, values).fetchall()


@contextlib.contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Another process writes to the file, and takes its time."""
    script = (
        "import sqlite3, sys, time\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "database.execute('BEGIN IMMEDIATE')\n"
        "print('locked', flush=True)\n"
        "time.sleep(float(sys.argv[2]))\n"
        "database.execute('COMMIT')\n"
    )
    command = [sys.executable, "-c", script, str(path), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield
    finally:
        process.kill()
        process.communicate()
