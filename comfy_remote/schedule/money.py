"""Prices, and what a run costs by them."""

from __future__ import annotations

from ..data_class import dataclass
from ..units import dollars

__all__ = ["Allowance", "Charge", "Price"]

_HOUR = 3600.0  # seconds


@dataclass(frozen=True, slots=True)
class Price:
    """What a target costs while a job runs there.

    Attributes:
        per_hour: US dollars.
        source: Who says so, for people: ``your settings``, ``RunPod``, ``Modal's list of prices``.
        at: When that was, in seconds since the epoch; ``None`` for what the user has set.
        lowest: What an hour may cost as well, where a job may get one of several GPUs;
            ``per_hour`` is that of the dearest. ``None`` where there is one price.
        standing: US dollars an hour that it costs even if nothing runs: its active workers.
    """

    per_hour: float
    source: str
    at: float | None = None
    lowest: float | None = None
    standing: float = 0.0

    def of(self, seconds: float) -> float:
        """US dollars for so much time."""
        return seconds * self.per_hour / _HOUR

    def words(self, seconds: float) -> str:
        """`of`, for people: ``$0.31``; ``$0.19 to $0.31`` where it depends on the GPU."""
        highest = dollars(self.of(seconds))
        lowest = highest if self.lowest is None else dollars(seconds * self.lowest / _HOUR)
        return highest if lowest == highest else f"{lowest} to {highest}"


@dataclass(frozen=True, slots=True)
class Charge:
    """What a job may cost on one target, before it is sent there.

    Attributes:
        target: The target's name, as the configuration has it; of a route, its member's.
        price: ``None`` where it is not known.
        bound: Seconds that it is reserved for: the longest that it can run, and a start.
        expected: Seconds that it probably takes; ``None`` if nothing is known of it.
        why: Where the bound comes from, for people.
        what: What costs that, as the beginning of a sentence.
        unpriced: Why the price is not known, as a part of a sentence.
        by_hour: Whether the target costs money while it exists, whether it runs anything or not:
            then no cap covers the job, and what it costs stands apart.
        over_cap: Whether its user lets it go over every cap.
    """

    target: str
    price: Price | None
    bound: float
    expected: float | None = None
    why: str = ""
    what: str = "This run"
    unpriced: str = ""
    by_hour: bool = False
    over_cap: bool = False

    @property
    def reserved(self) -> float | None:
        """US dollars to reserve; ``None`` where the price is not known."""
        return None if self.price is None else self.price.of(self.bound)

    @property
    def estimated(self) -> float | None:
        """US dollars that it probably costs; ``None`` where time or price are not known."""
        if self.price is None or self.expected is None:
            return None
        return self.price.of(self.expected)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be spent on a job, as whoever starts it says.

    Attributes:
        cap: US dollars for it, or for all runs of its batch together, beside the caps that are
            configured.
        over_cap: Whether it may go over all of them.
        ends_after: Seconds from its submission after which whoever starts it stops it; ``None``
            where nobody does.
    """

    cap: float | None = None
    over_cap: bool = False
    ends_after: float | None = None
