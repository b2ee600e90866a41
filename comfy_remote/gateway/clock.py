"""The clock of a gateway: how long it has been up, over all of its starts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["AwakeTime", "GatewayClock"]

_LONGEST_STEP = 5.0


class GatewayClock:
    """Seconds that a gateway has been up.

    All times of its jobs are in it. So time when it is down extends every promise, and a jump of
    the system's clock ends none.

    Args:
        monotonic: Seconds that never go back, from any start.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.set(0.0)

    def set(self, now: float) -> None:
        """Set it, to what it showed when that was last stored."""
        self._offset = now - self._monotonic()

    def __call__(self) -> float:
        """The time now."""
        return self._monotonic() + self._offset


class AwakeTime:
    """Seconds since its making, without those in which the process stood still: its machine was
    suspended, or somebody has stopped it. A gateway that is awake asks twice a second.

    Args:
        longest_step: Seconds between two calls that count at most.
    """

    def __init__(
        self,
        *,
        longest_step: float = _LONGEST_STEP,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._longest_step = longest_step
        self._monotonic = monotonic
        self._last = monotonic()
        self._seconds = 0.0
        self._lock = threading.Lock()  # the journal asks in its threads, too

    def __call__(self) -> float:
        """The seconds until now."""
        with self._lock:
            now = self._monotonic()
            self._seconds += min(now - self._last, self._longest_step)
            self._last = now
            return self._seconds
