"""The connection to a worker's engine, which its jobs use one after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

from ..targets.comfyui.connection import ComfyUIConnection
from ..targets.comfyui.follow import FollowTimes
from ..targets.comfyui.target import ComfyUITarget

__all__ = ["Connect", "EngineConnection"]

Connect: TypeAlias = Callable[[str], AbstractAsyncContextManager[ComfyUITarget]]
"""Opens a target for the engine's URL."""

# An engine of ours has nothing else to do: what it has not begun by then will never begin.
_TIMES = FollowTimes(stall=60.0)


class EngineConnection:
    """One session and one WebSocket for all jobs of an engine; others once it has another URL.

    `connect` is what a job opens its target with, one at a time.
    """

    def __init__(self) -> None:
        self._open: ComfyUIConnection | None = None

    @asynccontextmanager
    async def connect(self, url: str) -> AsyncIterator[ComfyUITarget]:
        """A target of its own for one job, on the connection."""
        if self._open is None or self._open.url != url.rstrip("/"):
            await self.close()
            self._open = ComfyUIConnection(url, _TIMES)
            await self._open.open()
        async with ComfyUITarget(url, times=_TIMES, connection=self._open) as target:
            yield target

    async def close(self) -> None:
        """Close it. The next `connect` opens another."""
        if self._open is not None:
            connection, self._open = self._open, None
            await connection.close()
