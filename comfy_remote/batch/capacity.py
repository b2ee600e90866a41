"""How many runs of a batch to have at a target at a time."""

from __future__ import annotations

from ..targets.base import Health

__all__ = ["Capacity", "workers_of"]

_MOST_WORKERS = 200
"""A target says how many it has, whatever that is; each run is a connection or two here."""


def workers_of(health: Health) -> int:
    """How many workers a target has: those that are free and those that run a job.

    Returns:
        At least 1, and 200 at most.
    """
    return min(max(1, health.ready + health.running), _MOST_WORKERS)


class Capacity:
    """As many as the target has workers for, and one that waits, so that no worker idles.

    A target that refuses more for now (429, a full queue) halves it; each run that ends well after
    that adds one. Never more than the user allows, never less than one.

    Args:
        at_most: What the user allows; ``None`` for no limit of theirs.
    """

    def __init__(self, at_most: int | None = None) -> None:
        self._at_most = at_most
        self._workers = 1
        self._slowed: int | None = None

    @property
    def limit(self) -> int:
        """How many runs may be at the target now."""
        limits = [self._workers + 1]
        limits += [one for one in (self._at_most, self._slowed) if one is not None]
        return max(1, min(limits))

    @property
    def slowed(self) -> bool:
        """Whether the target has refused some, and that has not passed."""
        return self._slowed is not None

    def seen(self, health: Health) -> None:
        """Note how many workers the target has."""
        self._workers = workers_of(health)

    def refused(self, here: int) -> None:
        """Note that the target took no more.

        Args:
            here: How many it had.
        """
        self._slowed = max(1, here // 2)

    def ended_well(self) -> None:
        """Note a run that the target has made."""
        if self._slowed is not None:
            self._slowed += 1
            if self._slowed > self._workers + 1:
                self._slowed = None
