"""The jobs that a queue has in memory, what they take there, and where the others are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ..errors import JobNotFound, OutputTooLarge, RateLimited
from .job import Job
from .journal import INLINE_BYTES, Counts
from .limits import GatewayLimits

__all__ = ["JobJournal", "LiveJobs", "RecentJobs", "not_found", "size_of"]

_RECORD = 2048  # bytes that a job takes in memory with all that points to it, rounded up
_CHUNK_OVERHEAD = 64
_RECENT_BYTES = 4 * 2**20
_MEMORY_AGAIN_AFTER = 60


class JobJournal(Protocol):
    """What a queue needs of the place where its jobs survive it; see `journal.Journal`."""

    counts: Counts

    async def add(self, job: Job) -> str | None:
        """Store a new job, and number it; the id of the job that its key brought before, if any."""

    def post(self, job: Job) -> None:
        """Store a job as it is now."""

    async def committed(self) -> None:
        """Wait until all that was posted is on disk.

        Raises:
            LocalStorageError: It cannot be written.
        """

    async def find(self, job_id: str) -> Job | None:
        """A job that is not live."""

    async def by_key(self, key: str) -> Job | None:
        """The job that this key brought, while the key is good."""


def size_of(job: Job) -> int:
    """Bytes that a job takes without its input, status and stream."""
    return _RECORD + len(job.idempotency_key or "") + len(job.webhook or "")


class LiveJobs:
    """The jobs in memory, by id: those that wait or run, or whose end is not on disk yet, or whose
    webhook has to be called.

    Attributes:
        memory: Bytes that records, small inputs and results, and streams take, roughly.
    """

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._jobs: dict[str, Job] = {}
        self.memory = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def __contains__(self, job: Job) -> bool:
        return self._jobs.get(job.id) is job

    def get(self, job_id: str) -> Job | None:
        """The job of that id."""
        return self._jobs.get(job_id)

    def add(self, job: Job) -> None:
        """Have a job in memory."""
        self._jobs[job.id] = job
        self.memory += _held(job)

    def remove(self, job: Job) -> None:
        """Have it in memory no more."""
        if job in self:
            del self._jobs[job.id]
            self.memory -= _held(job)

    def check_memory(self) -> None:
        """Refuse a new job (`RateLimited`) when those in memory take too much of it."""
        if self.memory >= self._limits.memory_bytes:
            raise RateLimited(
                f"The gateway has as many jobs in memory as it may: {self._limits.memory_bytes} "
                "bytes.",
                advice="Try again later, when some have ended.",
                details={"retry_after": _MEMORY_AGAIN_AFTER},
            )

    def has_memory_for(self, content: bytes) -> bool:
        """Whether an input or a result is small enough to need no file."""
        half = self._limits.memory_bytes // 2  # the rest is for records
        return len(content) <= INLINE_BYTES and self.memory + len(content) <= half

    def say(self, job: Job, more: bytes) -> None:
        """Have ``more`` (see `Job`) in a job's status."""
        if job in self:
            self.memory += len(more) - len(job.more)
        job.more = more

    def say_if_it_fits(self, job: Job, more: bytes) -> None:
        """`say`, unless there is no memory for it."""
        if self.memory + len(more) - len(job.more) <= self._limits.memory_bytes:
            self.say(job, more)

    def drop_input(self, job: Job) -> None:
        """Drop a job's input, which is not needed any more."""
        if job in self:
            self.memory -= len(job.input or b"")
        job.input = None

    def add_chunk(self, job: Job, chunk: bytes) -> None:
        """Add a chunk, as JSON, to a job's stream.

        Raises:
            OutputTooLarge: Too much is waiting to be fetched.
        """
        size = len(chunk) + _CHUNK_OVERHEAD
        if (
            job.stream_bytes + size > self._limits.stream_bytes
            or self.memory + size > self._limits.memory_bytes
        ):
            raise OutputTooLarge(
                f"{job.stream_bytes} bytes of job {job.id} wait in its stream, and no more fit.",
                advice="Fetch /stream more often, or send less.",
            )
        job.stream.append(chunk)
        job.stream_bytes += size
        self.memory += size

    def take_stream(self, job: Job) -> list[bytes]:
        """Chunks that have come since the last call, each as JSON."""
        if job in self:
            self.memory -= job.stream_bytes
        chunks, job.stream, job.stream_bytes = job.stream, [], 0
        return chunks


def _held(job: Job) -> int:
    return size_of(job) + len(job.input or b"") + len(job.more) + job.stream_bytes


class RecentJobs:
    """Jobs that have just ended, for the clients that ask for their results: a few, the rest is on
    the disk.
    """

    def __init__(self, room: int = _RECENT_BYTES) -> None:
        self._room = room
        self._held = 0
        self._jobs: dict[str, Job] = {}

    def get(self, job_id: str, now: float) -> Job | None:
        """The job of that id, if it is here and its result is to be stored still."""
        job = self._jobs.get(job_id)
        if job is None or job.finished is None or now >= job.finished + job.retention:
            return None
        return job

    def add(self, job: Job) -> None:
        """Have a job here, until others take its place."""
        self.remove(job.id)
        if job.forgotten is None:
            self._jobs[job.id] = job
            self._held += _held(job)
            while self._held > self._room:
                self.remove(next(iter(self._jobs)))

    def remove(self, job_id: str) -> None:
        """Have a job here no more."""
        if (job := self._jobs.pop(job_id, None)) is not None:
            self._held -= _held(job)


def not_found(job_id: str, job: Job | None, limits: GatewayLimits) -> JobNotFound:
    """The error for a job that is not known, or of which only the key is."""
    if job is not None:
        return JobNotFound(
            f"Job {job_id} is {job.state.value}, and its result is not stored any more.",
            advice=f"Results are stored for {job.retention / 60:.0f} min.",
        )
    return JobNotFound(
        f"This endpoint has no job {job_id}.",
        advice="Results are stored for a while only: "
        f"{limits.run_retention / 60:.0f} min after /run.",
    )
