"""What an engine says of itself, asked once in its life: a job should not wait for it again."""

from __future__ import annotations

from pydantic import JsonValue

from .run import EngineTarget, JobEngine

__all__ = ["EngineFacts"]


class EngineFacts:
    """``/system_stats`` of the process that runs now.

    Versions and folders stay what they are while a process lives. Of an engine that somebody
    else starts, and may start anew, nothing is remembered.

    Args:
        engine: The worker's.
    """

    def __init__(self, engine: JobEngine) -> None:
        self._engine = engine
        self._pid: int | None = None
        self._stats: dict[str, JsonValue] = {}

    async def stats(self, target: EngineTarget) -> dict[str, JsonValue]:
        """The document.

        Args:
            target: Open.

        Raises:
            TargetError: The engine cannot be asked.
        """
        if self._pid is None or self._pid != self._engine.pid:
            self._stats = await target.system()
            self._pid = self._engine.pid
        return self._stats
