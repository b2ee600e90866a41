"""The job queue, as its clients see it: RunPod's states and rules. No HTTP, no files.

Its workers' side is in `worker_side`, the moves of a job in `moves`, what becomes of those that
have ended in `ends`. All is decided in memory, in the event loop, and posted to the journal. A
method that promises something returns when that is on disk; after one that does not wait,
`JobQueue.committed` does. What a final job was is in the journal only.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable

from ..aio import Background
from ..errors import JobNotFound, RateLimited, WorkflowInvalid
from ..wire.runpod import EndpointHealth, RunPodState
from .job import Job, Submission
from .journal import Journal
from .limits import GatewayLimits
from .offers import Needs
from .queue_events import JobAccepted, Watch, ignore_event
from .worker_side import WorkerSide

__all__ = ["JobQueue"]

_NO_NEEDS = Needs()


class JobQueue(WorkerSide):
    """Jobs from submission to their end. Lives in one event loop.

    A job is given to one worker at a time, and started again only if the start before is proven
    dead: see the tables of docs/serve.md.

    Args:
        clock: Seconds, never going back: no jump of the system's clock ends a job or a promise.
        on_event: Called with what happens; see `queue_events`.
    """

    def __init__(
        self,
        limits: GatewayLimits,
        journal: Journal,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_event: Watch = ignore_event,
    ) -> None:
        super().__init__(limits, journal, clock, on_event)
        self._arriving: set[str] = set()
        self._tasks = Background()

    @property
    def line(self) -> list[Job]:
        """The jobs that wait, by priority and arrival."""
        return list(self._moves.line)

    def look_again(self) -> None:
        """Wake the idle workers: something other than the line has changed."""
        self._moves.queued.notify()

    def restore(self, jobs: Iterable[Job]) -> None:
        """Take over the jobs of an earlier process: those that wait are in the line again, those
        that run are their workers'.
        """
        for job in jobs:
            self._moves.restore(job)

    def expect_workers(self) -> None:
        """Call it when the gateway starts and workers may come back: for a while, no worker gets a
        job that it lacks a node or a model for, because another may have that.
        """
        self._moves.line.wait_for_workers(self.clock() + self.limits.return_patience)

    # The client's side

    async def add(
        self,
        submission: Submission,
        *,
        content: bytes | None = None,
        input_file: str | None = None,
        input_files: frozenset[str] = frozenset(),
        needs: Needs = _NO_NEEDS,
        sync: bool = False,
        idempotency_key: str | None = None,
    ) -> Job:
        """Put a job into the queue, or find the one that the same key put there before.

        Args:
            content: Its input as JSON, unless that is in the file ``input_file``.
            input_files: Other files that it needs, by their SHA-256.
            needs: What it needs of its worker. One that may cost is never started once more.

        Returns:
            The job, which is on disk. One that is not live is a copy.

        Raises:
            RateLimited: The queue is full.
            LocalStorageError: It cannot be stored.
        """
        self.check_room()
        limits, policy, now = self.limits, submission.policy, self.clock()
        ttl, timeout = policy.time_to_live, policy.execution_timeout
        job = Job(
            id=f"sync-{uuid.uuid4()}" if sync else str(uuid.uuid4()),
            created=now,
            queued=now,
            expires=now + (limits.time_to_live if ttl is None else ttl / 1000),
            execution_timeout=limits.execution_timeout if timeout is None else timeout / 1000,
            retention=limits.runsync_retention if sync else limits.run_retention,
            result_limit=limits.runsync_bytes if sync else limits.run_bytes,
            low_priority=policy.low_priority,
            webhook=submission.webhook,
            idempotency_key=idempotency_key,
            # What its nodes buy from a service would be paid for twice.
            repeat_lost=policy.retry_lost
            and not needs.may_cost
            and not any(worker.offer.may_cost(needs) for worker in self.workers),
            client=policy.client or "",
            batch=policy.batch or "",
            priority=policy.priority,
            front=policy.front,
            labels=policy.labels,
            memory=policy.memory,
            needs=needs,
            input=content,
            input_file=input_file,
            input_files=input_files,
        )
        self.live.add(job)
        self._arriving.add(job.id)
        # A client that hangs up must not leave a job on disk that is not in the line.
        return await asyncio.shield(self._tasks.start(self._arrive(job)))

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._moves.line) + len(self._arriving)

    def why(self, job: Job) -> str:
        """Why a job waits: a sentence or two for people."""
        return self._moves.line.why(job, [*self.workers], self.clock())

    def check_room(self) -> None:
        """Refuse a new job (`RateLimited`) when too many wait, or memory is full."""
        if self.waiting >= self.limits.queued_jobs:
            raise RateLimited(
                f"{self.limits.queued_jobs} jobs are waiting already.",
                advice="Wait until some have run, or purge the queue.",
            )
        self.live.check_memory()

    async def get(self, job_id: str) -> Job:
        """The job of that id; what it says is on disk, but for progress.

        Returns:
            The job itself while it is live; else a copy, which nobody must change.

        Raises:
            JobNotFound: There is none, or its result has been forgotten.
            LocalStorageError: The disk cannot be read, or its end cannot be written.
        """
        job = self.live.get(job_id)
        if job is not None and job_id in self._ends:
            await self._ends.settled(job_id)
            job = self.live.get(job_id)
        if job is None:
            job = self._ends.recent(job_id, self.clock()) or await self._journal.find(job_id)
        if job is None or job.forgotten is not None:
            raise _not_found(job_id, job, self.limits)
        return job

    async def by_key(self, idempotency_key: str | None) -> Job | None:
        """The job that this key brought before, while the key is good."""
        if idempotency_key is None:
            return None
        known = await self._journal.by_key(idempotency_key)
        return None if known is None else self.live.get(known.id) or known

    async def wait_until_final(self, job_id: str, timeout: float) -> None:
        """Return once the job is final (or dropped), or after ``timeout`` seconds."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not self._closed:
            job = self.live.get(job_id)
            if job is None or (job.state.final and job_id not in self._ends):
                return
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await self._ends.wait(job_id, left)

    async def cancel(self, job_id: str) -> Job:
        """End a job that is not final; its worker must stop. Returns it."""
        job = await self.get(job_id)
        if not job.state.final:
            self._moves.cancel(job)
        await self.committed()
        return job

    async def retry(self, job_id: str) -> Job:
        """Put a failed or timed-out job into the queue again, under the same id.

        Raises:
            WorkflowInvalid: It is in another state.
            RateLimited: The queue is full.
        """
        job = await self.get(job_id)
        job = self.live.get(job_id) or job  # somebody else may have retried it meanwhile
        if not job.may_be_retried:
            raise WorkflowInvalid(
                f"Job {job.id} is {job.state.value}.",
                advice="Only FAILED and TIMED_OUT jobs can be retried.",
            )
        self.check_room()
        self._ends.take_back(job)
        now = self.clock()
        job.expires += now - job.created
        job.created = now
        job.finished = job.result = None
        job.more, job.output_files = b"{}", frozenset()
        job.lost, job.owed = 0, False
        self.live.take_stream(job)
        self.live.add(job)
        self._journal.counts.retried += 1
        self._moves.wait_again(job)
        self._on_event(JobAccepted(job))
        await self.committed()
        return job

    async def to_front(self, job_id: str) -> Job:
        """Move a job that waits before its client's others. Returns it.

        Raises:
            WorkflowInvalid: It does not wait.
        """
        job = await self.get(job_id)
        if job not in self._moves.line:
            raise WorkflowInvalid(f"Job {job_id} does not wait: it is {job.state.value}.")
        self._moves.line.remove(job)
        job.front = True
        self._moves.line.add(job)
        self._journal.post(job)
        self._moves.queued.notify()
        await self.committed()
        return job

    async def purge(self) -> int:
        """Cancel all jobs that wait; how many there were."""
        waiting = [
            job
            for job in self.live
            if job.state is RunPodState.IN_QUEUE and job.id not in self._arriving
        ]
        for job in waiting:
            self._moves.cancel(job)
        await self.committed()
        return len(waiting)

    def health(self) -> EndpointHealth:
        """What ``/health`` answers."""
        counts, ready = self._journal.counts, self.workers.ready
        busy = {worker.id for worker in self.workers if worker.running}
        return EndpointHealth.model_validate(
            {
                "jobs": {
                    "completed": counts.completed,
                    "failed": counts.failed,
                    "inProgress": len(self._moves.running),
                    "inQueue": self.waiting,
                    "retried": counts.retried,
                },
                "workers": {"idle": len(ready - busy), "running": len(ready & busy)},
            }
        )

    def take_stream(self, job: Job) -> list[bytes]:
        """Chunks that have come since the last call, each as JSON."""
        chunks = self.live.take_stream(job)
        if job in self.live and job.state.final:
            self._ends.let_go(job)
        return chunks

    # Time

    def sweep(self) -> None:
        """Apply all that depends on time. Call it about once a second."""
        now = self.clock()
        self.workers.note_silence(self.limits.worker_silence)
        for job in self.live:
            if job.id in self._arriving or job.id in self._ends:
                continue
            if job.state.final:
                if job.stream and now > (job.finished or 0.0) + job.retention:
                    self.take_stream(job)
                continue
            if now > job.expires:
                self._moves.expire(job)
            elif job.started is not None and now - job.started > job.execution_timeout:
                self._moves.time_out(job)
        if len(self._moves.line):
            self._moves.queued.notify()  # whom nobody took may be another worker's now

    def close(self) -> None:
        """Answer everybody who waits, now and from now on; have workers stop their jobs."""
        self._closed = True
        for job in self._moves.running.values():
            if job.worker_id is not None:
                self.workers.request_stop(job.worker_id, job.id, 0.0)
        self.workers.close()
        self._moves.queued.notify()
        self._ends.close()

    async def settle(self, seconds: float) -> None:
        """Wait until what has been decided is on disk and its consequences are under way, but no
        longer than that.
        """
        await self._tasks.wait(seconds)
        await self._tasks.stop()
        await self._ends.stop(seconds)

    # Inside

    async def _arrive(self, job: Job) -> Job:
        try:
            known = await self._journal.add(job)
        except BaseException:
            self.live.remove(job)
            raise
        finally:
            self._arriving.discard(job.id)
        if known is not None:
            self.live.remove(job)
            found = self.live.get(known) or await self._journal.find(known)
            if found is None:
                raise JobNotFound(
                    "The job that this Idempotency-Key brought has just been forgotten.",
                    advice="Submit it again.",
                )
            return found
        if not job.state.final:
            self._moves.line.add(job)
            self._on_event(JobAccepted(job))
            self._moves.queued.notify()
        return job

    async def owed(self, job_id: str) -> Job | None:
        """A job that ended in an earlier process, and whose webhook has yet to be called. It is in
        memory until that is done.
        """
        job = await self._journal.find(job_id)
        if job is None or not job.owed or self.live.get(job_id) is not None:
            return None
        self.live.add(job)
        return job

    def webhook_called(self, job: Job, finished: float | None) -> None:
        """The webhook of a job that ended at ``finished`` was called, or given up."""
        if job.owed and job.finished == finished:
            job.owed = False
            self._journal.post(job)
            self._ends.let_go(job)


def _not_found(job_id: str, job: Job | None, limits: GatewayLimits) -> JobNotFound:
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
