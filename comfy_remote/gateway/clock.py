"""The clock of a gateway: how long it has been up, over all of its starts."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["GatewayClock"]


class GatewayClock:
    """Seconds that a gateway has been up.

    All times of its jobs are in it. So time when it is down extends every promise, and a jump of
    the system's clock ends none.

    Args:
        saved: What it showed when that was last stored.
        monotonic: Seconds that never go back, from any start.
    """

    def __init__(
        self, saved: float = 0.0, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        self._offset = saved - monotonic()

    def __call__(self) -> float:
        """The time now."""
        return self._monotonic() + self._offset
