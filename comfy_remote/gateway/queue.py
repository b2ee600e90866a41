"""The job queue: RunPod's states and rules, who runs what, and what is repeated. No HTTP, no files.

All is decided in memory, in the event loop, and posted to the journal. A method that promises
something returns when that is on disk; after one that does not wait, `JobQueue.committed` does.
What a final job was is in the journal only.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import replace

from pydantic_core import to_json

from ..aio import Background, Signal
from ..errors import (
    ComfyRemoteError,
    EngineCrashed,
    JobNotFound,
    JobTimedOut,
    LocalStorageError,
    OutputLost,
    RateLimited,
    WorkflowInvalid,
)
from ..wire.joined import Held, HolderState
from ..wire.runpod import EndpointHealth, RunPodState, error_to_runpod
from .job import Attempt, Ending, Job, Lease, Submission
from .limits import GatewayLimits
from .placing import Line, Needs, Offer
from .queue_events import (
    JobAccepted,
    JobEnded,
    JobPutBack,
    JobRepeated,
    JobStarted,
    Watch,
    ignore_event,
)
from .records import JobJournal, LiveJobs, RecentJobs, not_found
from .workers import Worker, WorkerKind, WorkerRegistry

__all__ = ["JobQueue"]

_MOST_STARTS = 2
"""One repeat: what has killed two workers would kill a third."""
_EARLIER = 4
_SETTLING_PATIENCE = 10.0
_LONGEST_POLL = 3600.0
_SHORTEST_POLL = 0.01
_POST_AGAIN_AFTER = 1.0
_NO_NEEDS = Needs()
_log = logging.getLogger(__name__)


def _ignore(job: Job) -> None:
    del job


class JobQueue:
    """Jobs from submission to their end. Lives in one event loop.

    A job is given to one worker at a time, and started again only if the start before is proven
    dead: see the tables of docs/serve.md.

    Args:
        clock: Seconds, never going back: no jump of the system's clock ends a job or a promise.
        on_final: Called with each job whose end is on disk.
        on_event: Called with what happens; see `queue_events`.
    """

    def __init__(
        self,
        limits: GatewayLimits,
        journal: JobJournal,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_final: Callable[[Job], None] = _ignore,
        on_event: Watch = ignore_event,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.workers = WorkerRegistry(lambda: self.clock(), on_event)
        self.live = LiveJobs(limits)
        self._journal = journal
        self._on_final = on_final
        self._on_event = on_event
        self._line: Line[Job] = Line(warm_patience=limits.warm_patience, patience=limits.patience)
        self._arriving: set[str] = set()
        self._running: dict[str, Job] = {}
        self._settling: dict[str, Job] = {}
        self._tasks = Background()
        self._settler: asyncio.Future[None] | None = None
        self._queued = Signal()
        self._recent = RecentJobs()
        self._ends: dict[str, Signal] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def running(self) -> list[Job]:
        """The jobs that workers have."""
        return list(self._running.values())

    @property
    def line(self) -> list[Job]:
        """The jobs that wait, by priority and arrival."""
        return list(self._line)

    def look_again(self) -> None:
        """Have idle workers look for a job again: something else than the line has changed."""
        self._queued.notify()

    def restore(self, jobs: Iterable[Job]) -> None:
        """Go on with the jobs of an earlier process: those that wait are in the line again, those
        that run are their workers'.
        """
        for job in jobs:
            self.live.add(job)
            if job.state is RunPodState.IN_QUEUE:
                self._line.add(job)
            elif job.state is RunPodState.IN_PROGRESS and job.worker_id is not None:
                worker = self._worker_of(job) or self.workers.register(
                    job.worker_id, WorkerKind.of(job.boot), job.boot
                )
                worker.silent = True
                worker.idle_since = None
                worker.offer = worker.offer.after(job.needs)
                self._running[job.id] = worker.running[job.id] = job
                self._line.start(job)

    def expect_workers(self) -> None:
        """Call it when the gateway starts and workers may come back: for a while, no worker gets a
        job that it lacks a node or a model for, because another may have that.
        """
        self._line.wait_for_workers(self.clock() + self.limits.return_patience)

    # The client's side

    async def add(
        self,
        submission: Submission,
        *,
        job_id: str | None = None,
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
        try:
            self.check_room()
        except RateLimited:
            if (known := await self.by_key(idempotency_key)) is not None:
                return known
            raise
        limits, policy, now = self.limits, submission.policy, self.clock()
        needs = needs or Needs()
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
            # What its nodes buy from a service would be paid for twice.
            repeat_lost=policy.retry_lost and not needs.may_cost,
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

    @staticmethod
    def new_id(*, sync: bool) -> str:
        """A new id for a job; its beginning says by which route it came."""
        return f"sync-{uuid.uuid4()}" if sync else str(uuid.uuid4())

    @property
    def waiting(self) -> int:
        """How many jobs wait."""
        return len(self._line) + len(self._arriving)

    def why(self, job: Job) -> str:
        """Why a job waits: a sentence or two for people."""
        return self._line.why(job, [*self.workers], self.clock())

    @property
    def is_full(self) -> bool:
        """Whether `check_room` refuses."""
        try:
            self.check_room()
        except RateLimited:
            return True
        return False

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
        if job is not None and job_id in self._settling:
            await self._settled(job)
            job = self.live.get(job_id)
        if job is None:
            job = self._recent.get(job_id, self.clock()) or await self._journal.find(job_id)
        if job is None or job.forgotten is not None:
            raise not_found(job_id, job, self.limits)
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
            if job is None or (job.state.final and job_id not in self._settling):
                return
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return
            await self._wait_for_end(job_id, left)

    async def cancel(self, job_id: str) -> Job:
        """End a job that is not final; its worker must stop. Returns it."""
        job = await self.get(job_id)
        if not job.state.final:
            self._cancel(job)
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
        self.live.remove(job)
        self._recent.remove(job.id)
        now = self.clock()
        job.expires += now - job.created
        job.created = now
        job.finished = job.result = None
        job.more, job.output_files = b"{}", frozenset()
        job.lost, job.owed = 0, False
        self.live.take_stream(job)
        self.live.add(job)
        self._journal.counts.retried += 1
        self._wait_again(job)
        self._on_event(JobAccepted(job))
        await self.committed()
        return job

    async def to_front(self, job_id: str) -> Job:
        """Have a job that waits taken before its client's others. Returns it.

        Raises:
            WorkflowInvalid: It does not wait.
        """
        job = await self.get(job_id)
        if job not in self._line:
            raise WorkflowInvalid(f"Job {job_id} does not wait: it is {job.state.value}.")
        self._line.remove(job)
        job.front = True
        self._line.add(job)
        self._journal.post(job)
        self._queued.notify()
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
            self._cancel(job)
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
                    "inProgress": len(self._running),
                    "inQueue": self.waiting,
                    "retried": counts.retried,
                },
                "workers": {"idle": len(ready - busy), "running": len(ready & busy)},
            }
        )

    async def committed(self) -> None:
        """Wait until all that has been decided is on disk.

        Raises:
            LocalStorageError: It cannot be written. It stays decided, and is tried again.
        """
        await self._journal.committed()

    def take_stream(self, job: Job) -> list[bytes]:
        """Chunks that have come since the last call, each as JSON."""
        chunks = self.live.take_stream(job)
        if job in self.live and job.state.final and job.id not in self._settling:
            self._let_go(job)
        return chunks

    # The worker's side

    async def take(self, worker_id: str, *, wait: float, count: int = 1) -> list[Lease]:
        """Give jobs to a worker; that is on disk when this returns.

        Args:
            wait: Seconds to wait for the first.
            count: How many the worker wants at most.

        Returns:
            None to ``count`` jobs, now in progress.

        Raises:
            LocalStorageError: It cannot be written; no job was given.
        """
        return await self.confirm(await self.lease(worker_id, wait=wait, count=count))

    async def lease(self, worker_id: str, *, wait: float, count: int = 1) -> list[Lease]:
        """The first half of `take`: the worker must not hear of the jobs before `confirm`."""
        deadline = asyncio.get_running_loop().time() + wait
        while not self._closed:
            worker = self.workers.seen(worker_id, ready=True)
            if leases := self._hand_over(worker, count):
                return leases
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await self._queued.wait(min(left, self._until_next_change(worker)))
        return []

    async def confirm(self, leases: Sequence[Lease]) -> list[Lease]:
        """The second half of `take`: the leases that hold, when they are on disk.

        If it is cancelled or fails, the jobs are put back.
        """
        if not leases:
            return []
        try:
            await self.committed()
        except BaseException:
            self.put_back(leases, "It did not reach the worker.")
            raise
        return [lease for lease in leases if self._holds(lease)]

    def put_back(self, leases: Iterable[Lease], why: str) -> None:
        """Undo `take` for jobs that did not reach the worker, or that it has surely stopped: their
        start is not counted.
        """
        for lease in leases:
            if self._holds(lease):
                self._give_up_start(lease.job, why)

    def is_running(self, job_id: str, worker_id: str, attempt: int | None = None) -> bool:
        """Whether that worker has that job. What it says about any other is out of date."""
        job = self._running.get(job_id)
        return (
            job is not None
            and job.worker_id == worker_id
            and (attempt is None or attempt == job.attempt)
        )

    def had_job(self, job_id: str, worker_id: str) -> bool:
        """Whether that worker has that live job, or had an earlier start of it."""
        job = self.live.get(job_id)
        return job is not None and (
            job.worker_id == worker_id or any(one.worker_id == worker_id for one in job.earlier)
        )

    def progress(
        self, job_id: str, worker_id: str, more: bytes, *, attempt: int | None = None
    ) -> None:
        """Show ``more`` (see `Job`) while the job runs. Ignored when it comes too late, and when
        there is no room for it: the one before is shown then.
        """
        if self.is_running(job_id, worker_id, attempt):
            self.live.say_if_it_fits(self._running[job_id], more)

    def stream(
        self, job_id: str, worker_id: str, chunk: bytes, *, attempt: int | None = None
    ) -> None:
        """Add a chunk, as JSON, for ``/stream``. Ignored when it comes too late.

        Raises:
            OutputTooLarge: Too much is waiting to be fetched.
        """
        if self.is_running(job_id, worker_id, attempt):
            self.live.add_chunk(self._running[job_id], chunk)

    def add_output_file(
        self, job_id: str, worker_id: str, sha256: str, *, attempt: int | None = None
    ) -> bool:
        """Note that a file in the store is an output of a job; whether it is that worker's."""
        job = self._result_taker(job_id, worker_id, attempt)
        if job is None:
            return False
        job.output_files |= {sha256}
        self._journal.post(job)
        return True

    def takes_result(self, job_id: str, worker_id: str, *, attempt: int | None = None) -> bool:
        """Whether `finish` would take a result now."""
        return self._result_taker(job_id, worker_id, attempt) is not None or self._has_given(
            job_id, worker_id, attempt
        )

    def finish(
        self,
        job_id: str,
        worker_id: str,
        *,
        result: bytes | str,
        attempt: int | None = None,
        failed: bool = False,
        ending: Ending | None = None,
    ) -> bool:
        """End a job with its result: the SHA-256 of the file with it, or itself.

        The result of an earlier start is taken, too, while there is no other: the later start is
        stopped. It is on disk after `committed`.

        Args:
            attempt: Which start it is of; the current one when ``None``.

        Returns:
            Whether it is the job's result now: not when the job is final or another worker's.
        """
        job = self._result_taker(job_id, worker_id, attempt)
        if job is None:
            return self._has_given(job_id, worker_id, attempt)
        if not self.is_running(job_id, worker_id, attempt):
            if failed:
                return False  # the later start may do better
            self._leave_worker_or_line(job)
            job.worker_id = worker_id
            job.started = self.clock() if job.started is None else job.started
        job.ending = ending or Ending()
        self._conclude(job, RunPodState.FAILED if failed else RunPodState.COMPLETED, result)
        return True

    def fail(
        self,
        job_id: str,
        worker_id: str,
        error: ComfyRemoteError,
        *,
        attempt: int | None = None,
    ) -> bool:
        """End a job with one of our errors. Ignored (``False``) when it comes too late."""
        if not self.is_running(job_id, worker_id, attempt):
            return self._has_given(job_id, worker_id, attempt)
        self._fail(self._running[job_id], error)
        return True

    async def hello(
        self,
        worker_id: str,
        boot: str,
        holds: Sequence[Held],
        *,
        offer: Offer | None = None,
        draining: bool = False,
    ) -> list[Held]:
        """Hear from a joined worker what it has, after its start and after each outage.

        A job that it was given, and that it does not say it has, is not there: with the same boot,
        it never arrived; with another, its start is dead. So the worker must not have a `take`
        under way meanwhile whose answer it would still read.

        Returns:
            What the worker must drop: jobs that are not its own any more.

        Raises:
            WorkflowInvalid: A worker of the gateway's own has that name.
        """
        worker = self.workers.get(worker_id)
        if worker is not None and worker.kind is not WorkerKind.JOINED:
            raise WorkflowInvalid(
                f"The gateway has a worker {worker_id} of its own.",
                advice="Use another name for this one.",
            )
        before = worker.boot if worker is not None else None
        if worker is not None and offer is not None and before == boot:
            offer = replace(offer, warm=worker.offer.warm)  # which the worker does not know
        worker = self.workers.register(worker_id, WorkerKind.JOINED, boot, offer)
        worker.draining = worker.draining or draining
        held = {(one.job, one.attempt) for one in holds}
        for job in list(worker.running.values()):
            if (job.id, job.attempt) in held:
                job.boot = boot
                worker.offer = worker.offer.after(job.needs)
                self._journal.post(job)
            elif job.boot == boot:
                self._give_up_start(job, "The worker never had it.")
            else:
                self._lose(
                    job,
                    EngineCrashed(
                        f"Worker {worker_id} was started again while the job ran.",
                        advice="Its log may say why it ended.",
                    ),
                )
        if before is not None and before != boot:
            _log.info("Worker %s was started again.", worker_id)
        drop = [one for one in holds if not self._may_keep(worker, one)]
        await self.committed()
        return drop

    def worker_is_idle(self, worker_id: str) -> None:
        """The worker says that it has no job: those it was given have lost their results."""
        for job in self._jobs_of(worker_id):
            self._fail(
                job,
                OutputLost(
                    "The worker ended the job without delivering its result.",
                    advice="Its log says why; a result above the size limit is one reason.",
                ),
            )

    def worker_is_gone(self, worker_id: str, error: ComfyRemoteError) -> None:
        """The worker's process is proven to have ended, or its owner says so: its jobs are started
        once more, or fail with ``error``.
        """
        for job in self._jobs_of(worker_id):
            self._lose(job, error)
        self.workers.remove(worker_id, error.message)

    def worker_has_stopped(self, worker_id: str, why: str) -> None:
        """The worker has ended in order, and has stopped its jobs: they wait again, and their start
        is not counted.
        """
        for job in self._jobs_of(worker_id):
            self._give_up_start(job, why)
        self.workers.remove(worker_id, why)

    def fail_jobs_of(self, worker_id: str, error: ComfyRemoteError) -> None:
        """End all jobs of a worker that may still be running them, but cannot deliver any more."""
        for job in self._jobs_of(worker_id):
            self._fail(job, error)
        self.workers.remove(worker_id, error.message)

    # Time

    def sweep(self) -> None:
        """Apply all that depends on time. Call it about once a second."""
        now = self.clock()
        self.workers.note_silence(self.limits.worker_silence)
        for job in self.live:
            if job.id in self._arriving or job.id in self._settling:
                continue
            if job.state.final:
                if job.stream and now > (job.finished or 0.0) + job.retention:
                    self.take_stream(job)
                continue
            if now > job.expires:
                self._leave_worker_or_line(job)
                job.forgotten = now
                self._conclude(job, RunPodState.TIMED_OUT)
            elif job.started is not None and now - job.started > job.execution_timeout:
                self._leave_worker_or_line(job)
                timed_out = JobTimedOut(
                    f"The job ran longer than the {job.execution_timeout:.0f} s allowed.",
                    advice="Allow more with policy.executionTimeout.",
                )
                job.ending = Ending(code=timed_out.code)
                self._conclude(job, RunPodState.TIMED_OUT, _as_result(timed_out))
        if len(self._line):
            self._queued.notify()  # whom nobody took may be another worker's now

    def close(self) -> None:
        """Answer everybody who waits, now and from now on; have workers stop their jobs."""
        self._closed = True
        for job in self._running.values():
            if job.worker_id is not None:
                self.workers.request_stop(job.worker_id, job.id, 0.0)
        self.workers.close()
        self._queued.notify()
        for signal in self._ends.values():
            signal.notify()

    async def settle(self, seconds: float) -> None:
        """Wait until what has been decided is on disk and its consequences are under way, but no
        longer than that.
        """
        await self._tasks.wait(seconds)
        await self._tasks.stop()

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
            self._line.add(job)
            self._on_event(JobAccepted(job))
            self._queued.notify()
        return job

    def _worker_of(self, job: Job) -> Worker | None:
        return None if job.worker_id is None else self.workers.get(job.worker_id)

    def _holds(self, lease: Lease) -> bool:
        return self.is_running(lease.job.id, lease.worker_id, lease.attempt)

    def _result_taker(self, job_id: str, worker_id: str, attempt: int | None) -> Job | None:
        """The job that a worker may give a result, as its present or an earlier start."""
        job = self.live.get(job_id)
        if job is None or job.state.final:
            return None
        if self.is_running(job_id, worker_id, attempt):
            return job
        return job if attempt is not None and Attempt(attempt, worker_id) in job.earlier else None

    def _has_given(self, job_id: str, worker_id: str, attempt: int | None) -> bool:
        """Whether the job's end, which is not on disk yet, is this worker's: it says so again."""
        job = self._settling.get(job_id)
        return (
            job is not None
            and job.worker_id == worker_id
            and (attempt in (None, job.attempt) or Attempt(attempt or 0, worker_id) in job.earlier)
        )

    def _may_keep(self, worker: Worker, held: Held) -> bool:
        if self.is_running(held.job, worker.id, held.attempt):
            return True
        job = self._result_taker(held.job, worker.id, held.attempt)
        if job is None:
            return self._has_given(held.job, worker.id, held.attempt)
        if held.state is HolderState.ENDED:
            return True  # it delivers it
        if job.state is RunPodState.IN_QUEUE:
            # It was said to be dead, and lives; nobody has begun it again: it goes on.
            job.lost = max(0, job.lost - 1)
            job.earlier = tuple(one for one in job.earlier if one.number != held.attempt)
            self._start(job, worker)
            job.attempt = held.attempt
            return True
        return False

    def _hand_over(self, worker: Worker, count: int) -> list[Lease]:
        leases: list[Lease] = []
        while len(leases) < count and worker.takes_jobs and len(self._line):
            job = self._line.choose(worker, [*self.workers], self.clock())
            if job is None:
                break
            job.attempt += 1
            self._start(job, worker)
            self._on_event(JobStarted(job))
            leases.append(Lease(job, worker.id, job.attempt))
        return leases

    def _until_next_change(self, worker: Worker) -> float:
        now = self.clock()
        change = self._line.next_change(worker, [*self.workers], now)
        return _LONGEST_POLL if change is None else max(change - now, _SHORTEST_POLL)

    def _start(self, job: Job, worker: Worker) -> None:
        job.state, job.started = RunPodState.IN_PROGRESS, self.clock()
        job.worker_id, job.boot = worker.id, worker.boot
        worker.offer = worker.offer.after(job.needs)
        worker.idle_since = None
        self.workers.withdraw_stop(worker.id, job.id)
        self._line.start(job)
        self._running[job.id] = worker.running[job.id] = job
        self._journal.post(job)

    def _jobs_of(self, worker_id: str) -> list[Job]:
        return [job for job in self._running.values() if job.worker_id == worker_id]

    def _cancel(self, job: Job) -> None:
        self._leave_worker_or_line(job)
        self._conclude(job, RunPodState.CANCELLED)

    def _leave_worker(self, job: Job) -> None:
        del self._running[job.id]
        self._line.remove(job)
        worker = self._worker_of(job)
        if worker is not None:
            worker.running.pop(job.id, None)
            if not worker.running:
                worker.idle_since = self.clock()

    def _leave_worker_or_line(self, job: Job) -> None:
        """Take a job from its worker, which must stop, or out of the line."""
        if job.id in self._running:
            self._leave_worker(job)
            if job.worker_id is not None and job.started is not None:
                self.workers.request_stop(job.worker_id, job.id, job.started)
        elif job.id not in self._arriving:
            self._line.remove(job)

    def _give_up_start(self, job: Job, why: str) -> None:
        """Put a job back as if it had not been started."""
        event = JobPutBack(job, job.worker_id or "", self._ran(job), why)
        self._leave_worker(job)
        job.attempt -= 1
        self._wait_again(job, since=job.queued)
        self._on_event(event)

    def _lose(self, job: Job, error: ComfyRemoteError) -> None:
        """The job's start is proven dead."""
        worker_id, ran = job.worker_id or "", self._ran(job)
        self._leave_worker(job)
        job.lost += 1
        job.earlier = (*job.earlier, Attempt(job.attempt, worker_id))[-_EARLIER:]
        if not job.repeat_lost or job.lost >= _MOST_STARTS:
            why = (
                "It is not started again, because its request or its nodes do not allow that."
                if not job.repeat_lost
                else "It has been started again once already."
            )
            self._fail(job, _with_words(error, why))
            return
        self._journal.counts.retried += 1
        self._wait_again(job)
        self._on_event(JobRepeated(job, worker_id, ran, error.message))

    def _ran(self, job: Job) -> float:
        return 0.0 if job.started is None else self.clock() - job.started

    def _wait_again(self, job: Job, *, since: float | None = None) -> None:
        job.state = RunPodState.IN_QUEUE
        job.queued = self.clock() if since is None else since
        job.worker_id = job.started = None
        job.boot = ""
        self.live.say(job, b"{}")
        self._line.add(job)
        self._journal.post(job)
        self._queued.notify()

    def _fail(self, job: Job, error: ComfyRemoteError) -> None:
        job.ending = Ending(code=error.code)
        self._conclude(job, RunPodState.FAILED, _as_result(error))

    def _conclude(self, job: Job, state: RunPodState, result: bytes | str = b"{}") -> None:
        if job.id in self._running:
            self._leave_worker(job)
        job.state, job.finished = state, self.clock()
        job.owed = job.webhook is not None and job.forgotten is None
        self.live.say(job, result if isinstance(result, bytes) else b"{}")
        job.result = None if isinstance(result, bytes) else result
        if not job.may_be_retried:
            self.live.drop_input(job)
            job.input_file, job.input_files = None, frozenset()
        if state is RunPodState.COMPLETED:
            self._journal.counts.completed += 1
        elif job.may_be_retried and job.forgotten is None:
            self._journal.counts.failed += 1
        self._settling[job.id] = job
        self._journal.post(job)
        if self._settler is None or self._settler.done():
            self._settler = self._tasks.start(self._settle())

    async def _settle(self) -> None:
        """Let go of the jobs whose end is on disk."""
        while self._settling:
            ended = list(self._settling.values())
            try:
                await self.committed()
            except LocalStorageError as error:
                _log.error("The end of %d jobs cannot be stored yet. %s", len(ended), error)
                await asyncio.sleep(_POST_AGAIN_AFTER)
                continue
            for job in ended:
                del self._settling[job.id]
                self._let_go(job)
                self._on_event(JobEnded(job))
                self._on_final(job)
                if (signal := self._ends.pop(job.id, None)) is not None:
                    signal.notify()

    def _let_go(self, job: Job) -> None:
        """Have a job that is final in memory no more, unless something of it is in memory only."""
        if job.forgotten is not None:
            self.live.take_stream(job)
        if job.owed or job.stream:
            return
        self.live.remove(job)
        self._recent.add(job)

    async def _wait_for_end(self, job_id: str, seconds: float) -> None:
        await self._ends.setdefault(job_id, Signal()).wait(seconds)

    async def _settled(self, job: Job) -> None:
        deadline = asyncio.get_running_loop().time() + _SETTLING_PATIENCE
        while self._settling.get(job.id) is job:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or self._closed:
                raise LocalStorageError(
                    f"The end of job {job.id} cannot be stored at present.",
                    advice="Ask again later. The gateway's log says why.",
                )
            await self._wait_for_end(job.id, left)

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
            self._let_go(job)


def _as_result(error: ComfyRemoteError) -> bytes:
    return to_json({"error": error_to_runpod(error)})


def _with_words(error: ComfyRemoteError, words: str) -> ComfyRemoteError:
    changed = copy(error)
    changed.message = f"{error.message} {words}"
    return changed
