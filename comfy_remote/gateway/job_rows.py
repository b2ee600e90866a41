"""Jobs as rows of the gateway's database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeAlias

from pydantic import TypeAdapter

from ..wire.runpod import RunPodState
from .job import Attempt, Job
from .offers import Needs

__all__ = ["JobRow", "delete_row", "forget_row", "insert_row", "jobs_where", "row_of", "update_row"]

_Value: TypeAlias = "str | bytes | int | float | None"
Use: TypeAlias = "tuple[str, str]"
"""A role (see `schema`) and the SHA-256 of a file."""

_EARLIER = TypeAdapter(tuple[Attempt, ...])
_LABELS = TypeAdapter(frozenset[str])
_NEEDS = TypeAdapter(Needs)

_FIXED = (
    *("number", "id", "key", "created_at", "execution_timeout", "retention", "result_limit"),
    *("webhook", "client", "batch", "priority", "low_priority", "repeat_lost", "memory"),
)
_CHANGING = (
    *("attempt", "lost", "worker", "boot", "created", "queued", "expires", "started", "finished"),
    *("forgotten", "owed", "front"),
)
_YES_OR_NO = ("low_priority", "repeat_lost", "owed", "front")
_ATTRIBUTES = {name: name for name in (*_FIXED, *_CHANGING)} | {
    "key": "idempotency_key",
    "worker": "worker_id",
}
_fixed_of = attrgetter(*(_ATTRIBUTES[name] for name in _FIXED))
_changing_of = attrgetter(*(_ATTRIBUTES[name] for name in _CHANGING))
_ALL_FIXED = (*_FIXED, "labels", "needs")
_ALL_CHANGING = (*_CHANGING, "state", "earlier", "more", "due")

_INSERT = (
    f"INSERT INTO jobs ({', '.join([*_ALL_FIXED, *_ALL_CHANGING])}) "  # noqa: S608  our own names
    f"VALUES ({', '.join('?' * len([*_ALL_FIXED, *_ALL_CHANGING]))})"
)
_UPDATE = (
    f"UPDATE jobs SET {', '.join(f'{name} = ?' for name in _ALL_CHANGING)} "  # noqa: S608
    "WHERE number = ?"
)


@dataclass(slots=True)  # not frozen: that takes three times as long to make
class JobRow:
    """What the database is to say of a job, copied from it at one moment.

    Attributes:
        job: For the columns that never change.
        changing: The values of the others.
        input: Its input, if that is no file; it never becomes another.
        uses: The files it needs.
        is_gone: Whether nothing is to be known of it any more, not even its key.
        waits: Whether it is in the line.
        size: Bytes it takes, roughly.
    """

    job: Job
    changing: tuple[_Value, ...]
    input: bytes | None
    uses: frozenset[Use]
    is_gone: bool
    waits: bool
    size: int


def row_of(job: Job, key_retention: float) -> JobRow:
    """The row of a job as it is now."""
    more = job.more if job.state.final else b"{}"  # progress is in memory only
    uses = frozenset(_uses(job))
    job.has_used_files = job.has_used_files or bool(uses)
    return JobRow(
        job,
        (
            *_changing_of(job),
            job.state.value,
            _EARLIER.dump_json(job.earlier) if job.earlier else b"[]",
            more,
            _due(job, key_retention),
        ),
        job.input,
        uses,
        is_gone=job.forgotten is not None and job.idempotency_key is None,
        waits=job.state is RunPodState.IN_QUEUE,
        size=1024 + len(more) + len(job.input or b"") + 160 * len(uses),
    )


def jobs_where(connection: sqlite3.Connection, condition: str, *values: _Value) -> list[Job]:
    """The jobs for which an SQL condition holds, oldest first.

    Raises:
        sqlite3.Error: The database cannot be read.
        ValueError, LookupError, TypeError: A row was not written by this program.
    """
    found = connection.execute(
        f"SELECT * FROM jobs LEFT JOIN inputs USING (number) WHERE {condition} "  # noqa: S608
        "ORDER BY number",
        values,
    )
    return [_job_of(row, _uses_of(connection, row["number"])) for row in found.fetchall()]


def _job_of(row: sqlite3.Row, uses: Iterable[Use]) -> Job:
    files: dict[str, set[str]] = {}
    for role, sha256 in uses:
        files.setdefault(role, set()).add(sha256)
    return Job(
        **{attribute: row[name] for name, attribute in _ATTRIBUTES.items()}
        | {name: bool(row[name]) for name in _YES_OR_NO},
        labels=_LABELS.validate_json(row["labels"]),
        needs=_NEEDS.validate_json(row["needs"]),
        state=RunPodState(row["state"]),
        earlier=_EARLIER.validate_json(row["earlier"]),
        more=row["more"],
        input=row["input"],
        input_file=next(iter(files.get("input", ())), None),
        input_files=frozenset(files.get("input file", ())),
        result=next(iter(files.get("result", ())), None),
        output_files=frozenset(files.get("output file", ())),
        has_used_files=bool(files),
    )


def _uses_of(connection: sqlite3.Connection, number: int) -> frozenset[Use]:
    """The files that a job needs, according to the database."""
    found = connection.execute("SELECT role, sha256 FROM uses WHERE number = ?", (number,))
    return frozenset((role, sha256) for role, sha256 in found)


def insert_row(connection: sqlite3.Connection, row: JobRow) -> None:
    """Write a new job."""
    job = row.job
    fixed = *_fixed_of(job), _LABELS.dump_json(job.labels), _NEEDS.dump_json(job.needs)
    connection.execute(_INSERT, (*fixed, *row.changing))
    if row.input is not None:
        connection.execute("INSERT INTO inputs VALUES (?, ?)", (row.job.number, row.input))
    if row.uses:
        _add_uses(connection, row.job.number, row.uses)


def update_row(connection: sqlite3.Connection, row: JobRow) -> list[str]:
    """Write what has changed of a job; the files that it does not need any more."""
    number = row.job.number
    if row.is_gone:
        return delete_row(connection, number)
    if connection.execute(_UPDATE, (*row.changing, number)).rowcount == 0:
        # Its result was forgotten at the moment when a client retried it.
        insert_row(connection, row)
        return []
    if row.input is None:
        _drop_input(connection, number)
    elif row.waits:
        # The same of one with a key, whose row stayed without its input.
        connection.execute("INSERT OR IGNORE INTO inputs VALUES (?, ?)", (number, row.input))
    if not row.job.has_used_files:
        return []
    before = _uses_of(connection, number)
    if before == row.uses:
        return []
    dropped = before - row.uses
    connection.executemany(
        "DELETE FROM uses WHERE number = ? AND role = ? AND sha256 = ?",
        [(number, *use) for use in dropped],
    )
    _add_uses(connection, number, row.uses - before)
    return [sha256 for _, sha256 in dropped]


def forget_row(connection: sqlite3.Connection, number: int, now: float, due: float) -> list[str]:
    """Leave nothing of a job but its key; the files that it needed."""
    dropped = [sha256 for _, sha256 in _uses_of(connection, number)]
    if dropped:
        connection.execute("DELETE FROM uses WHERE number = ?", (number,))
    _drop_input(connection, number)
    connection.execute(
        "UPDATE jobs SET forgotten = ?, due = ?, more = X'7B7D' WHERE number = ?",
        (now, due, number),
    )
    return dropped


def delete_row(connection: sqlite3.Connection, number: int) -> list[str]:
    """Delete a job; the files that it needed."""
    dropped = [sha256 for _, sha256 in _uses_of(connection, number)]
    if dropped:
        connection.execute("DELETE FROM uses WHERE number = ?", (number,))
    _drop_input(connection, number)
    connection.execute("DELETE FROM jobs WHERE number = ?", (number,))
    return dropped


def _drop_input(connection: sqlite3.Connection, number: int) -> None:
    connection.execute("DELETE FROM inputs WHERE number = ?", (number,))


def _add_uses(connection: sqlite3.Connection, number: int, uses: Iterable[Use]) -> None:
    connection.executemany("INSERT INTO uses VALUES (?, ?, ?)", [(number, *use) for use in uses])


def _uses(job: Job) -> Iterable[Use]:
    if job.forgotten is not None:
        return
    if job.input_file is not None:
        yield "input", job.input_file
    if job.result is not None:
        yield "result", job.result
    yield from (("input file", sha256) for sha256 in job.input_files)
    yield from (("output file", sha256) for sha256 in job.output_files)


def _due(job: Job, key_retention: float) -> float | None:
    if job.forgotten is not None:
        return job.forgotten + key_retention
    if job.finished is None or not job.state.final or job.owed:
        return None
    return job.finished + job.retention
