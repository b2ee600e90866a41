"""``Idempotency-Key``: each is good for one job."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

from ..jobs.served import ServedJobs
from .errors import ApiRefusal
from .recorded import never_accepted
from .run import ApiRun

__all__ = ["Claim", "JobKeys"]


class Claim(NamedTuple):
    """The right to begin a job.

    Attributes:
        job_id: What the job's id has to be.
        again: The last job that had the same key, and freed it; ``None`` if there was none.
    """

    job_id: str
    again: str | None


class JobKeys:
    """The keys of one front's jobs.

    A job's id follows from its key, so the record's own key forbids that two jobs have one.

    Args:
        jobs: Those of the front.
        used_for: Seconds for which a key is used up, unless the target never accepted its job.
        now: Seconds since the epoch.
    """

    def __init__(self, jobs: ServedJobs[ApiRun], used_for: float, now: Callable[[], float]) -> None:
        self._jobs, self._used_for, self._now = jobs, used_for, now
        self._claimed: set[str] = set()

    @asynccontextmanager
    async def claimed(self, key: str | None, token: str) -> AsyncIterator[Claim]:
        """Claim a key as long as the context lasts, in which its job is begun.

        Args:
            key: ``None`` for a job without one.
            token: Of whoever sent it: keys of two tokens are different ones.

        Raises:
            ApiRefusal: ``idempotency_key_reuse``: it was used before, or is claimed now.
        """
        if key is None:
            yield Claim(str(uuid.uuid4()), None)
            return
        whose = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        first = self._jobs.id_of(f"{whose}:{key}")
        if first in self._claimed:
            raise _used()
        self._claimed.add(first)
        try:
            yield await self._claim(first)
        finally:
            self._claimed.discard(first)

    async def _claim(self, first: str) -> Claim:
        record = self._jobs.client.record
        before = await record.read(record.attempts, first)
        claim = Claim(first, None)
        if before:
            last = before[-1]
            if not never_accepted(last) and self._now() - last.created < self._used_for:
                raise _used()
            claim = Claim(str(uuid.uuid5(uuid.UUID(first), str(last.attempt + 1))), last.id)
        # Whoever sent it first may have hung up before it was recorded.
        if self._jobs.get(claim.job_id) is not None:
            raise _used()
        return claim


def _used() -> ApiRefusal:
    return ApiRefusal(
        "idempotency_key_reuse",
        "This Idempotency-Key was used before. Look for its job in GET /api/v2/jobs; send another "
        "job with another key.",
    )
