"""A record's file, as other programs use it beside the `Record` that has it open."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["locked", "sql"]


def sql(path: Path, statement: str, *values: str | float) -> list[sqlite3.Row]:
    """Run one statement on ``jobs.sqlite3``, and commit."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as database:
        database.row_factory = sqlite3.Row
        return database.execute(statement, values).fetchall()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Callable[[], None]]:
    """Another process writes to the file until this is left, or what it gives is called."""
    script = (
        "import sqlite3, sys\n"
        "database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "database.execute('BEGIN IMMEDIATE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
        "database.execute('COMMIT')\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process.stdin.close
