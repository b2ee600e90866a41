"""What one gateway shows of itself: the page's overview, the metrics, the log."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence

from ...secrets import redact
from ...wire.runpod import RunPodState
from ..job import Job
from ..queue_events import JobEnded, QueueEvent
from .job_log import log_event
from .metrics import Metrics
from .overview import RecentEnds, overview
from .state import GatewayState

__all__ = ["Shown"]

_FRESH = 1.0


class Shown:
    """Watches a gateway's queue, and describes the gateway.

    Args:
        state: Reads the gateway's state.
        fresh: Seconds that a description serves everybody who asks.
        clock: Counts them.
    """

    def __init__(
        self,
        state: Callable[[], GatewayState],
        *,
        fresh: float = _FRESH,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._fresh = fresh
        self._clock = clock
        self._metrics = Metrics()
        self._ends = RecentEnds()
        self._describing = asyncio.Lock()
        self._described = b""
        self._until = -math.inf
        self._changes = 0

    async def recall(self, last_ended: Callable[[int], Awaitable[Sequence[Job]]]) -> None:
        """Note what has ended before this process began.

        Args:
            last_ended: Gives so many jobs at most, the newest first; see `Journal.last_ended`.
        """
        self._ends.recall(reversed(await last_ended(self._ends.most)))

    def on_event(self, event: QueueEvent) -> None:
        """Note what happens in the queue."""
        log_event(event)
        self._metrics(event)
        self._ends(event)
        if isinstance(event, JobEnded) and event.job.state is RunPodState.CANCELLED:
            self.changed()

    def changed(self) -> None:
        """Describe the gateway again for the next who asks: somebody has changed it, and looks."""
        self._until = -math.inf
        self._changes += 1

    async def overview(self) -> bytes:
        """What ``/overview`` answers, as JSON. However many ask, it is made once a second."""
        async with self._describing:
            if self._clock() >= self._until:
                changes = self._changes
                described = await overview(self._state(), self._ends)
                self._described = redact(described.model_dump_json()).encode()
                if self._changes == changes:
                    self._until = self._clock() + self._fresh
            return self._described

    def scrape(self) -> bytes:
        """What ``/metrics`` answers."""
        return self._metrics.scrape(self._state())
