"""Jobs that have ended: until that is on disk, and for a moment after."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..aio import Background, Signal
from ..errors import LocalStorageError
from .job import Job
from .journal import Journal
from .live_jobs import LiveJobs, held

__all__ = ["Ends"]

_SETTLING_PATIENCE = 10.0
_AGAIN_AFTER = 1.0
_RECENT_BYTES = 4 * 2**20
_log = logging.getLogger(__name__)


class Ends:
    """Says that a job has ended once that is on disk, and drops the job from memory then.

    Args:
        on_disk: Called with each job whose end is on disk.
    """

    def __init__(self, journal: Journal, live: LiveJobs, on_disk: Callable[[Job], None]) -> None:
        self._journal = journal
        self._live = live
        self._on_disk = on_disk
        self._settling: dict[str, Job] = {}
        self._waiting: dict[str, Signal] = {}
        self._recent = _RecentJobs()
        self._tasks = Background()
        self._settler: asyncio.Future[None] | None = None
        self._closed = False

    def __contains__(self, job_id: str) -> bool:
        """Whether a job's end is not on disk yet."""
        return job_id in self._settling

    def recent(self, job_id: str, now: float) -> Job | None:
        """A job that has just ended; others are on the disk only."""
        return self._recent.get(job_id, now)

    def add(self, job: Job) -> None:
        """Take over a job whose end has just been posted."""
        self._settling[job.id] = job
        if self._settler is None or self._settler.done():
            self._settler = self._tasks.start(self._settle())

    def let_go(self, job: Job) -> None:
        """Drop a final job from memory, unless something of it is nowhere else."""
        if job.forgotten is not None:
            self._live.take_stream(job)
        if job.owed or job.stream or job.id in self._settling:
            return
        self._live.remove(job)
        self._recent.add(job)

    def take_back(self, job: Job) -> None:
        """A job that was final is to run again."""
        self._live.remove(job)
        self._recent.remove(job.id)

    async def wait(self, job_id: str, seconds: float) -> None:
        """Return when the job's end is on disk, or after so many seconds."""
        await self._waiting.setdefault(job_id, Signal()).wait(seconds)

    async def settled(self, job_id: str) -> None:
        """Wait until the job's end is on disk, if it has ended.

        Raises:
            LocalStorageError: It cannot be written at present.
        """
        deadline = asyncio.get_running_loop().time() + _SETTLING_PATIENCE
        while job_id in self._settling:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or self._closed:
                raise LocalStorageError(
                    f"The end of job {job_id} cannot be stored at present.",
                    advice="Ask again later. The gateway's log says why.",
                )
            await self.wait(job_id, left)

    def close(self) -> None:
        """Answer everybody who waits."""
        self._closed = True
        for signal in self._waiting.values():
            signal.notify()

    async def stop(self, seconds: float) -> None:
        """Wait until all ends are on disk, but no longer than that."""
        await self._tasks.wait(seconds)
        await self._tasks.stop()

    async def _settle(self) -> None:
        while self._settling:
            ended = list(self._settling.values())
            try:
                await self._journal.committed()
            except LocalStorageError as error:
                _log.error("The end of %d jobs cannot be stored yet. %s", len(ended), error)
                await asyncio.sleep(_AGAIN_AFTER)
                continue
            for job in ended:
                del self._settling[job.id]
                self.let_go(job)
                self._on_disk(job)
                if (signal := self._waiting.pop(job.id, None)) is not None:
                    signal.notify()


class _RecentJobs:
    """The jobs that ended last: most results are asked for at once, without a look at the disk."""

    def __init__(self) -> None:
        self._held = 0
        self._jobs: dict[str, Job] = {}

    def get(self, job_id: str, now: float) -> Job | None:
        """The job of that id, if it is remembered and its result still has to be stored."""
        job = self._jobs.get(job_id)
        if job is None or job.finished is None or now >= job.finished + job.retention:
            return None
        return job

    def add(self, job: Job) -> None:
        """Remember a job until newer ones need the room."""
        self.remove(job.id)
        if job.forgotten is None:
            self._jobs[job.id] = job
            self._held += held(job)
            while self._held > _RECENT_BYTES:
                self.remove(next(iter(self._jobs)))

    def remove(self, job_id: str) -> None:
        """Forget a job."""
        if (job := self._jobs.pop(job_id, None)) is not None:
            self._held -= held(job)
