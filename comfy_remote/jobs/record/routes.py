"""Routes in the record: the steps of their jobs, and the members that cool down."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from ...database import transaction
from ...secrets import redact, redact_json
from ...targets.base import RemoteRef
from .access import Read, Write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...schedule.caps import Cap
    from ...schedule.money import Charge
    from ...targets.route.journal import Begun, Step
    from .ledger import Ledger

__all__ = ["Routes"]

_REMEMBERED = 86400.0
"""Seconds after which the failures of a member do not count any more."""


_UNDER_WAY = 86400.0
"""Seconds without news after which a job that has not ended does not count as one."""
_THERE = (
    "SELECT id, COALESCE(placed, target) AS name FROM jobs "
    "WHERE state IN ('queued', 'running') AND updated > ?"
)


class Routes:
    """What routes have done: part of a `Record`, whose `write` and `read` take these methods.

    Args:
        ledger: Of the same record.
    """

    def __init__(self, write: Write, read: Read, ledger: Ledger) -> None:
        self._write = write
        self._read = read
        self._ledger = ledger

    def begin(
        self,
        step: Step,
        charge: Charge | None = None,
        caps: Iterable[Cap] = (),
        at_most: int | None = None,
    ) -> Begun:
        """See `targets.route.journal.Journal.begin`.

        Args:
            charge: What the job may cost at the member, which is reserved instead of what was
                reserved for the step before; ``None`` where it costs nothing.
            caps: Those that apply to it.
            at_most: How many jobs the member may have at a time.

        Raises:
            SpendingCap: It does not fit under a cap; nothing is changed.
        """

        def write(connection: sqlite3.Connection) -> Begun:
            with transaction(connection):
                row = connection.execute(
                    "SELECT cancel_wanted FROM jobs WHERE id = ?", (step.job_id,)
                ).fetchone()
                if row is None or row["cancel_wanted"] is not None:
                    return "cancelled"
                last = connection.execute(
                    "SELECT number, state FROM route_steps WHERE job = ? "
                    "ORDER BY number DESC LIMIT 1",
                    (step.job_id,),
                ).fetchone()
                if step.number != (1 if last is None else last["number"] + 1):
                    return "taken"
                if last is not None and not StepState(last["state"]).surely_not:
                    return "taken"
                if at_most is not None:
                    there = connection.execute(
                        f"SELECT name FROM ({_THERE}) WHERE name = ? AND id <> ?",  # noqa: S608
                        (time.time() - _UNDER_WAY, step.member, step.job_id),
                    ).fetchall()
                    if len(there) >= at_most:
                        return "full"
                self._ledger.move(connection, step.job_id, charge, caps)
                connection.execute(
                    "INSERT INTO route_steps (job, number, member, at, state, why, decision) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(step.job_id, step.number, step.member, step.at, step.state.value),
                        *(redact(step.why), json.dumps(redact_json([*step.decision]))),
                    ),
                )
                connection.execute(
                    "UPDATE jobs SET placed = ?, updated = ? WHERE id = ?",
                    (step.member, step.at, step.job_id),
                )
            return "begun"

        from ...targets.route.journal import StepState  # here: most programs have no routes

        return self._write(write)

    def note(self, step: Step) -> None:
        """See `targets.route.journal.Journal.note`; the job gets the reference of its member."""
        ref = step.ref
        remote_id = None if ref is None else ref.remote_id
        details = None if ref is None else json.dumps(dict(ref.details))

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                connection.execute(
                    "UPDATE route_steps SET state = ?, remote_id = ?, details = ? "
                    "WHERE job = ? AND number = ?",
                    (step.state.value, remote_id, details, step.job_id, step.number),
                )
                if ref is not None:
                    connection.execute(
                        "UPDATE jobs SET remote_id = ?, details = ?, updated = ? WHERE id = ?",
                        (remote_id, details, time.time(), step.job_id),
                    )

        self._write(write)

    def cancel(self, job_id: str) -> None:
        """Note that the user has cancelled a job."""
        self._execute(
            "UPDATE jobs SET cancel_wanted = COALESCE(cancel_wanted, ?) WHERE id = ?",
            *(time.time(), job_id),
        )

    def failed(self, member: str, cooled_for: Callable[[int], float]) -> None:
        """Note that a member has failed once more, and cools down for so many seconds."""

        def write(connection: sqlite3.Connection) -> None:
            now = time.time()
            with transaction(connection):
                connection.execute(
                    "DELETE FROM route_members WHERE until < ?", (now - _REMEMBERED,)
                )
                row = connection.execute(
                    "SELECT failures FROM route_members WHERE name = ?", (member,)
                ).fetchone()
                failures = 1 if row is None else row["failures"] + 1
                connection.execute(
                    "INSERT OR REPLACE INTO route_members (name, failures, until) VALUES (?, ?, ?)",
                    (member, failures, now + cooled_for(failures)),
                )

        self._write(write)

    def worked(self, member: str) -> None:
        """Note that a member works: its failures do not count any more."""
        self._execute("DELETE FROM route_members WHERE name = ?", member)

    # Reading

    def steps(self, job_id: str) -> list[Step]:
        """All steps of a job, in order."""
        from ...targets.route.journal import Step, StepState

        rows = self._read("SELECT * FROM route_steps WHERE job = ? ORDER BY number", job_id)
        return [
            Step(
                job_id,
                row["number"],
                row["member"],
                StepState(row["state"]),
                None
                if row["remote_id"] is None
                else RemoteRef(job_id, row["remote_id"], json.loads(row["details"])),
                row["why"],
                row["at"],
                json.loads(row["decision"]),
            )
            for row in rows
        ]

    def cancelled(self, job_id: str) -> bool:
        """Whether the user has cancelled a job."""
        rows = self._read("SELECT cancel_wanted FROM jobs WHERE id = ?", job_id)
        return not rows or rows[0]["cancel_wanted"] is not None

    def cooling(self, members: Sequence[str]) -> dict[str, float]:
        """Seconds that members have to cool down yet, by name; only those that do."""
        now = time.time()
        rows = self._read("SELECT name, until FROM route_members WHERE until > ?", now)
        return {row["name"]: row["until"] - now for row in rows if row["name"] in members}

    def ours(self) -> Mapping[str, int]:
        """How many jobs that have not ended were sent to each target, by its name."""
        rows = self._read(
            f"SELECT name, COUNT(*) AS jobs FROM ({_THERE}) GROUP BY name",  # noqa: S608
            time.time() - _UNDER_WAY,
        )
        return {row["name"]: row["jobs"] for row in rows}

    def last_target(self, shape: str) -> str | None:
        """Where prompts of this shape were last sent to."""
        rows = self._read(
            "SELECT COALESCE(placed, target) AS name FROM jobs WHERE shape = ? AND "
            "state != 'failed' ORDER BY created DESC LIMIT 1",
            shape,
        )
        return rows[0]["name"] if rows else None

    def _execute(self, sql: str, *values: str | float) -> None:
        self._write(lambda connection: connection.execute(sql, values))
