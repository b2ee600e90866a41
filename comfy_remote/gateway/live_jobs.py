"""The jobs that a queue has in memory, and what they take there."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import OutputTooLarge, RateLimited
from .job import Job
from .journal import INLINE_BYTES
from .limits import GatewayLimits

__all__ = ["LiveJobs", "held"]

_RECORD = 2048  # bytes that a job takes in memory with all that points to it, rounded up
_CHUNK_OVERHEAD = 64
_MEMORY_AGAIN_AFTER = 60


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
        """Add a job."""
        self._jobs[job.id] = job
        self.memory += held(job)

    def remove(self, job: Job) -> None:
        """Remove a job."""
        if job in self:
            del self._jobs[job.id]
            self.memory -= held(job)

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

    def set_more(self, job: Job, more: bytes) -> None:
        """Set a job's ``more`` (see `Job`)."""
        if job in self:
            self.memory += len(more) - len(job.more)
        job.more = more

    def set_more_if_it_fits(self, job: Job, more: bytes) -> None:
        """`set_more`, unless there is no memory for it."""
        if self.memory + len(more) - len(job.more) <= self._limits.memory_bytes:
            self.set_more(job, more)

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


def held(job: Job) -> int:
    """Bytes of memory that a job takes, roughly."""
    strings = len(job.idempotency_key or "") + len(job.webhook or "")
    return _RECORD + strings + len(job.input or b"") + len(job.more) + job.stream_bytes
