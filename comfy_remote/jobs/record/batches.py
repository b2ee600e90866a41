"""Batches in the record: what is known of each, and which of its runs have begun and ended."""

from __future__ import annotations

import sqlite3
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...advice import Hint
from ...data_class import dataclass
from ...database import transaction
from ...errors import ConfigurationError, JobNotFound
from ...schedule.money import Allowance
from .access import Read, Write

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BatchEntry", "BatchState", "Batches", "RunState", "Wanted"]


class BatchState(str, Enum):
    """How far a batch is. A batch that runs may have lost its driver: see `batch.lease`."""

    WAITING = "waiting"  # it has not begun
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"  # each of its runs has
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more happens by itself."""
        return self in (BatchState.ENDED, BatchState.CANCELLED)


class Wanted(str, Enum):
    """What its user wants of the program that drives a batch."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


class RunState(str, Enum):
    """How far one run of a batch is; one that was never begun is not in the record."""

    AGAIN = "again"  # it has ended, and is to begin once more
    BEGUN = "begun"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class BatchEntry:
    """One batch as recorded.

    Attributes:
        id: A lower-case UUID.
        name: As its user calls it; no two batches have the same.
        created: Seconds since the epoch, like ``updated``.
        target: The name or address that it runs on.
        source: The workflow's file.
        folder: Where its outputs, manifest and sheet are.
        count: Its runs.
        why: Why it is paused, a sentence.
        wanted: What its user has asked for last.
        made_by: What made it: ``page …``, for one that its server takes up again; ``""``.
        cap: US dollars that all of it may cost, beside the caps that are configured.
        over_cap: Whether it may go over every cap.
        begun: Runs that have begun and not ended.
    """

    id: str
    name: str
    created: float
    updated: float
    target: str
    source: str
    folder: Path
    count: int
    state: BatchState
    why: str | None
    wanted: Wanted
    made_by: str = ""
    begun: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    cap: float | None = None
    over_cap: bool = False

    @property
    def left(self) -> int:
        """Runs that have not ended."""
        return self.count - self.succeeded - self.failed - self.cancelled


_COUNTED = """
    SELECT batches.*, COALESCE(SUM(runs.state = 'begun'), 0) AS begun,
    COALESCE(SUM(runs.state = 'succeeded'), 0) AS succeeded,
    COALESCE(SUM(runs.state = 'failed'), 0) AS failed,
    COALESCE(SUM(runs.state = 'cancelled'), 0) AS cancelled
    FROM batches LEFT JOIN batch_runs AS runs ON runs.batch = batches.id
"""


class Batches:
    """The record's batches: part of a `Record`, whose `write` and `read` take these methods."""

    def __init__(self, write: Write, read: Read) -> None:
        self._write = write
        self._read = read

    def add(self, entry: BatchEntry) -> None:
        """Record a new batch.

        Raises:
            ConfigurationError: Another has its name.
        """

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                taken = connection.execute(
                    "SELECT 1 FROM batches WHERE name = ?", (entry.name,)
                ).fetchone()
                if taken:
                    raise ConfigurationError(
                        f"There is a batch called {entry.name!r} already.",
                        advice=Hint.BATCH_NAME(batch=entry.name),
                    )
                connection.execute(
                    "INSERT INTO batches (id, name, created, updated, target, source, folder, "
                    "count, state, why, wanted, made_by, cap, over_cap) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(entry.id, entry.name, entry.created, entry.updated, entry.target),
                        *(entry.source, str(entry.folder), entry.count, entry.state.value),
                        *(entry.why, entry.wanted.value, entry.made_by, entry.cap, entry.over_cap),
                    ),
                )

        self._write(write)

    def state(self, batch_id: str, state: BatchState, why: str | None = None) -> None:
        """Note that a batch has reached another state."""
        self._execute(
            "UPDATE batches SET state = ?, why = ?, updated = ? WHERE id = ?",
            *(state.value, why, time.time(), batch_id),
        )

    def want(self, batch_id: str, wanted: Wanted) -> None:
        """Note what its user wants; the program that drives it looks every second."""
        self._execute(
            "UPDATE batches SET wanted = ?, updated = ? WHERE id = ?",
            *(wanted.value, time.time(), batch_id),
        )

    def allow(self, batch_id: str, cap: float | None, *, over_cap: bool) -> None:
        """Change what a batch may cost; with neither, it stays as it is.

        Args:
            cap: US dollars in all; then it no longer goes over caps.
        """
        if cap is not None or over_cap:
            self._execute(
                "UPDATE batches SET cap = COALESCE(?, cap), over_cap = ?, updated = ? WHERE id = ?",
                *(cap, over_cap, time.time(), batch_id),
            )

    def run(self, batch_id: str, row: int, attempt: int, state: RunState) -> None:
        """Note how far one run is."""
        self._execute(
            "INSERT OR REPLACE INTO batch_runs (batch, row, attempt, state) VALUES (?, ?, ?, ?)",
            *(batch_id, row, attempt, state.value),
        )

    def retry_failed(self, batch_id: str, rows: Sequence[int] | None = None) -> int:
        """Let its failed and cancelled runs begin once more; how many.

        Args:
            rows: Only these.
        """
        again = "batch = ? AND state IN ('failed', 'cancelled')"

        def write(connection: sqlite3.Connection) -> int:
            with transaction(connection):
                found = connection.execute(
                    f"SELECT row FROM batch_runs WHERE {again}",  # noqa: S608
                    (batch_id,),
                ).fetchall()
                chosen = [row[0] for row in found if rows is None or row[0] in rows]
                connection.executemany(
                    "UPDATE batch_runs SET attempt = attempt + 1, state = 'again' "
                    "WHERE batch = ? AND row = ?",
                    [(batch_id, row) for row in chosen],
                )
            return len(chosen)

        return self._write(write)

    def remove(self, batch_id: str) -> None:
        """Forget a batch. Its jobs stay in the record, until that forgets them."""

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.execute("DELETE FROM batch_runs WHERE batch = ?", (batch_id,))
                connection.execute("DELETE FROM batches WHERE id = ?", (batch_id,))

        self._write(write)

    # Reading

    def names(self) -> set[str]:
        """What the batches are called."""
        return {row["name"] for row in self._read("SELECT name FROM batches")}

    def all(self, newest: int = -1) -> list[BatchEntry]:
        """Every batch, the newest first.

        Args:
            newest: At most so many; all if it is negative.
        """
        wanted = "SELECT id FROM batches ORDER BY created DESC LIMIT ?"
        rows = self._read(
            f"{_COUNTED} WHERE batches.id IN ({wanted}) GROUP BY batches.id ORDER BY created DESC",
            newest,
        )
        return [_entry_of(row) for row in rows]

    def get(self, batch: str) -> BatchEntry:
        """One batch, by its name, its id or the beginning of that (at least four characters).

        Raises:
            JobNotFound: There is none, or several begin so.
        """
        rows = self._read(f"{_COUNTED} WHERE name = ? GROUP BY batches.id", batch)
        if not rows and len(batch) >= 4:
            query = f"{_COUNTED} WHERE substr(id, 1, ?) = ? GROUP BY batches.id"
            rows = self._read(query, len(batch), batch.lower())
        if len(rows) == 1:
            return _entry_of(rows[0])
        if rows:
            raise JobNotFound(
                f"{len(rows)} batches begin with {batch!r}.", advice="Give more of the id."
            )
        raise JobNotFound(f"There is no batch {batch!r}.", advice=Hint.WHICH_BATCH())

    def wanted(self, batch_id: str) -> Wanted:
        """What its user has asked for last; a cancel where the batch was removed meanwhile."""
        rows = self._read("SELECT wanted FROM batches WHERE id = ?", batch_id)
        return Wanted(rows[0]["wanted"]) if rows else Wanted.CANCEL

    def allowance(self, batch_id: str) -> Allowance:
        """What may be spent on all of a batch."""
        rows = self._read("SELECT cap, over_cap FROM batches WHERE id = ?", batch_id)
        return Allowance(rows[0]["cap"], bool(rows[0]["over_cap"])) if rows else Allowance()

    def runs(self, batch_id: str) -> dict[int, tuple[int, RunState]]:
        """The attempt and the state of each run that has begun, by its row."""
        rows = self._read("SELECT row, attempt, state FROM batch_runs WHERE batch = ?", batch_id)
        return {row["row"]: (row["attempt"], RunState(row["state"])) for row in rows}

    def under_way(self, batch_id: str) -> dict[int, int]:
        """The attempt of each run that has begun and not ended, by its row."""
        rows = self._read(
            "SELECT row, attempt FROM batch_runs WHERE batch = ? AND state = 'begun' ORDER BY row",
            batch_id,
        )
        return {row["row"]: row["attempt"] for row in rows}

    def _execute(self, sql: str, *values: Any) -> None:
        self._write(lambda connection: connection.execute(sql, values))


def _entry_of(row: sqlite3.Row) -> BatchEntry:
    counts = ("begun", "succeeded", "failed", "cancelled")
    return BatchEntry(
        id=row["id"],
        name=row["name"],
        created=row["created"],
        updated=row["updated"],
        target=row["target"],
        source=row["source"],
        folder=Path(row["folder"]),
        count=row["count"],
        state=BatchState(row["state"]),
        why=row["why"],
        wanted=Wanted(row["wanted"]),
        made_by=row["made_by"],
        cap=row["cap"],
        over_cap=bool(row["over_cap"]),
        **{name: int(row[name]) for name in counts},
    )
