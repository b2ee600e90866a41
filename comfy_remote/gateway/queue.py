"""The job queue: RunPod's states and rules, and who runs what. No HTTP, no files.

What is remembered of jobs, for how long and in how much memory, is in `records`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable

from pydantic_core import to_json

from ..aio import Signal
from ..errors import (
    ComfyRemoteError,
    EngineCrashed,
    JobTimedOut,
    OutputLost,
    RateLimited,
    WorkflowInvalid,
)
from ..wire.runpod import EndpointHealth, RunPodState, error_to_runpod
from .job import Job, Submission
from .limits import GatewayLimits
from .records import JobRecords
from .workers import WorkerRegistry

__all__ = ["JobQueue"]


def _ignore(job: Job) -> None:
    del job


class JobQueue:
    """Jobs from submission until their results are forgotten. Lives in one event loop.

    A job is handed to one worker, once. If that worker dies, the job fails: only a client's
    `retry` runs it again.

    Args:
        clock: Seconds, never going back: no jump of the system's clock ends a job or a promise.
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
        self.records = JobRecords(limits)
        self._clock = clock
        self._on_final = on_final
        self._on_forget = on_forget
        self._waiting: deque[Job] = deque()
        self._waiting_low: deque[Job] = deque()
        self._running: dict[str, Job] = {}
        self._queued = Signal()
        self._finished = Signal()
        self._closed = False
        self._completed = self._failed = self._retried = 0

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    # The client's side

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
            content: Its input as JSON, unless that is in the store.

        Raises:
            RateLimited: The queue is full.
        """
        if (known := self.records.by_key(idempotency_key)) is not None:
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
        self.records.add(job)
        self._line_of(job).append(job)
        self._queued.notify()
        return job

    @staticmethod
    def new_id(*, sync: bool) -> str:
        """A new id for a job; its beginning says by which route it came."""
        return f"sync-{uuid.uuid4()}" if sync else str(uuid.uuid4())

    def check_room(self) -> None:
        """Refuse a new job (`RateLimited`) when too many wait, or memory is full."""
        if len(self._waiting) + len(self._waiting_low) >= self.limits.queued_jobs:
            raise RateLimited(
                f"{self.limits.queued_jobs} jobs are waiting already.",
                advice="Wait until some have run, or purge the queue.",
            )
        self.records.check_memory()

    async def wait_until_final(self, job: Job, timeout: float) -> None:
        """Return once the job is final (or dropped), or after ``timeout`` seconds."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not job.state.final and job in self.records and not self._closed:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await self._finished.wait(left)

    def cancel(self, job: Job) -> None:
        """End a job that is not final; its worker must stop."""
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
        self.records.revived(job)
        job.state = RunPodState.IN_QUEUE
        self.records.say(job, b"{}")
        job.result = None
        job.worker_id = job.started = job.finished = None
        self.records.take_stream(job)
        job.expires += self._clock() - job.created
        job.created = job.queued = self._clock()
        self._retried += 1
        self._line_of(job).append(job)
        self._queued.notify()

    def purge(self) -> int:
        """Cancel all jobs that wait; how many there were."""
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
            self.workers.seen(worker_id, ready=True)
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
        if self.is_running(job_id, worker_id):
            self.records.say_if_it_fits(self._running[job_id], more)

    def stream(self, job_id: str, worker_id: str, chunk: bytes) -> None:
        """Add a chunk, as JSON, for ``/stream``. Ignored when it comes too late.

        Raises:
            OutputTooLarge: Too much is waiting to be fetched.
        """
        if self.is_running(job_id, worker_id):
            self.records.add_chunk(self._running[job_id], chunk)

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
        for job in self.records.expired(now):
            self._forget(job)
        self.records.forget_keys(now)

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
        self.records.say(job, result if isinstance(result, bytes) else b"{}")
        job.result = None if isinstance(result, bytes) else result
        if not job.may_be_retried:
            self.records.drop_input(job)
        self.records.ended(job)
        if state is RunPodState.COMPLETED:
            self._completed += 1
        elif job.may_be_retried:
            self._failed += 1
        self._finished.notify()
        self._on_final(job)

    def _forget(self, job: Job) -> None:
        self.records.forget(job, self._clock())
        self._finished.notify()
        self._on_forget(job)


def _as_result(error: ComfyRemoteError) -> bytes:
    return to_json({"error": error_to_runpod(error)})
