"""Stored results in the record: what each run gave, by its key. Their files are in `jobs.cache`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ...database import transaction
from .access import Read, Write

if TYPE_CHECKING:
    from ...types import JsonValue

__all__ = ["Results", "Stored", "StoredResult"]


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What one run gave.

    Attributes:
        key: See `schedule.cache_key`.
        job_id: Of the run.
        created: When it ended, in seconds since the epoch.
        used: When it was taken last, likewise; ``created`` if it never was.
        target: Its target's name.
        source: The workflow's file.
        server: Where it ran (see `targets.base.server_of`), and its ``remote_id`` there, if the key
            holds only while the process lives that ran it; else ``None``.
        run_seconds: How long it ran; ``None`` when that was not seen.
        size: Bytes of its files.
        outputs: What `RemoteOutput` has, without the source, in order.
        shown: By node, what it shows besides.
        hits: How often it was taken.
    """

    key: str
    job_id: str
    created: float
    used: float
    target: str
    source: str
    server: dict[str, str] | None
    run_seconds: float | None
    size: int
    outputs: list[dict[str, JsonValue]]
    shown: dict[str, dict[str, JsonValue]]
    hits: int = 0


@dataclass(frozen=True, slots=True)
class Stored:
    """How much is stored."""

    results: int
    size: int


class Results:
    """Stored results: part of a `Record`, whose `write` and `read` take these methods."""

    def __init__(self, write: Write, read: Read) -> None:
        self._write = write
        self._read = read

    def put(self, result: StoredResult) -> None:
        """Store a result, in place of an earlier one of its key."""

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                _remove(connection, [result.key])
                connection.execute(
                    "INSERT INTO results (key, job, created, used, target, source, server, "
                    "run_seconds, size, outputs, shown) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(result.key, result.job_id, result.created, result.used, result.target),
                        *(result.source, result.server and json.dumps(result.server)),
                        *(result.run_seconds, result.size),
                        *(json.dumps(result.outputs), json.dumps(result.shown)),
                    ),
                )
                connection.executemany(
                    "INSERT OR IGNORE INTO result_files (sha256, key) VALUES (?, ?)",
                    [(output["sha256"], result.key) for output in result.outputs],
                )

        self._write(write)

    def taken(self, key: str, at: float) -> None:
        """Note that a result was used."""
        self._write(
            lambda connection: connection.execute(
                "UPDATE results SET used = ?, hits = hits + 1 WHERE key = ?", (at, key)
            )
        )

    def remove(self, keys: Iterable[str]) -> None:
        """Forget results."""
        wanted = list(keys)

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                _remove(connection, wanted)

        self._write(write)

    def get(self, key: str) -> StoredResult | None:
        """The result of a key."""
        return next(iter(self._results("WHERE key = ?", key)), None)

    def all(self) -> list[StoredResult]:
        """All results, the last used first."""
        return self._results("ORDER BY used DESC, key")

    def total(self) -> Stored:
        """How much is stored."""
        [row] = self._read(
            "SELECT COUNT(*) AS results, COALESCE(SUM(size), 0) AS size FROM results"
        )
        return Stored(row["results"], row["size"])

    def count_of(self, source: str) -> int:
        """How many results of a workflow's file are stored."""
        [row] = self._read("SELECT COUNT(*) AS results FROM results WHERE source = ?", source)
        return int(row["results"])

    def taken_since(self, begin: float, target: str | None = None) -> tuple[int, float]:
        """How many jobs were given a stored result, and the US dollars that it saved, if known.

        Args:
            begin: Jobs that were made from then on, in seconds since the epoch.
            target: Only those of this target.
        """
        where, values = ("", ()) if target is None else (" AND target = ?", (target,))
        rows = self._read(
            f"SELECT cached FROM jobs WHERE cached IS NOT NULL AND created >= ?{where}",  # noqa: S608
            *(begin, *values),
        )
        saved = sum(json.loads(row["cached"]).get("saved") or 0.0 for row in rows)
        return len(rows), saved

    def files(self) -> frozenset[str]:
        """The SHA-256 of the files of all results."""
        rows = self._read("SELECT DISTINCT sha256 FROM result_files")
        return frozenset(row["sha256"] for row in rows)

    def _results(self, condition: str, *values: str) -> list[StoredResult]:
        rows = self._read(f"SELECT * FROM results {condition}", *values)  # noqa: S608
        return [
            StoredResult(
                key=row["key"],
                job_id=row["job"],
                created=row["created"],
                used=row["used"],
                target=row["target"],
                source=row["source"],
                server=json.loads(row["server"]) if row["server"] else None,
                run_seconds=row["run_seconds"],
                size=row["size"],
                outputs=cast("list[dict[str, JsonValue]]", json.loads(row["outputs"])),
                shown=cast("dict[str, dict[str, JsonValue]]", json.loads(row["shown"])),
                hits=row["hits"],
            )
            for row in rows
        ]


def _remove(connection: sqlite3.Connection, keys: list[str]) -> None:
    rows = [(key,) for key in keys]
    connection.executemany("DELETE FROM result_files WHERE key = ?", rows)
    connection.executemany("DELETE FROM results WHERE key = ?", rows)
