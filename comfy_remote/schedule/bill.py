"""What a provider has billed, beside what the ledger says: hour by hour, and where they differ."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["HOUR", "Billed", "Compared", "Running", "Usage", "by_span", "compared", "hour_start"]

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Billed:
    """What a provider has billed for a target, for some time.

    Attributes:
        start: Seconds since the epoch.
        amount: US dollars.
    """

    start: float
    end: float
    amount: float


@dataclass(frozen=True, slots=True)
class Usage:
    """When a job ran, and what it cost by the ledger.

    Attributes:
        target: As the ledger has it.
        start: Seconds since the epoch.
        amount: US dollars; ``None`` where the price was not known.
    """

    target: str
    start: float
    end: float
    amount: float | None


@dataclass(frozen=True, slots=True)
class Compared:
    """One hour, or another span.

    Attributes:
        start: Seconds since the epoch.
        runs: Jobs that ran in it; one of two hours counts in both.
        unpriced: Of these, those whose price was not known.
        estimated: US dollars, by the ledger.
        billed: US dollars, by the provider.
    """

    start: float
    runs: int
    unpriced: int
    estimated: float
    billed: float

    @property
    def difference(self) -> float:
        """US dollars that were billed and not estimated."""
        return self.billed - self.estimated


@dataclass(frozen=True, slots=True)
class Running:
    """Something that costs money by the hour now, used or not.

    Attributes:
        name: As a target: ``pod:7h9k2m4n6pxx``.
        title: More of it, for people: ``training, RTX 4090``.
        per_hour: US dollars; ``None`` where that is not known.
        since: When it was started, in seconds since the epoch; likewise.
    """

    name: str
    title: str
    per_hour: float | None
    since: float | None

    def cost(self, now: float) -> float | None:
        """US dollars since it was started; ``None`` where that is not known."""
        if self.per_hour is None or self.since is None or now < self.since:
            return None
        return (now - self.since) / HOUR * self.per_hour


def hour_start(moment: float) -> float:
    """The first second of a moment's hour, in UTC, as providers count."""
    return moment - moment % HOUR


def compared(bills: Iterable[Billed], usages: Iterable[Usage]) -> list[Compared]:
    """Each hour in which something ran or was billed, in their order.

    What spans several hours is divided among them by time.
    """
    hours: defaultdict[float, list[float]] = defaultdict(lambda: [0, 0, 0.0, 0.0])
    for bill in bills:
        for start, share in _shares(bill.start, bill.end):
            hours[start][3] += bill.amount * share
    for usage in usages:
        for start, share in _shares(usage.start, usage.end):
            hour = hours[start]
            hour[0] += 1
            hour[1] += usage.amount is None
            hour[2] += (usage.amount or 0.0) * share
    return [
        Compared(start, int(runs), int(unpriced), estimated, billed)
        for start, (runs, unpriced, estimated, billed) in sorted(hours.items())
        if runs or billed
    ]


def by_span(hours: Iterable[Compared], start_of: Callable[[float], float]) -> list[Compared]:
    """Hours added up to longer spans.

    Args:
        start_of: The first second of the span that a moment is in.
    """
    spans: dict[float, Compared] = {}
    for hour in hours:
        start = start_of(hour.start)
        before = spans.get(start, Compared(start, 0, 0, 0.0, 0.0))
        spans[start] = Compared(
            start,
            before.runs + hour.runs,
            before.unpriced + hour.unpriced,
            before.estimated + hour.estimated,
            before.billed + hour.billed,
        )
    return list(spans.values())


def _shares(start: float, end: float) -> list[tuple[float, float]]:
    """The hours that a time is in, and how much of it is in each."""
    first = hour_start(start)
    if end <= start:
        return [(first, 1.0)]
    number = max(1, math.ceil((end - first) / HOUR))
    hours = [first + HOUR * one for one in range(number)]
    return [(hour, (min(end, hour + HOUR) - max(start, hour)) / (end - start)) for hour in hours]
