"""Looks at ComfyUI's queue, each of which serves everybody who asks within a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from ...aio import Background
from ...data_class import dataclass
from .queue import QueueItem

__all__ = ["Queue", "QueueLooks"]

Queue: TypeAlias = tuple[list[QueueItem], list[QueueItem]]
"""What runs, and what waits."""


@dataclass(frozen=True, slots=True)
class _Look:
    number: int
    begun: float
    answer: asyncio.Future[Queue]


class QueueLooks:
    """The queue, for many who follow a prompt in it. Belongs to one event loop.

    ComfyUI's answer has the workflow of every prompt that waits. If each of them had an answer of
    its own, ten times as many prompts would be a hundred times the work, for ComfyUI, too.

    Args:
        ask: Asks ComfyUI once.
        fresh: Seconds for which an answer says where the prompts are that it has. That one is not
            there is said by an answer alone that was asked for afterwards.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[Queue]],
        *,
        fresh: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._fresh = fresh
        self._clock = clock
        self._begun = 0
        self._last: _Look | None = None
        self._background = Background()

    async def for_prompt(self, prompt_id: str) -> Queue:
        """A look that says where a prompt is, or that it is not there.

        Raises:
            TargetError: It failed.
        """
        before = self._begun
        while True:
            look = self._last
            if look is None or self._clock() - look.begun > self._fresh:
                look = self._look()
            await asyncio.wait({look.answer})  # if one who waits is cancelled, the others wait on
            queue = look.answer.result()
            if look.number > before or any(
                item.prompt_id == prompt_id for items in queue for item in items
            ):
                return queue
            if self._last is look:
                self._look()

    async def stop(self) -> None:
        """End the look that is under way."""
        await self._background.stop()

    def _look(self) -> _Look:
        self._begun += 1
        answer = self._background.start(self._ask())
        look = self._last = _Look(self._begun, self._clock(), answer)
        answer.add_done_callback(lambda _: self._forget_failed(look))
        return look

    def _forget_failed(self, look: _Look) -> None:
        """The next one asks again."""
        if (look.answer.cancelled() or look.answer.exception()) and self._last is look:
            self._last = None
