"""How many jobs may be under way at a front."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..jobs.served import ServedJobs
from ..units import size_text
from .errors import ApiRefusal
from .run import ApiRun

__all__ = ["JobRoom"]

_FULL_AGAIN = 2


class JobRoom:
    """Counts jobs from when they are posted, and the bytes of their requests.

    Args:
        jobs: Those that are under way, and how many may be.
        most_bytes: Of the requests of all of them together: their workflows are in memory.
    """

    def __init__(self, jobs: ServedJobs[ApiRun], most_bytes: int) -> None:
        self._jobs, self._most_bytes = jobs, most_bytes
        self._starting = self._starting_bytes = 0

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Count a job that is not under way yet.

        Args:
            size: Bytes of its request.

        Raises:
            ApiRefusal: ``queue_full``.
        """
        self._check(size)
        self._starting += 1
        self._starting_bytes += size
        try:
            yield
        finally:
            self._starting -= 1
            self._starting_bytes -= size

    def _check(self, size: int) -> None:
        there = sum(run.size for run in self._jobs.under_way) + self._starting_bytes
        if len(self._jobs) + self._starting >= self._jobs.most:
            why = f"{self._jobs.most} jobs are under way."
        elif there + size > self._most_bytes:
            why = f"The workflows of all jobs under way may have {size_text(self._most_bytes)}."
        else:
            return
        raise ApiRefusal(
            "queue_full", f"{why} Send it again when some have ended.", retry_after=_FULL_AGAIN
        )
