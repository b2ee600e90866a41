"""The job queue: RunPod's states and rules, without HTTP and without what jobs take and give."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from itertools import takewhile

from pydantic_core import to_json

from ..aio import Signal
from ..errors import (
    ComfyRemoteError,
    EngineCrashed,
    JobNotFound,
    JobTimedOut,
    OutputLost,
    OutputTooLarge,
    RateLimited,
    WorkflowInvalid,
)
from ..wire.runpod import EndpointHealth, RunPodState, error_to_runpod
from .job import Job, Submission
from .limits import GatewayLimits
from .workers import WorkerRegistry

__all__ = ["JobQueue"]

_RECORD = 2048  # bytes that a job takes in memory with all that points to it, rounded up
_CHUNK_OVERHEAD = 64
_SMALL = 4096
_MEMORY_AGAIN_AFTER = 60


def _ignore(job: Job) -> None:
    del job


class JobQueue:
    """Jobs from submission until their results are forgotten. Lives in one event loop.

    A job is handed to one worker, once. If that worker dies, the job fails: only a client's
    `retry` runs it again.

    No result or key is dropped to make room: each stays for its own time, and a full queue
    accepts no more jobs.

    Args:
        limits: Those that apply to jobs.
        clock: Seconds, never going back: no jump of the system's clock ends a job or a promise.
        on_final: Called when a job becomes final.
        on_forget: Called when a job's result is forgotten.
    """

    def __init__(
        self,
        limits: GatewayLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_final: Callable[[Job], None] = _ignore,
        on_forget: Callable[[Job], None] = _ignore,
    ) -> None:
        self.limits = limits
        self.workers = WorkerRegistry(clock)
        self._clock = clock
        self._on_final = on_final
        self._on_forget = on_forget
        self._jobs: dict[str, Job] = {}
        # What has ended, oldest first, by how long it is stored; then what only has a key.
        self._finished_jobs: dict[float, dict[str, Job]] = {}
        self._forgotten_jobs: dict[str, Job] = {}
        self._memory = 0
        self._waiting: deque[Job] = deque()
        self._waiting_low: deque[Job] = deque()
        self._running: dict[str, Job] = {}
        self._by_key: dict[str, Job] = {}
        self._queued = Signal()
        self._finished = Signal()
        self._closed = False
        self._completed = self._failed = self._retried = 0

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    # The client's side

    @property
    def memory(self) -> int:
        """Bytes that its records and streams take, roughly."""
        return self._memory

    def by_key(self, idempotency_key: str | None) -> Job | None:
        """The job that this key brought before, while the key is good."""
        return None if idempotency_key is None else self._by_key.get(idempotency_key)

    def add(
        self,
        submission: Submission,
        *,
        job_id: str | None = None,
        content: bytes | None = None,
        sync: bool = False,
        idempotency_key: str | None = None,
    ) -> Job:
        """Put a job into the queue, or find the one that the same key put there before.

        Args:
            job_id: As `new_id` made it.
            content: Its input as JSON, unless that is in the store.

        Raises:
            RateLimited: The queue is full.
        """
        if (known := self.by_key(idempotency_key)) is not None:
            return known
        self.check_room()
        limits, policy, now = self.limits, submission.policy, self._clock()
        ttl, timeout = policy.time_to_live, policy.execution_timeout
        job = Job(
            id=job_id or self.new_id(sync=sync),
            created=now,
            queued=now,
            expires=now + (limits.time_to_live if ttl is None else ttl / 1000),
            execution_timeout=limits.execution_timeout if timeout is None else timeout / 1000,
            retention=limits.runsync_retention if sync else limits.run_retention,
            result_limit=limits.runsync_bytes if sync else limits.run_bytes,
            low_priority=policy.low_priority,
            webhook=submission.webhook,
            idempotency_key=idempotency_key,
            input=content,
        )
        self._jobs[job.id] = job
        if idempotency_key is not None:
            self._by_key[idempotency_key] = job
        self._memory += _size_of(job) + len(content or b"")
        self._line_of(job).append(job)
        self._queued.notify()
        return job

    def get(self, job_id: str) -> Job:
        """The job of that id.

        Raises:
            JobNotFound: There is none, or its result has been forgotten.
        """
        if (gone := self._forgotten_jobs.get(job_id)) is not None:
            raise JobNotFound(
                f"Job {job_id} is {gone.state.value}, and its result is not stored any more.",
                advice=f"Results are stored for {gone.retention / 60:.0f} min.",
            )
        if (job := self._jobs.get(job_id)) is None:
            raise JobNotFound(
                f"This endpoint has no job {job_id}.",
                advice="Results are stored for a while only: "
                f"{self.limits.run_retention / 60:.0f} min after /run.",
            )
        return job

    @staticmethod
    def new_id(*, sync: bool) -> str:
        """An id for a job, which tells how it came."""
        return f"sync-{uuid.uuid4()}" if sync else str(uuid.uuid4())

    def has_memory_for(self, content: bytes) -> bool:
        """Whether an input or a result is small enough to need no file."""
        half = self.limits.memory_bytes // 2  # the rest is for records
        return len(content) <= _SMALL and self._memory + len(content) <= half

    def check_room(self) -> None:
        """Whether a job may come.

        Raises:
            RateLimited: The queue is full.
        """
        if len(self._waiting) + len(self._waiting_low) >= self.limits.queued_jobs:
            raise RateLimited(
                f"{self.limits.queued_jobs} jobs are waiting already.",
                advice="Wait until some have run, or purge the queue.",
            )
        if self._memory >= self.limits.memory_bytes:
            raise RateLimited(
                f"The gateway has as many jobs in memory as it may: {self.limits.memory_bytes} "
                "bytes.",
                advice="Try again later: old jobs are deleted.",
                details={"retry_after": _MEMORY_AGAIN_AFTER},
            )

    async def wait_until_final(self, job: Job, timeout: float) -> None:
        """Return once the job is final (or dropped), or after ``timeout`` seconds."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not job.state.final and job.id in self._jobs and not self._closed:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await self._finished.wait(left)

    def take_stream(self, job: Job) -> list[bytes]:
        """Chunks that have come since the last call, each as JSON."""
        self._memory -= job.stream_bytes
        chunks, job.stream, job.stream_bytes = job.stream, [], 0
        return chunks

    def cancel(self, job: Job) -> None:
        """End a job that is not final; its worker is told to stop."""
        if job.state.final:
            return
        self._leave_worker_or_line(job)
        self._conclude(job, RunPodState.CANCELLED)

    def retry(self, job: Job) -> None:
        """Put a failed or timed-out job into the queue again, under the same id.

        Raises:
            WorkflowInvalid: It is in another state.
            RateLimited: The queue is full.
        """
        if not job.may_be_retried:
            raise WorkflowInvalid(
                f"Job {job.id} is {job.state.value}.",
                advice="Only FAILED and TIMED_OUT jobs can be retried.",
            )
        self.check_room()
        del self._finished_jobs[job.retention][job.id]
        job.state = RunPodState.IN_QUEUE
        self._say(job, b"{}")
        job.result = None
        job.worker_id = job.started = job.finished = None
        self.take_stream(job)
        job.expires += self._clock() - job.created
        job.created = job.queued = self._clock()
        self._retried += 1
        self._line_of(job).append(job)
        self._queued.notify()

    def purge(self) -> int:
        """Cancel all jobs that wait.

        Returns:
            How many there were.
        """
        waiting = [*self._waiting, *self._waiting_low]
        for job in waiting:
            self.cancel(job)
        return len(waiting)

    def health(self) -> EndpointHealth:
        """What ``/health`` answers."""
        busy = {job.worker_id for job in self._running.values()}
        ready = self.workers.ready
        return EndpointHealth.model_validate(
            {
                "jobs": {
                    "completed": self._completed,
                    "failed": self._failed,
                    "inProgress": len(self._running),
                    "inQueue": len(self._waiting) + len(self._waiting_low),
                    "retried": self._retried,
                },
                "workers": {"idle": len(ready - busy), "running": len(ready & busy)},
            }
        )

    # The worker's side

    async def take(self, worker_id: str, *, wait: float, count: int = 1) -> list[Job]:
        """Hand jobs to a worker.

        Args:
            wait: Seconds to wait for the first.
            count: How many the worker wants at most.

        Returns:
            None to ``count`` jobs, now in progress.
        """
        deadline = asyncio.get_running_loop().time() + wait
        while not self._closed:
            self.workers.heard_of(worker_id, ready=True)
            if jobs := self._hand_over(worker_id, count):
                return jobs
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await self._queued.wait(left)
        return []

    def put_back(self, jobs: Iterable[Job]) -> None:
        """Undo `take` for jobs that did not reach the worker."""
        for job in reversed(list(jobs)):
            if self._running.pop(job.id, None) is None:
                continue
            job.state = RunPodState.IN_QUEUE
            job.worker_id = job.started = None
            self._line_of(job).appendleft(job)
        self._queued.notify()

    def is_running(self, job_id: str, worker_id: str) -> bool:
        """Whether that worker has that job. What it says about any other is out of date."""
        job = self._running.get(job_id)
        return job is not None and job.worker_id == worker_id

    def progress(self, job_id: str, worker_id: str, more: bytes) -> None:
        """Show ``more`` (see `Job`) while the job runs. Ignored when it comes too late, and when
        there is no room for it: the one before is shown then.
        """
        if not self.is_running(job_id, worker_id):
            return
        job = self._running[job_id]
        if self._memory + len(more) - len(job.more) <= self.limits.memory_bytes:
            self._say(job, more)

    def stream(self, job_id: str, worker_id: str, chunk: bytes) -> None:
        """Add a chunk, as JSON, for ``/stream``. Ignored when it comes too late.

        Raises:
            OutputTooLarge: Too much is waiting to be fetched.
        """
        if not self.is_running(job_id, worker_id):
            return
        job, size = self._running[job_id], len(chunk) + _CHUNK_OVERHEAD
        if (
            job.stream_bytes + size > self.limits.stream_bytes
            or self._memory + size > self.limits.memory_bytes
        ):
            raise OutputTooLarge(
                f"{job.stream_bytes} bytes of job {job_id} wait in its stream, and no more fit.",
                advice="Fetch /stream more often, or send less.",
            )
        job.stream.append(chunk)
        job.stream_bytes += size
        self._memory += size

    def finish(
        self, job_id: str, worker_id: str, *, result: bytes | str, failed: bool = False
    ) -> bool:
        """End a job with its result: the name of its file in the store, or itself.

        Returns:
            Whether it did: not when it comes too late.
        """
        if not self.is_running(job_id, worker_id):
            return False
        job = self._running[job_id]
        self._conclude(job, RunPodState.FAILED if failed else RunPodState.COMPLETED, result)
        return True

    def fail(self, job_id: str, worker_id: str, error: ComfyRemoteError) -> None:
        """End a job with one of our errors. Ignored when it comes too late."""
        if self.is_running(job_id, worker_id):
            self._conclude(self._running[job_id], RunPodState.FAILED, _as_result(error))

    def worker_is_idle(self, worker_id: str) -> None:
        """The worker says that it has no job: those it was given have lost their results."""
        for job in self._jobs_of(worker_id):
            lost = OutputLost(
                "The worker ended the job without delivering its result.",
                advice="Its log says why; a result above the size limit is one reason.",
            )
            self.fail(job.id, worker_id, lost)

    def worker_is_gone(self, worker_id: str, error: ComfyRemoteError) -> None:
        """Fail the worker's jobs. They are not run again: they may have done their work."""
        for job in self._jobs_of(worker_id):
            self.fail(job.id, worker_id, error)
        self.workers.remove(worker_id)

    # Time

    def sweep(self) -> None:
        """Apply all that depends on time. Call it about once a second."""
        now = self._clock()
        for worker_id in self.workers.silent_for(self.limits.worker_silence):
            self.worker_is_gone(
                worker_id,
                EngineCrashed(
                    f"The worker was silent for {self.limits.worker_silence:.0f} s.",
                    advice="It or its machine has died; start it again, then retry the job.",
                ),
            )
        for job in list(self._running.values()):
            if job.started is not None and now - job.started > job.execution_timeout:
                self._leave_worker_or_line(job)
                timed_out = JobTimedOut(
                    f"The job ran longer than the {job.execution_timeout:.0f} s allowed.",
                    advice="Allow more with policy.executionTimeout.",
                )
                self._conclude(job, RunPodState.TIMED_OUT, _as_result(timed_out))
        for job in [*self._running.values(), *self._waiting, *self._waiting_low]:
            if now > job.expires:
                self._leave_worker_or_line(job)
                job.state, job.finished = RunPodState.TIMED_OUT, now
                self._forget(job)
        for retention, jobs in self._finished_jobs.items():
            for job in _older_than(now - retention, jobs, lambda job: job.finished):
                if not job.owed:
                    del jobs[job.id]
                    self._forget(job)
        since = now - self.limits.key_retention
        for job in _older_than(since, self._forgotten_jobs, lambda job: job.forgotten):
            del self._forgotten_jobs[job.id]
            self._by_key.pop(job.idempotency_key or "", None)
            self._memory -= _size_of(job)

    def close(self) -> None:
        """Answer everybody who waits, now and from now on; have workers stop their jobs."""
        self._closed = True
        for job in self._running.values():
            if job.worker_id is not None:
                self.workers.request_stop(job.worker_id, job.id, 0.0)
        self.workers.close()
        self._queued.notify()
        self._finished.notify()

    # Inside

    def _line_of(self, job: Job) -> deque[Job]:
        return self._waiting_low if job.low_priority else self._waiting

    def _hand_over(self, worker_id: str, count: int) -> list[Job]:
        jobs: list[Job] = []
        while len(jobs) < count and (line := self._waiting or self._waiting_low):
            job = line.popleft()
            job.state, job.worker_id, job.started = (
                RunPodState.IN_PROGRESS,
                worker_id,
                self._clock(),
            )
            self.workers.withdraw_stop(worker_id, job.id)
            self._running[job.id] = job
            jobs.append(job)
        return jobs

    def _jobs_of(self, worker_id: str) -> list[Job]:
        return [job for job in self._running.values() if job.worker_id == worker_id]

    def _leave_worker_or_line(self, job: Job) -> None:
        if self._running.pop(job.id, None) is None:
            self._line_of(job).remove(job)
        elif job.worker_id is not None and job.started is not None:
            self.workers.request_stop(job.worker_id, job.id, job.started)

    def _conclude(self, job: Job, state: RunPodState, result: bytes | str = b"{}") -> None:
        self._running.pop(job.id, None)
        job.state, job.finished = state, self._clock()
        job.owed = job.webhook is not None
        self._say(job, result if isinstance(result, bytes) else b"{}")
        job.result = None if isinstance(result, bytes) else result
        if not job.may_be_retried:
            self._drop_input(job)
        self._finished_jobs.setdefault(job.retention, {})[job.id] = job
        if state is RunPodState.COMPLETED:
            self._completed += 1
        elif job.may_be_retried:
            self._failed += 1
        self._finished.notify()
        self._on_final(job)

    def _say(self, job: Job, more: bytes) -> None:
        self._memory += len(more) - len(job.more)
        job.more = more

    def _drop_input(self, job: Job) -> None:
        self._memory -= len(job.input or b"")
        job.input = None

    def _forget(self, job: Job) -> None:
        del self._jobs[job.id]
        self._drop_input(job)
        self.take_stream(job)
        self._say(job, b"{}")
        if job.idempotency_key is None:
            self._memory -= _size_of(job)
        else:
            job.forgotten = self._clock()
            self._forgotten_jobs[job.id] = job
        self._finished.notify()
        self._on_forget(job)


def _as_result(error: ComfyRemoteError) -> bytes:
    return to_json({"error": error_to_runpod(error)})


def _size_of(job: Job) -> int:
    return _RECORD + len(job.idempotency_key or "") + len(job.webhook or "")


def _older_than(
    since: float, jobs: dict[str, Job], when: Callable[[Job], float | None]
) -> list[Job]:
    """The first of the jobs, which stand oldest first."""
    return list(takewhile(lambda job: (when(job) or since) < since, jobs.values()))
