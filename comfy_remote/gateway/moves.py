"""The moves of a job between its states, in memory: waits, runs, ended. Each is posted."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from pydantic_core import to_json

from ..aio import Signal
from ..errors import ComfyRemoteError, JobTimedOut, OutputLost
from ..wire.runpod import RunPodState, failure_to_runpod
from .ends import Ends
from .job import Attempt, Ending, Job
from .journal import Journal
from .limits import GatewayLimits
from .live_jobs import LiveJobs
from .placing import Line
from .queue_events import JobPutBack, JobRepeated, JobStarted, Watch
from .workers import Worker, WorkerKind, WorkerRegistry

__all__ = ["JobMoves", "may_go_on"]

_MOST_STARTS = 2
"""One repeat: what has killed two workers would kill a third."""
_EARLIER = 4


class JobMoves:
    """What happens to live jobs, one at a time. The caller sees to it that a move is allowed.

    Attributes:
        live: All jobs in memory.
        line: Those that wait.
        running: Those that workers have, by id.
        queued: Notified when a worker may find a job in the line.
    """

    def __init__(
        self,
        limits: GatewayLimits,
        journal: Journal,
        live: LiveJobs,
        workers: WorkerRegistry,
        ends: Ends,
        clock: Callable[[], float],
        on_event: Watch,
    ) -> None:
        self.live = live
        self.line = Line(warm_patience=limits.warm_patience, patience=limits.patience)
        self.running: dict[str, Job] = {}
        self.queued = Signal()
        self._journal = journal
        self._workers = workers
        self._ends = ends
        self._clock = clock
        self._on_event = on_event

    def restore(self, job: Job) -> None:
        """Put a job of an earlier process back into the line, or with its worker."""
        self.live.add(job)
        if job.state is RunPodState.IN_QUEUE:
            self.line.add(job)
        elif job.state is RunPodState.IN_PROGRESS and job.worker_id is not None:
            worker = self._worker_of(job) or self._workers.register(
                job.worker_id, WorkerKind.of(job.boot), job.boot
            )
            worker.silent = True
            worker.idle_since = None
            worker.offer = worker.offer.after(job.needs)
            self.running[job.id] = worker.running[job.id] = job
            self.line.start(job)

    def start(self, job: Job, worker: Worker) -> None:
        """Give a job to a worker. Its `attempt` is the caller's to set, before."""
        job.state, job.started = RunPodState.IN_PROGRESS, self._clock()
        job.worker_id, job.boot = worker.id, worker.boot
        worker.offer = worker.offer.after(job.needs)
        worker.idle_since = None
        self._workers.withdraw_stop(worker.id, job.id)
        self.line.start(job)
        self.running[job.id] = worker.running[job.id] = job
        self._journal.post(job)
        self._on_event(JobStarted(job))

    def cancel(self, job: Job) -> None:
        """End a job because its client does not want it any more."""
        self.leave_worker_or_line(job)
        self.conclude(job, RunPodState.CANCELLED)

    def _leave_worker(self, job: Job) -> None:
        del self.running[job.id]
        self.line.remove(job)
        worker = self._worker_of(job)
        if worker is not None:
            worker.running.pop(job.id, None)
            if not worker.running:
                worker.idle_since = self._clock()

    def leave_worker_or_line(self, job: Job) -> None:
        """Take a job from its worker, which must stop, or out of the line."""
        if job.id in self.running:
            self._leave_worker(job)
            if job.worker_id is not None and job.started is not None:
                self._workers.request_stop(job.worker_id, job.id, job.started)
        else:
            self.line.remove(job)  # nothing, if it is still arriving

    def give_up_start(self, job: Job, why: str) -> None:
        """Put a job back as if it had not been started."""
        event = JobPutBack(job, job.worker_id or "", self._ran(job), why)
        self._leave_worker(job)
        job.attempt -= 1
        self.wait_again(job, since=job.queued)
        self._on_event(event)

    def lose(self, job: Job, error: ComfyRemoteError) -> None:
        """The job's start is proven dead."""
        worker_id, ran = job.worker_id or "", self._ran(job)
        self._leave_worker(job)
        job.lost += 1
        job.earlier = (*job.earlier, Attempt(job.attempt, worker_id))[-_EARLIER:]
        if not job.repeat_lost or job.lost >= _MOST_STARTS:
            why = (
                "The job is not started again: its request or its nodes do not allow that."
                if not job.repeat_lost
                else "The job has been started again once already."
            )
            self.fail(job, _with_words(error, why))
            return
        self._journal.counts.retried += 1
        self.wait_again(job)
        self._on_event(JobRepeated(job, worker_id, ran, error.message))

    def _ran(self, job: Job) -> float:
        return 0.0 if job.started is None else self._clock() - job.started

    def time_out(self, job: Job) -> None:
        """End a job that has run for longer than it may."""
        self.leave_worker_or_line(job)
        timed_out = JobTimedOut(
            f"The job ran longer than the {job.execution_timeout:.0f} s allowed.",
            advice="Allow more with policy.executionTimeout.",
        )
        job.ending = Ending(code=timed_out.code)
        self.conclude(job, RunPodState.TIMED_OUT, _as_result(timed_out))

    def expire(self, job: Job) -> None:
        """Drop a job whose time to live is over."""
        self.leave_worker_or_line(job)
        job.forgotten = self._clock()
        self.conclude(job, RunPodState.TIMED_OUT)

    def wait_again(self, job: Job, *, since: float | None = None) -> None:
        """Put a job that no worker has into the line.

        Args:
            since: When it began to wait; now when ``None``.
        """
        job.state = RunPodState.IN_QUEUE
        job.queued = self._clock() if since is None else since
        job.worker_id = job.started = None
        job.boot = ""
        self.live.set_more(job, b"{}")
        self.line.add(job)
        self._journal.post(job)
        self.queued.notify()

    def fail(self, job: Job, error: ComfyRemoteError) -> None:
        """End a job with one of our errors."""
        job.ending = Ending(code=error.code)
        self.conclude(job, RunPodState.FAILED, _as_result(error))

    def conclude(self, job: Job, state: RunPodState, result: bytes | str = b"{}") -> None:
        """End a job.

        Args:
            result: The SHA-256 of the file with its result, or itself.
        """
        if job.id in self.running:
            self._leave_worker(job)
        job.state, job.finished = state, self._clock()
        job.owed = job.webhook is not None and job.forgotten is None
        self.live.set_more(job, result if isinstance(result, bytes) else b"{}")
        job.result = None if isinstance(result, bytes) else result
        if not job.may_be_retried:
            self.live.drop_input(job)
            job.input_file, job.input_files = None, frozenset()
        if state is RunPodState.COMPLETED:
            self._journal.counts.completed += 1
        elif job.may_be_retried and job.forgotten is None:
            self._journal.counts.failed += 1
        self._journal.post(job)
        self._ends.add(job)

    def _worker_of(self, job: Job) -> Worker | None:
        return None if job.worker_id is None else self._workers.get(job.worker_id)


def may_go_on(what: str) -> OutputLost:
    """What a job ends with when its worker has gone, and its engine goes on without the worker.

    Args:
        what: What happened to the worker: ``The gateway ended``.
    """
    return OutputLost(
        f"{what} while the job ran on a ComfyUI that runs by itself, and may still be running it.",
        advice="Look there for its outputs before you run it again.",
    )


def _as_result(error: ComfyRemoteError) -> bytes:
    return to_json(failure_to_runpod(error))


def _with_words(error: ComfyRemoteError, words: str) -> ComfyRemoteError:
    changed = copy(error)
    changed.message = f"{error.message} {words}"
    return changed
