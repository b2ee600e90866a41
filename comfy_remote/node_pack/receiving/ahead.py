"""The next part of a model comes while one is put behind those that are here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from ...aio import in_thread
from ...media.file_changes import discard, rename_path
from ...wire.models import FilePart
from .jobs import ReceivingJob

__all__ = ["PartsAhead"]


class PartsAhead:
    """The parts of one model, from the client of a job.

    Args:
        files: In order.
    """

    def __init__(self, job: ReceivingJob, files: Sequence[FilePart]) -> None:
        self._job = job
        self._order = [one.sha256 for one in files]
        self._at = 0
        self._spool: Path | None = None
        self._coming: asyncio.Task[bool] | None = None

    async def fetch(self, sha256: str, path: Path) -> bool:
        """See `worker.models.placing.FetchPart`."""
        at = self._order.index(sha256, self._at)
        if self._coming is None or at != self._at:
            await self.close()
            self._begin(at, path)
        coming, spool = self._coming, self._spool
        if coming is None or spool is None:
            raise RuntimeError("no part was begun")
        await asyncio.shield(coming)
        await in_thread(rename_path, spool, path)
        self._coming = None
        if at + 1 < len(self._order):
            self._begin(at + 1, path)
        return True

    async def close(self) -> None:
        """Leave the part that is on its way."""
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.gather(self._coming, return_exceptions=True)
            self._coming = None
        if self._spool is not None:
            await in_thread(discard, self._spool)

    def _begin(self, at: int, path: Path) -> None:
        self._at = at
        self._spool = path.with_name(f"{path.name}-next")
        self._coming = asyncio.ensure_future(self._job.fetch(self._order[at], self._spool))
