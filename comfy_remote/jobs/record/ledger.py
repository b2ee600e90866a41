"""What jobs cost, in the record: reserved before a job is sent, settled when it has ended.

A reservation is made in the transaction that records the job, so of two programs that start jobs at
once, the second sees what the first has reserved, and no cap is exceeded by both together. It
belongs to the day on which the job was sent. All amounts are estimates: they follow from a price
and from the seconds that a target tells.

```
held       reserved; a day later without an end, it counts as uncertain
settled    the job has ended, and how long it ran is known
uncertain  how long it ran, or whether, is not known: what was reserved counts
released   it certainly did not run: nothing counts
```
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, replace
from datetime import tzinfo
from enum import Enum
from typing import Literal, TypeAlias

from ...database import transaction
from ...errors import ComfyRemoteError
from ...events import DidItRun, JobState
from ...schedule.bill import Usage
from ...schedule.caps import Cap, check
from ...schedule.days import day_of, day_start, month_start
from ...schedule.money import Charge, Price
from ...types import JsonValue
from ...units import about_dollars, dollars
from .access import Read, Write

__all__ = ["Booked", "Booking", "By", "Ledger", "LedgerRetention", "Spent"]

By: TypeAlias = Literal["target", "day", "workflow", "batch"]

UNKNOWN_FOR = 24 * 3600.0
"""Seconds, after the longest that it was to run, for which a job's end may still become known."""
_CLOCK_AHEAD = 2 * 86400.0
"""Seconds: what is dated later, by a clock that was wrong, does not count under a cap now."""
_FORGET_EVERY = 64  # charges that are added
_LONGER = "it runs longer than expected"
_NEWEST = "SELECT * FROM charges WHERE job = ? ORDER BY number DESC"


class Booked(str, Enum):
    """What is known of a charge; see the module."""

    HELD = "held"
    SETTLED = "settled"
    UNCERTAIN = "uncertain"
    RELEASED = "released"

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class LedgerRetention:
    """Which charges are forgotten. They outlive their jobs.

    Attributes:
        seconds: How long after its job was sent a charge stays.
        charges: How many of the newest stay.
    """

    seconds: float = 400 * 86400.0
    charges: int = 200_000


@dataclass(frozen=True, slots=True)
class Booking:
    """What one job costs.

    Attributes:
        at: When it was reserved, in seconds since the epoch.
        workflow: The workflow's file, or a word for where it came from.
        batch: The id of its batch.
        price: ``None`` where it was not known.
        bound: Seconds that it was reserved for.
        why: Where the bound comes from, for people.
        estimated: US dollars, by what was known before; ``None`` where nothing was.
        reserved: US dollars; ``None`` without a price, like ``amount``.
        amount: US dollars that count: what is reserved while it is held, then what it cost.
        seconds: That were billed, as far as is known; ``None`` before its end.
        by_hour, over_cap: See `Charge`.
    """

    job: str
    at: float
    target: str
    workflow: str
    batch: str | None
    price: Price | None
    bound: float
    why: str
    estimated: float | None
    reserved: float | None
    amount: float | None
    seconds: float | None
    booked: Booked
    by_hour: bool
    over_cap: bool

    def sentence(self) -> str:
        """For people: ``It cost about $0.02, and $0.03 was estimated.``"""
        if self.booked is Booked.RELEASED:
            return "It cost nothing."
        if self.amount is None:
            return "What it cost is not known: the target has no known price."
        cost = dollars(self.amount)
        if self.booked is Booked.HELD:
            return f"Up to {cost} is reserved for it ({self.why})."
        if self.booked is Booked.UNCERTAIN:
            return f"How long it ran is not known: at most {cost}, which was reserved for it."
        of_hour = " of what the target costs as long as it exists" if self.by_hour else ""
        known = "" if self.estimated is None else f", and {dollars(self.estimated)} was estimated"
        return f"It cost {about_dollars(self.amount)}{of_hour}{known}."

    def to_json(self) -> dict[str, JsonValue]:
        """``{"booked", "dollars", "estimated", "reserved", "seconds", "by_hour"}``, US dollars."""
        return {
            "booked": self.booked.value,
            "dollars": _rounded(self.amount),
            "estimated": _rounded(self.estimated),
            "reserved": _rounded(self.reserved),
            "seconds": self.seconds,
            "by_hour": self.by_hour,
        }


@dataclass(frozen=True, slots=True)
class Spent:
    """What some jobs cost together.

    Attributes:
        name: Of the target, day, workflow or batch; ``""`` for all, or for those of no batch.
        runs: All that count, without those that certainly did not run.
        amount: US dollars, settled, reserved and uncertain together.
        reserved: Of that, for jobs that have not ended.
        uncertain: Of that, for jobs whose end is not known.
        estimated: US dollars that were estimated before, for the runs of ``compared``.
        compared: What those runs cost that were estimated before and are settled.
        seconds: That were billed, as far as is known.
        unpriced: Runs whose price was not known; their costs are in no amount.
    """

    name: str
    runs: int
    amount: float
    reserved: float
    uncertain: float
    estimated: float
    compared: float
    seconds: float
    unpriced: int

    def __add__(self, other: Spent) -> Spent:
        """Both together, under the first one's name."""
        pairs = zip(astuple(self)[1:], astuple(other)[1:], strict=True)
        return Spent(self.name, *(one + another for one, another in pairs))


_QUARTER = 900  # seconds: days begin at a multiple of it, everywhere
_KEYS = {
    None: "''",
    "target": "target",
    "workflow": "workflow",
    "batch": "COALESCE((SELECT name FROM batches WHERE id = batch), batch, '')",
    "day": f"CAST(at / {_QUARTER} AS INTEGER)",
}
_SUMS = """
    SELECT {key} AS key, COUNT(*), TOTAL(amount),
    TOTAL(CASE WHEN booked = 'held' AND at + bound >= {stale} THEN amount END),
    TOTAL(CASE WHEN booked = 'uncertain' THEN amount
               WHEN booked = 'held' AND at + bound < {stale} THEN amount END),
    TOTAL(CASE WHEN booked = 'settled' AND amount IS NOT NULL THEN estimated END),
    TOTAL(CASE WHEN booked = 'settled' AND estimated IS NOT NULL THEN amount END),
    TOTAL(seconds), SUM(amount IS NULL)
"""


class Ledger:
    """What jobs cost: part of a `Record`, whose `write` and `read` take these methods.

    Args:
        now: Seconds since the epoch.
        zone: In which days and months begin; the local one by default.
    """

    def __init__(
        self,
        write: Write,
        read: Read,
        *,
        retention: LedgerRetention = LedgerRetention(),
        now: Callable[[], float] = time.time,
        zone: tzinfo | None = None,
    ) -> None:
        self._write = write
        self._read = read
        self._now = now
        self._zone = zone
        self.retention = retention

    # In the record's own transactions

    def reserve(
        self,
        connection: sqlite3.Connection,
        job_id: str,
        charge: Charge,
        caps: Iterable[Cap],
        *,
        workflow: str,
        batch: str | None,
    ) -> None:
        """Reserve what a job may cost, in a transaction that writes.

        Raises:
            SpendingCap: It does not fit under a cap.
        """
        now, price = self._now(), charge.price
        check(charge, caps, lambda cap: self._used(_rows_of(connection), cap, batch))
        said = (None,) * 3 if price is None else (price.per_hour, price.source, price.at)
        number = connection.execute(
            "INSERT INTO charges (job, at, target, workflow, batch, price, price_source, price_at, "
            "bound, why, estimated, reserved, amount, booked, by_hour, over_cap) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'held', ?, ?)",
            (
                *(job_id, now, charge.target, workflow, batch, *said, charge.bound, charge.why),
                *(charge.estimated, charge.reserved, charge.reserved, charge.by_hour),
                charge.over_cap,
            ),
        ).lastrowid
        if number is not None and number % _FORGET_EVERY == 0:
            self._forget(connection, now)

    def settle(
        self,
        connection: sqlite3.Connection,
        job_id: str,
        state: JobState,
        error: ComfyRemoteError | None,
        seconds: float | None,
    ) -> None:
        """Book how a job has ended, in the transaction that records its state.

        What certainly did not run is released. Where it may still run, its reservation is held.

        Args:
            seconds: That are billed; ``None`` where that is not known.
        """
        grade = DidItRun.of(error)
        if not state.final or (grade is DidItRun.UNKNOWN and seconds is None):
            return
        row = connection.execute(f"{_NEWEST} LIMIT 1", (job_id,)).fetchone()
        if row is None:
            return
        number = row["number"]
        [member] = connection.execute("SELECT placed FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if member is not None and row["booked"] == Booked.RELEASED.value:
            return  # its route has sent it on to a member that costs nothing
        if grade is not None and grade.surely_not:
            _release(connection, number)
        elif seconds is not None:
            _settle(connection, row, seconds)
        elif row["booked"] == Booked.HELD.value:
            connection.execute(
                "UPDATE charges SET booked = 'uncertain' WHERE number = ?", (number,)
            )

    def move(
        self,
        connection: sqlite3.Connection,
        job_id: str,
        charge: Charge | None,
        caps: Iterable[Cap],
    ) -> None:
        """Release what a job holds, and reserve for it on another target.

        Args:
            charge: ``None`` for a target that costs nothing.

        Raises:
            SpendingCap: It does not fit under a cap there; the transaction must be undone.
        """
        job = connection.execute(
            "SELECT source, batch FROM jobs WHERE id = ?", (job_id,)
        ).fetchone()
        held = connection.execute(f"{_NEWEST} LIMIT 1", (job_id,)).fetchone()
        if held is not None and held["booked"] == Booked.HELD.value:
            _release(connection, held["number"])
        if charge is not None:
            self.reserve(
                *(connection, job_id, charge, caps),
                workflow=job["source"],
                batch=job["batch"],
            )

    # Writing

    def top_up(self, job_id: str, bound: float, caps: Iterable[Cap] = ()) -> None:
        """Reserve more for a job that runs longer than expected.

        Args:
            bound: Seconds that it is reserved for now.

        Raises:
            SpendingCap: It does not fit under a cap; nothing is changed.
        """

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                row = connection.execute(f"{_NEWEST} LIMIT 1", (job_id,)).fetchone()
                if row is None or row["booked"] != Booked.HELD.value or row["bound"] >= bound:
                    return
                charge = replace(_charge_of(row), bound=bound, why=_LONGER)
                rows, batch = _rows_of(connection), row["batch"]
                check(charge, caps, lambda cap: self._used(rows, cap, batch, row))
                connection.execute(
                    "UPDATE charges SET bound = ?, why = ?, reserved = ?, amount = ? "
                    "WHERE number = ?",
                    (bound, charge.why, charge.reserved, charge.reserved, row["number"]),
                )

        self._write(write)

    def hold(self, lease: str, charge: Charge, caps: Iterable[Cap], workflow: str) -> None:
        """Reserve for something that is no job, under an id of its own; `end` settles it.

        Args:
            workflow: What stands for it.

        Raises:
            SpendingCap: It does not fit under a cap.
        """

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                self.reserve(connection, lease, charge, caps, workflow=workflow, batch=None)

        self._write(write)

    def end(self, lease: str, seconds: float) -> None:
        """Settle what `hold` has reserved, if it has.

        Args:
            seconds: That it took; what jobs there took since it began is no part of its cost.
        """

        def write(connection: sqlite3.Connection) -> None:
            with transaction(connection):
                row = connection.execute(f"{_NEWEST} LIMIT 1", (lease,)).fetchone()
                if row is None:
                    return
                [jobs] = connection.execute(
                    "SELECT TOTAL(seconds) FROM charges WHERE target = ? AND at >= ? "
                    "AND number <> ? AND booked = 'settled'",
                    (row["target"], row["at"], row["number"]),
                ).fetchone()
                _settle(connection, row, max(0.0, seconds - jobs))

        self._write(write)

    def forget(self) -> None:
        """Forget what the retention no longer covers."""
        self._write(lambda connection: self._forget(connection, self._now()))

    # Reading

    def check(self, charge: Charge, caps: Iterable[Cap], batch: str | None = None) -> None:
        """See whether a job would fit now. Only `reserve` makes sure of it.

        Raises:
            SpendingCap: It would not.
        """
        check(charge, caps, lambda cap: self._used(self._read, cap, batch))

    def used(self, cap: Cap, batch: str | None = None) -> float:
        """US dollars that are spent or reserved under a cap on a day, a month or a batch."""
        return self._used(self._read, cap, batch)

    def of(self, job_id: str) -> Booking | None:
        """What a job costs; ``None`` for one that costs nothing, or is not known."""
        rows = self._read(f"{_NEWEST} LIMIT 1", job_id)
        return self._booking(rows[0]) if rows else None

    def of_all(self, job_ids: Iterable[str]) -> dict[str, Booking]:
        """What each of some jobs costs, as `of`, by its id."""
        rows = self._read(
            "SELECT charges.* FROM json_each(?) AS one JOIN charges ON charges.job = one.value "
            "ORDER BY charges.number",
            json.dumps([*job_ids]),
        )
        return {row["job"]: self._booking(row) for row in rows}  # of several, the newest

    def bookings(
        self, since: float, until: float | None = None, *, target: str | None = None
    ) -> list[Booking]:
        """What was reserved between two moments, the newest first.

        Args:
            since: Seconds since the epoch, like ``until``.
        """
        rows = self._read(
            "SELECT * FROM charges WHERE at >= ? AND (? IS NULL OR at < ?) "
            "AND (? IS NULL OR target = ?) ORDER BY at DESC, number DESC",
            *(since, until, until, target, target),
        )
        return [self._booking(row) for row in rows]

    def usages(self, since: float, until: float) -> list[Usage]:
        """When jobs that have ended ran, and what they cost; not those that certainly did not run.

        A job whose record is gone counts from when it was sent.

        Args:
            since, until: Seconds since the epoch; those that were sent a day before count, too,
                if they ran later.
        """
        rows = self._read(
            "SELECT charges.target, charges.at, charges.amount, charges.seconds, jobs.started, "
            "jobs.run_seconds FROM charges LEFT JOIN jobs ON jobs.id = charges.job "
            "WHERE charges.at >= ? AND charges.at < ? AND booked IN ('settled', 'uncertain')",
            *(since - 86400.0, until),
        )
        found = []
        for row in rows:
            took = row["seconds"] or 0.0
            began = row["at"]
            if row["started"] is not None and row["run_seconds"] is not None:
                # What is billed begins before the job does, with the start of a worker.
                began = max(began, row["started"] + row["run_seconds"] - took)
            if began + took >= since and began < until:
                found.append(Usage(row["target"], began, began + took, row["amount"]))
        return found

    def today(self) -> float:
        """When the day began, in seconds since the epoch."""
        return day_start(self._now(), self._zone)

    def this_month(self) -> float:
        """When the month began."""
        return month_start(self._now(), self._zone)

    def spent(
        self,
        since: float,
        by: By | None = None,
        *,
        target: str | None = None,
        by_hour: bool = False,
    ) -> list[Spent]:
        """What jobs cost that were sent since then, by what they have in common.

        Args:
            since: Seconds since the epoch.
            by: The most expensive first; days in their order. Without it, all jobs together: one,
                or none where there are no jobs.
            target: Only what was sent there.
            by_hour: Of targets that cost money by the hour, instead of by what runs.
        """
        rows = self._read(
            f"{_SUMS.format(key=_KEYS[by], stale=self._now() - UNKNOWN_FOR)} "
            "FROM charges WHERE at >= ? AND by_hour = ? AND booked <> 'released' "
            "AND (? IS NULL OR target = ?) GROUP BY key ORDER BY MIN(at)",
            *(since, by_hour, target, target),
        )
        found: dict[str, Spent] = {}
        for key, *sums in rows:
            name = day_of(key * _QUARTER, self._zone) if by == "day" else key
            one = Spent(name, *sums)
            found[name] = found[name] + one if name in found else one
        if by == "day":
            return [*found.values()]
        return sorted(found.values(), key=lambda one: -one.amount)

    def _used(
        self,
        read: Read,
        cap: Cap,
        batch: str | None,
        own: sqlite3.Row | None = None,
    ) -> float:
        """What is spent and reserved under a cap.

        Args:
            own: A charge that does not count.
        """
        if cap.span == "batch":
            began, until = -math.inf, math.inf
            rows = read("SELECT TOTAL(amount) FROM charges WHERE batch = ? AND by_hour = 0", batch)
        else:
            began = self.today() if cap.span == "day" else self.this_month()
            until = self._now() + _CLOCK_AHEAD
            rows = read(
                "SELECT TOTAL(amount) FROM spent WHERE quarter >= ? AND quarter < ? "
                "AND (? IS NULL OR target = ?)",
                *(math.ceil(began / _QUARTER), until / _QUARTER),
                *(cap.target, cap.target),
            )
        used = float(rows[0][0])
        if own is not None and began <= own["at"] < until and cap.target in (None, own["target"]):
            used -= own["amount"] or 0.0
        return used

    def _booking(self, row: sqlite3.Row) -> Booking:
        stale = _is_stale(row, self._now() - UNKNOWN_FOR)
        return Booking(
            job=row["job"],
            at=row["at"],
            target=row["target"],
            workflow=row["workflow"],
            batch=row["batch"],
            price=_price_of(row),
            bound=row["bound"],
            why=row["why"],
            estimated=row["estimated"],
            reserved=row["reserved"],
            amount=row["amount"],
            seconds=row["seconds"],
            booked=Booked.UNCERTAIN if stale else Booked(row["booked"]),
            by_hour=bool(row["by_hour"]),
            over_cap=bool(row["over_cap"]),
        )

    def _forget(self, connection: sqlite3.Connection, now: float) -> None:
        connection.execute(
            "DELETE FROM charges WHERE at < ? OR number <= "
            "(SELECT number FROM charges ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (now - self.retention.seconds, self.retention.charges),
        )
        old = (now - self.retention.seconds) / _QUARTER
        connection.execute("DELETE FROM spent WHERE quarter < ?", (old,))


def _rounded(amount: float | None) -> float | None:
    return None if amount is None else round(amount, 6)


def _is_stale(row: sqlite3.Row, stale: float) -> bool:
    """Whether a charge is held for a job of which nothing more will be known."""
    return bool(row["booked"] == "held" and row["at"] + row["bound"] < stale)


def _release(connection: sqlite3.Connection, number: int) -> None:
    connection.execute(
        "UPDATE charges SET booked = 'released', amount = 0, seconds = NULL WHERE number = ?",
        (number,),
    )


def _settle(connection: sqlite3.Connection, row: sqlite3.Row, seconds: float) -> None:
    price = _price_of(row)
    amount = None if price is None else price.of(seconds)
    connection.execute(
        "UPDATE charges SET booked = 'settled', amount = ?, seconds = ? WHERE number = ?",
        (amount, seconds, row["number"]),
    )


def _price_of(row: sqlite3.Row) -> Price | None:
    if row["price"] is None:
        return None
    return Price(row["price"], row["price_source"], row["price_at"])


def _charge_of(row: sqlite3.Row) -> Charge:
    return Charge(
        row["target"],
        _price_of(row),
        row["bound"],
        by_hour=bool(row["by_hour"]),
        over_cap=bool(row["over_cap"]),
    )


def _rows_of(connection: sqlite3.Connection) -> Read:
    return lambda sql, *values: connection.execute(sql, values).fetchall()
