"""Starting a target's workers before there is a job, and keeping them, as the page asks for it."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass

from ..errors import ComfyRemoteError
from ..jobs.keep_warm import start_worker
from ..jobs.kept_ready import keep_ready
from ..targets.base import Target, WakesWorkers, server_of
from ..targets.kinds import kind_of, sent_to
from .target_pool import TargetPool

__all__ = ["WarmUps", "can_warm_up"]


def can_warm_up(target: Target) -> bool:
    """Whether a job of nobody's starts a worker there: not on machines of one's own."""
    sent = sent_to(server_of(target))
    kind = None if sent is None else kind_of(sent.target)
    if sent is None or kind is None or not isinstance(target, WakesWorkers):
        return False
    return kind.billing(sent, os.environ) == "by run"


@dataclass
class _WarmUp:
    began: float
    until: float | None
    task: asyncio.Task[None] | None = None
    error: ComfyRemoteError | None = None
    took: float | None = None


class WarmUps:
    """The last one of each target, on one event loop."""

    def __init__(self, pool: TargetPool) -> None:
        self._pool = pool
        self._of: dict[str, _WarmUp] = {}

    async def start(self, name: str, until: float | None = None) -> None:
        """Begin, unless one is under way. How it goes, the other methods say.

        Args:
            until: Seconds since the epoch: a worker is kept until then. One that is kept already
                is kept until then instead.
        """
        one = self._under_way(name)
        if one is not None and one.until is not None and until is not None:
            one.until = until
            return
        if one is not None and until is None:
            return
        await self.stop(name)
        one = _WarmUp(time.monotonic(), until)
        self._of[name] = one
        one.task = asyncio.create_task(self._run(name, one))

    def waiting(self, name: str) -> float | None:
        """Seconds that a worker has been starting; ``None`` where none is."""
        one = self._under_way(name)
        return None if one is None or one.took is not None else time.monotonic() - one.began

    def until(self, name: str) -> float | None:
        """Until when workers are kept; ``None`` where they are not."""
        one = self._under_way(name)
        return None if one is None else one.until

    def error(self, name: str) -> ComfyRemoteError | None:
        """Why the last one failed."""
        one = self._of.get(name)
        return None if one is None else one.error

    def took(self, name: str) -> float | None:
        """Seconds that the last one took; ``None`` where none has succeeded."""
        one = self._of.get(name)
        return None if one is None else one.took

    async def stop(self, name: str) -> None:
        """Take back what is under way: the endpoint's job is cancelled, its settings put back."""
        one = self._of.pop(name, None)
        if one is not None and one.task is not None:
            one.task.cancel()
            await asyncio.gather(one.task, return_exceptions=True)

    async def close(self) -> None:
        """Stop all."""
        await asyncio.gather(*(self.stop(name) for name in [*self._of]))

    def _under_way(self, name: str) -> _WarmUp | None:
        one = self._of.get(name)
        return None if one is None or one.task is None or one.task.done() else one

    async def _run(self, name: str, one: _WarmUp) -> None:
        def warm() -> None:
            one.took = time.monotonic() - one.began

        try:
            client = await self._pool.client(name)
            if one.until is None:
                await start_worker(client.target)
                warm()
                return
            folder = self._pool.record.path.parent
            await keep_ready(client, lambda: one.until or 0.0, folder=folder, on_warm=warm)
        except ComfyRemoteError as error:
            one.error = error
