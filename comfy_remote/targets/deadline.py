"""One moment by which all of a run has to be over: submitted, run, and its outputs fetched."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import TypeVar

from .within import within

__all__ = ["Deadline"]

_T = TypeVar("_T")


class Deadline:
    """Passed from phase to phase, so that each has what the earlier ones left.

    By the monotonic clock: setting the wall clock changes nothing.

    Args:
        seconds: The time in all; ``None`` for as long as it takes.
        begun: When it began, by `time.monotonic`; now by default.
    """

    def __init__(self, seconds: float | None, begun: float | None = None) -> None:
        self.seconds = seconds
        self.begun = time.monotonic() if begun is None else begun

    def __str__(self) -> str:
        """``600 s``."""
        return f"{self.seconds:g} s"

    @property
    def left(self) -> float | None:
        """Seconds from now, at least 0; ``None`` for as long as it takes."""
        if self.seconds is None:
            return None
        return max(0.0, self.begun + self.seconds - time.monotonic())

    def at_most(self, seconds: float) -> float:
        """The smaller of these seconds and what is left."""
        left = self.left
        return seconds if left is None else min(seconds, left)

    async def within(self, work: Awaitable[_T]) -> _T:
        """What ``work`` gives; it is cancelled if the deadline passes first.

        Raises:
            asyncio.TimeoutError: It passed.
        """
        return await within(work, self.left)
