"""A journal in memory, whose crash loses what was not committed."""

from __future__ import annotations

import asyncio
from copy import copy
from pathlib import Path

from comfy_remote.gateway.job import Job
from comfy_remote.gateway.journal import Journal


class MemoryJournal(Journal):
    """What the gateway's journal does for a queue.

    Attributes:
        counts: As the queue changes them.
        rows: What is committed, by id: copies.
        posted: What is not.
        slow: Whether `committed` waits for `commit`; else all is committed at once.
        refused: Raised by whoever waits for a commit, if there is one.
    """

    def __init__(self, *, key_retention: float = 24 * 3600.0) -> None:
        super().__init__(Path("nowhere"), key_retention=key_retention)
        self.rows: dict[str, Job] = {}
        self.posted: dict[str, Job] = {}
        self.slow = False
        self.refused: Exception | None = None
        self._waiting: list[asyncio.Future[None]] = []

    async def add(self, job: Job) -> str | None:
        if self.refused is not None:
            raise self.refused
        if (known := self._brought_by(job.idempotency_key)) is not None:
            return known.id
        self._number += 1
        job.number = self._number
        self.posted[job.id] = _row(job)
        await self.committed()
        return None

    def post(self, job: Job) -> None:
        self.posted[job.id] = _row(job)

    async def committed(self) -> None:
        if self.refused is not None:
            raise self.refused
        if not self.slow:
            self.commit()
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def commit(self) -> None:
        """Write what was posted, and say so to those who wait."""
        for job_id, row in self.posted.items():
            if row.forgotten is not None and row.idempotency_key is None:
                self.rows.pop(job_id, None)
            else:
                self.rows[job_id] = row
        self.posted.clear()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def after_crash(self) -> MemoryJournal:
        """The journal of the next process: without what was not committed."""
        after = MemoryJournal(key_retention=self._key_retention)
        after.rows = {job_id: copy(row) for job_id, row in self.rows.items()}
        after._number = self._number
        return after

    def live(self) -> list[Job]:
        """The jobs that a process which begins goes on with."""
        live = [copy(row) for row in self.rows.values() if not row.state.final]
        return sorted(live, key=lambda job: job.number)

    def forget(self, now: float) -> None:
        """Forget results and keys that have been stored for long enough."""
        for row in list(self.rows.values()):
            if not row.state.final or row.owed:
                continue
            if row.forgotten is None and (row.finished or 0.0) + row.retention <= now:
                row.forgotten, row.input, row.more = now, None, b"{}"
                if row.idempotency_key is None:
                    del self.rows[row.id]
            elif row.forgotten is not None and row.forgotten + self._key_retention <= now:
                del self.rows[row.id]

    async def find(self, job_id: str) -> Job | None:
        row = self.rows.get(job_id)
        return None if row is None else copy(row)

    async def by_key(self, key: str) -> Job | None:
        known = self._brought_by(key)
        return None if known is None else copy(known)

    def _brought_by(self, key: str | None) -> Job | None:
        rows = {**self.rows, **self.posted}
        found = (row for row in rows.values() if row.idempotency_key == key)
        return None if key is None else next(found, None)


def _row(job: Job) -> Job:
    row = copy(job)
    row.stream, row.stream_bytes = [], 0
    if not row.state.final:
        row.more = b"{}"
    return row
