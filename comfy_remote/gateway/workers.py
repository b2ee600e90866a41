"""Which workers there are, and which jobs they have to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..aio import Signal

__all__ = ["WorkerRegistry"]


class WorkerRegistry:
    """Workers by id: when they last said something, and the jobs they must stop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}
        self._ready: set[str] = set()
        self._stops: dict[str, dict[str, float]] = {}
        self._changed = Signal()
        self._closed = False

    @property
    def ready(self) -> frozenset[str]:
        """Workers that have asked for a job at least once, and are not gone."""
        return frozenset(self._ready)

    def seen(self, worker_id: str, *, ready: bool = False) -> None:
        """Note that a worker lives; ``ready`` when it asks for jobs."""
        self._seen[worker_id] = self._clock()
        if ready and worker_id not in self._ready:
            self._ready.add(worker_id)
            self._changed.notify()

    def silent_for(self, seconds: float) -> list[str]:
        """Workers that have said nothing for longer than ``seconds``."""
        since = self._clock() - seconds
        return [worker_id for worker_id, seen in self._seen.items() if seen < since]

    def remove(self, worker_id: str) -> None:
        """Forget a worker."""
        self._seen.pop(worker_id, None)
        self._ready.discard(worker_id)
        self._stops.pop(worker_id, None)

    async def wait_until_ready(self, timeout: float) -> bool:
        """Wait for the first worker to ask for a job; whether one did."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not self._ready:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            await self._changed.wait(left)
        return True

    def request_stop(self, worker_id: str, job_id: str, taken: float) -> None:
        """Have a worker stop a job that it took at ``taken``."""
        self._stops.setdefault(worker_id, {})[job_id] = taken
        self._changed.notify()

    def withdraw_stop(self, worker_id: str, job_id: str) -> None:
        """Drop a stop that was not delivered: the worker is given that job again."""
        self._stops.get(worker_id, {}).pop(job_id, None)

    async def take_stops(self, worker_id: str, *, wait: float, settle: float = 0.0) -> list[str]:
        """Jobs the worker must stop, each named once.

        Args:
            wait: Seconds to wait for one.
            settle: Seconds that a job must have been with the worker before it is named.
        """
        deadline = asyncio.get_running_loop().time() + wait
        while True:
            self.seen(worker_id)
            pending = self._stops.get(worker_id, {})
            due = [job for job, taken in pending.items() if self._clock() - taken >= settle]
            for job_id in due:
                del pending[job_id]
            if due:
                return due
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or self._closed:
                return []
            if pending:
                left = min(left, settle - self._clock() + min(pending.values()) + 0.001)
            await self._changed.wait(left)

    def close(self) -> None:
        """Answer all waiting workers now."""
        self._closed = True
        self._changed.notify()
