"""Starting a target's workers before there is a job, as the page asks for it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from ..errors import ComfyRemoteError, ConfigurationError, TargetError
from ..targets.base import Target, WakesWorkers
from ..targets.kinds import Billing
from .target_pool import TargetPool

__all__ = ["WarmUps", "can_warm_up"]

_LONGEST = 900.0
"""Seconds that a worker has to start."""


def can_warm_up(target: Target, billing: Billing | None) -> bool:
    """Whether a job of nobody's starts a worker there: not on machines of one's own."""
    return billing == "by run" and isinstance(target, WakesWorkers)


@dataclass
class _WarmUp:
    task: asyncio.Task[None]
    began: float
    error: ComfyRemoteError | None = None
    took: float | None = None


class WarmUps:
    """The last one of each target, on one event loop."""

    def __init__(self, pool: TargetPool) -> None:
        self._pool = pool
        self._of: dict[str, _WarmUp] = {}

    def start(self, name: str) -> None:
        """Begin, unless one is under way. How it goes, the other methods say."""
        if self.waiting(name) is None:
            task = asyncio.create_task(self._run(name))
            self._of[name] = _WarmUp(task, time.monotonic())

    def waiting(self, name: str) -> float | None:
        """Seconds that one has been under way; ``None`` where none is."""
        one = self._of.get(name)
        return None if one is None or one.task.done() else time.monotonic() - one.began

    def error(self, name: str) -> ComfyRemoteError | None:
        """Why the last one failed."""
        one = self._of.get(name)
        return None if one is None else one.error

    def took(self, name: str) -> float | None:
        """Seconds that the last one took; ``None`` where none has succeeded."""
        one = self._of.get(name)
        return None if one is None else one.took

    async def stop(self, name: str) -> None:
        """Take back what is under way: the endpoint's job is cancelled."""
        if (one := self._of.pop(name, None)) is not None:
            one.task.cancel()
            await asyncio.gather(one.task, return_exceptions=True)

    async def close(self) -> None:
        """Stop all."""
        for name in [*self._of]:
            await self.stop(name)

    async def _run(self, name: str) -> None:
        one = self._of[name]
        try:
            target = (await self._pool.client(name)).target
            if not isinstance(target, WakesWorkers):
                raise ConfigurationError(f"{name} has no workers that could be started.")
            await asyncio.wait_for(target.wake(), _LONGEST)
            one.took = time.monotonic() - one.began
        except asyncio.TimeoutError:
            minutes = _LONGEST / 60
            one.error = TargetError(f"No worker of {name} started within {minutes:.0f} minutes.")
        except ComfyRemoteError as error:
            one.error = error
