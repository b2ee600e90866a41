"""The jobs that a gateway knows: how long each is remembered, and what they take in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile

from ..errors import JobNotFound, OutputTooLarge, RateLimited
from .job import Job
from .limits import GatewayLimits

__all__ = ["JobRecords", "size_of"]

_RECORD = 2048  # bytes that a job takes in memory with all that points to it, rounded up
_CHUNK_OVERHEAD = 64
_SMALL = 4096
_MEMORY_AGAIN_AFTER = 60


def size_of(job: Job) -> int:
    """Bytes that a job takes without its input, status and stream."""
    return _RECORD + len(job.idempotency_key or "") + len(job.webhook or "")


class JobRecords:
    """Jobs by id and by key, from submission until their results and keys are forgotten.

    Nothing is dropped to make room: each result and key stays for its own time, and `check_memory`
    refuses new jobs.

    Attributes:
        memory: Bytes that records, small inputs and results, and streams take, roughly.
    """

    def __init__(self, limits: GatewayLimits) -> None:
        self._limits = limits
        self._jobs: dict[str, Job] = {}
        # What has ended, oldest first, by how long it is stored; then what only has a key.
        self._ended: dict[float, dict[str, Job]] = {}
        self._forgotten: dict[str, Job] = {}
        self._by_key: dict[str, Job] = {}
        self.memory = 0

    def __contains__(self, job: Job) -> bool:
        """Whether a job's result has not been forgotten."""
        return job.id in self._jobs

    def __iter__(self) -> Iterator[Job]:
        """All jobs, those of which only the key is known, too."""
        yield from self._jobs.values()
        yield from self._forgotten.values()

    def add(self, job: Job) -> None:
        """Remember a new job."""
        self._jobs[job.id] = job
        if job.idempotency_key is not None:
            self._by_key[job.idempotency_key] = job
        self.memory += size_of(job) + len(job.input or b"")

    def get(self, job_id: str) -> Job:
        """The job of that id.

        Raises:
            JobNotFound: There is none, or its result has been forgotten.
        """
        if (gone := self._forgotten.get(job_id)) is not None:
            raise JobNotFound(
                f"Job {job_id} is {gone.state.value}, and its result is not stored any more.",
                advice=f"Results are stored for {gone.retention / 60:.0f} min.",
            )
        if (job := self._jobs.get(job_id)) is None:
            raise JobNotFound(
                f"This endpoint has no job {job_id}.",
                advice="Results are stored for a while only: "
                f"{self._limits.run_retention / 60:.0f} min after /run.",
            )
        return job

    def by_key(self, idempotency_key: str | None) -> Job | None:
        """The job that this key brought before, while the key is good."""
        return None if idempotency_key is None else self._by_key.get(idempotency_key)

    # Time

    def ended(self, job: Job) -> None:
        """Note that a job is final: its result is stored for its own time from now on."""
        self._ended.setdefault(job.retention, {})[job.id] = job

    def revived(self, job: Job) -> None:
        """Note that a job that was final is run again."""
        del self._ended[job.retention][job.id]

    def expired(self, now: float) -> list[Job]:
        """Jobs whose results have been stored for long enough, their webhooks called."""
        return [
            job
            for retention, jobs in self._ended.items()
            for job in _older_than(now - retention, jobs, lambda job: job.finished)
            if not job.owed
        ]

    def forget(self, job: Job, now: float) -> None:
        """Forget a job's result, and the job itself unless a key brought it."""
        self._jobs.pop(job.id)
        self._ended.get(job.retention, {}).pop(job.id, None)
        self.drop_input(job)
        self.take_stream(job)
        self.say(job, b"{}")
        if job.idempotency_key is None:
            self.memory -= size_of(job)
        else:
            job.forgotten = now
            self._forgotten[job.id] = job

    def forget_keys(self, now: float) -> None:
        """Forget the keys that have been good for long enough."""
        since = now - self._limits.key_retention
        for job in _older_than(since, self._forgotten, lambda job: job.forgotten):
            del self._forgotten[job.id]
            self._by_key.pop(job.idempotency_key or "", None)
            self.memory -= size_of(job)

    # Memory

    def check_memory(self) -> None:
        """Refuse a new job (`RateLimited`) when the known ones take too much memory."""
        if self.memory >= self._limits.memory_bytes:
            raise RateLimited(
                f"The gateway has as many jobs in memory as it may: {self._limits.memory_bytes} "
                "bytes.",
                advice="Try again later: old jobs are deleted.",
                details={"retry_after": _MEMORY_AGAIN_AFTER},
            )

    def has_memory_for(self, content: bytes) -> bool:
        """Whether an input or a result is small enough to need no file."""
        half = self._limits.memory_bytes // 2  # the rest is for records
        return len(content) <= _SMALL and self.memory + len(content) <= half

    def say(self, job: Job, more: bytes) -> None:
        """Have ``more`` (see `Job`) in a job's status."""
        self.memory += len(more) - len(job.more)
        job.more = more

    def say_if_it_fits(self, job: Job, more: bytes) -> None:
        """`say`, unless there is no memory for it."""
        if self.memory + len(more) - len(job.more) <= self._limits.memory_bytes:
            self.say(job, more)

    def drop_input(self, job: Job) -> None:
        """Drop a job's input, which is not needed any more."""
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
        self.memory -= job.stream_bytes
        chunks, job.stream, job.stream_bytes = job.stream, [], 0
        return chunks


def _older_than(
    since: float, jobs: dict[str, Job], when: Callable[[Job], float | None]
) -> list[Job]:
    """The first of the jobs, which are in order of age."""
    return list(takewhile(lambda job: (when(job) or since) < since, jobs.values()))
