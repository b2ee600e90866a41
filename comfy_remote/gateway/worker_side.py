"""What workers do with a queue: take jobs, say what becomes of them, come back, are gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ..errors import ComfyRemoteError, EngineCrashed, OutputLost, OutputTooLarge, WorkflowInvalid
from ..wire.joined import Held, HolderState, is_attached
from ..wire.runpod import RunPodState
from .ends import Ends
from .job import Attempt, Ending, Job, Lease
from .journal import Journal
from .limits import GatewayLimits
from .live_jobs import LiveJobs
from .moves import JobMoves, may_go_on
from .offers import Offer
from .queue_events import JobEnded, Watch
from .workers import Worker, WorkerKind, WorkerRegistry

__all__ = ["WorkerSide"]

_LONGEST_POLL = 3600.0
_SHORTEST_POLL = 0.01
_log = logging.getLogger(__name__)


class WorkerSide:
    """A queue, as its workers see it; see `queue.JobQueue` for its clients and its arguments.

    A worker's word counts for the start of the job that it was given (`Lease`), and for no other.
    """

    def __init__(
        self,
        limits: GatewayLimits,
        journal: Journal,
        clock: Callable[[], float],
        on_event: Watch,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.workers = WorkerRegistry(clock, on_event)
        self.live = LiveJobs(limits)
        self._journal = journal
        self._on_event = on_event
        self._ends = Ends(journal, self.live, self._ended)
        self._moves = JobMoves(
            limits,
            journal,
            self.live,
            self.workers,
            self._ends,
            clock,
            on_event,
        )
        # Which start's word has ended a job, until that is on disk.
        self._given: dict[str, tuple[str, int | None]] = {}
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def running(self) -> list[Job]:
        """The jobs that workers have."""
        return list(self._moves.running.values())

    async def committed(self) -> None:
        """Wait until all that has been decided is on disk.

        Raises:
            LocalStorageError: It cannot be written. It stays decided, and is tried again.
        """
        await self._journal.committed()

    async def take(self, worker_id: str, *, wait: float, count: int = 1) -> list[Lease]:
        """Give jobs to a worker; that is on disk when this returns.

        Args:
            wait: Seconds to wait for the first.
            count: How many the worker wants at most.

        Returns:
            None to ``count`` jobs, now in progress.

        Raises:
            LocalStorageError: It cannot be written; no job was given. (Nor if it is cancelled.)
        """
        leases = await self._lease(worker_id, wait=wait, count=count)
        if leases:
            try:
                await self.committed()
            except BaseException:
                self.put_back(leases, "It did not reach the worker.")
                raise
        return [lease for lease in leases if self._holds(lease)]

    async def _lease(self, worker_id: str, *, wait: float, count: int) -> list[Lease]:
        deadline = asyncio.get_running_loop().time() + wait
        worker = self.workers.seen(worker_id, ready=True)
        while not self._closed and self.workers.get(worker_id) is worker:  # else: removed meanwhile
            self.workers.seen(worker_id, ready=True)
            if leases := self._hand_over(worker, count):
                return leases
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await self._moves.queued.wait(min(left, self._until_next_change(worker)))
        return []

    def put_back(self, leases: Iterable[Lease], why: str) -> None:
        """Undo `take` for jobs that did not reach the worker, or that it has surely stopped: their
        start is not counted.
        """
        for lease in leases:
            if self._holds(lease):
                self._moves.give_up_start(lease.job, why)

    def is_running(self, job_id: str, worker_id: str, attempt: int | None = None) -> bool:
        """Whether that worker has that job. What it says about any other is out of date."""
        job = self._moves.running.get(job_id)
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
            self.live.set_more_if_it_fits(self._moves.running[job_id], more)

    def stream(
        self, job_id: str, worker_id: str, chunk: bytes, *, attempt: int | None = None
    ) -> None:
        """Add a chunk, as JSON, for ``/stream``. Ignored when it comes too late.

        Raises:
            OutputTooLarge: Too much is waiting to be fetched.
        """
        if self.is_running(job_id, worker_id, attempt):
            self.live.add_chunk(self._moves.running[job_id], chunk)

    def add_output_file(
        self, job_id: str, worker_id: str, sha256: str, *, attempt: int | None = None
    ) -> bool:
        """Note that a file in the store is an output of a job; whether it is that worker's.

        Raises:
            OutputTooLarge: It has too many.
        """
        job = self._result_taker(job_id, worker_id, attempt)
        if job is None:
            return False
        most = self.limits.output_files
        if len(job.output_files) >= most and sha256 not in job.output_files:
            raise OutputTooLarge(
                f"Job {job_id} has {most} large outputs already.",
                advice="Make fewer files, for example one video of all pictures.",
            )
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
            self._moves.leave_worker_or_line(job)
            job.worker_id = worker_id
            job.started = self.clock() if job.started is None else job.started
        job.ending = ending or Ending()
        self._moves.conclude(job, RunPodState.FAILED if failed else RunPodState.COMPLETED, result)
        self._given[job_id] = (worker_id, attempt)
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
        self._moves.fail(self._moves.running[job_id], error)
        self._given[job_id] = (worker_id, attempt)
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
        """Agree with a joined worker on what it has, after its start and after each outage.

        A job that it was given, and that it does not say it has, is not there: with the same boot,
        it never arrived; with another, its start is dead, unless its engine goes on by itself: then
        the job fails. So the worker must not have a `take`
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
                self._moves.give_up_start(job, "The worker never had it.")
            elif is_attached(job.boot):
                self._moves.fail(job, may_go_on(f"Worker {worker_id} was started again"))
            else:
                self._moves.lose(
                    job,
                    EngineCrashed(
                        f"Worker {worker_id} was started again while the job ran.",
                        advice="The worker's log may say why.",
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
            self._moves.fail(
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
            self._moves.lose(job, error)
        self.workers.remove(worker_id, error.message)

    def worker_has_stopped(self, worker_id: str, why: str) -> None:
        """The worker has ended in order, and has stopped its jobs: they wait again, and their start
        is not counted.
        """
        for job in self._jobs_of(worker_id):
            self._moves.give_up_start(job, why)
        self.workers.remove(worker_id, why)

    def fail_jobs_of(self, worker_id: str, error: ComfyRemoteError) -> None:
        """End all jobs of a worker that may still be running them, but cannot deliver any more."""
        for job in self._jobs_of(worker_id):
            self._moves.fail(job, error)
        self.workers.remove(worker_id, error.message)

    # Inside

    def _ended(self, job: Job) -> None:
        self._given.pop(job.id, None)
        self._on_event(JobEnded(job))

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
        return job_id in self._ends and self._given.get(job_id) == (worker_id, attempt)

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
            job.attempt = held.attempt
            self._moves.start(job, worker)
            return True
        return False

    def _hand_over(self, worker: Worker, count: int) -> list[Lease]:
        leases: list[Lease] = []
        while len(leases) < count and worker.takes_jobs and len(self._moves.line):
            job = self._moves.line.choose(worker, [*self.workers], self.clock())
            if job is None:
                break
            job.attempt += 1
            self._moves.start(job, worker)
            leases.append(Lease(job, worker.id, job.attempt))
        return leases

    def _until_next_change(self, worker: Worker) -> float:
        now = self.clock()
        change = self._moves.line.next_change(worker, [*self.workers], now)
        return _LONGEST_POLL if change is None else max(change - now, _SHORTEST_POLL)

    def _jobs_of(self, worker_id: str) -> list[Job]:
        return [job for job in self._moves.running.values() if job.worker_id == worker_id]
