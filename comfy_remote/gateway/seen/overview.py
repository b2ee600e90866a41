"""What runs, what waits and why: what ``GET /v2/ENDPOINT/overview`` answers.

Names of clients and batches, of models and GPUs come from strangers: they are cleaned here, so
whoever shows them may show them as they are. (`shown` takes secrets out of the whole.)
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from ...clean import one_line
from ...version import __version__
from ..job import Ending, Job
from ..queue_events import JobEnded, QueueEvent
from ..workers import Worker, WorkerState
from .state import GatewayState

__all__ = [
    "EndedJob",
    "Overview",
    "RecentEnds",
    "RunningJob",
    "Totals",
    "WaitingJob",
    "WorkerView",
    "overview",
]

_MOST_ENDS = 50
_MOST_WARM = 12
_LONGEST_TURN = 0.002  # seconds after which others have theirs
_LONGEST_TEXT = 300


def _shown(text: str) -> str:
    cut = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} …"
    return one_line(cut)


_Text = Annotated[str, AfterValidator(_shown)]
_Seconds = Annotated[float, Field(ge=0)]


class _View(BaseModel):
    model_config = ConfigDict(frozen=True)


class WorkerView(_View):
    """A worker.

    Attributes:
        kind: See `workers.WorkerKind`.
        seconds: How long it has been in this state; ``null`` if that is not known.
        why: Why it is broken.
        draining: It takes no more jobs; it may still run one.
        jobs: Ids of the jobs that it runs.
        warm: Models of its last run; the first few.
    """

    id: _Text
    kind: _Text
    state: WorkerState
    seconds: _Seconds | None
    why: _Text
    draining: bool
    jobs: list[str]
    engine: _Text
    device: _Text
    version: _Text
    memory: int | None
    labels: list[_Text]
    warm: list[_Text]


class _JobView(_View):
    id: str
    client: _Text
    batch: _Text
    attempt: int


class RunningJob(_JobView):
    """A job that runs.

    Attributes:
        seconds: How long it has run.
        progress: From 0 to 1; ``null`` if the worker has not said.
    """

    priority: int
    worker: _Text
    seconds: _Seconds
    progress: float | None


class WaitingJob(_JobView):
    """A job that waits.

    Attributes:
        position: 1 for the one that is taken first, as far as that is known.
        seconds: How long it has waited.
        why: Why, in words.
        front: It is taken before its client's other jobs.
        low: It waits behind all jobs that are not low.
        attempt: How often it has been started.
    """

    position: int
    priority: int
    front: bool
    low: bool
    seconds: _Seconds
    why: _Text


class EndedJob(_JobView):
    """A job that has ended.

    Attributes:
        code: The error's, if it failed.
        ago: Seconds since its end.
        seconds: How long it ran; ``null`` if it never did.
        files: How many outputs are files; ``size`` is their bytes.
    """

    state: Literal["COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]
    code: _Text
    worker: _Text
    ago: _Seconds
    seconds: _Seconds | None
    files: int
    size: int


class Totals(_View):
    """Numbers of jobs, and what the gateway stores. Sizes are bytes."""

    waiting: int
    waiting_limit: int
    running: int
    completed: int
    failed: int
    retried: int
    store: int
    store_limit: int
    disk_free: int
    disk_reserve: int


class Overview(_View):
    """One moment of a gateway."""

    endpoint: str
    version: str
    totals: Totals
    workers: list[WorkerView]
    running: list[RunningJob]
    waiting: list[WaitingJob]
    ended: list[EndedJob]


class RecentEnds:
    """The jobs that have ended last. A watch of a gateway's queue.

    Attributes:
        most: How many are known at most.
    """

    def __init__(self, most: int = _MOST_ENDS) -> None:
        self.most = most
        self._ends: deque[tuple[float, EndedJob]] = deque(maxlen=most)

    def __call__(self, event: QueueEvent) -> None:
        """Note a job that ends."""
        if isinstance(event, JobEnded):
            self._note(event.job)

    def recall(self, jobs: Iterable[Job]) -> None:
        """Note jobs that have ended before this process began, in that order. Of those with a large
        result, neither the error's code nor the files are known.
        """
        for job in jobs:
            said = from_json(job.more)
            job.ending = Ending.of(said.get("output"), said.get("error"))
            self._note(job)

    def at(self, now: float) -> list[EndedJob]:
        """The ends, newest first."""
        return [
            view.model_copy(update={"ago": max(0.0, now - finished)})
            for finished, view in self._ends
        ]

    def _note(self, job: Job) -> None:
        self._ends.appendleft((job.finished or 0.0, _ended(job)))


async def overview(state: GatewayState, ends: RecentEnds) -> Overview:
    """Describe a gateway's state, in turns of a few milliseconds: other requests are answered
    meanwhile.
    """
    now, turn = state.now, _Turn()
    workers = [_worker(worker, now) for worker in state.workers]
    running: list[RunningJob] = []
    for job in state.running:
        running.append(_running(job, now))
        await turn.ends()
    waiting: list[WaitingJob] = []
    for job in state.waiting:
        waiting.append(_waiting(job, len(waiting) + 1, state))
        await turn.ends()
    return Overview(
        endpoint=state.endpoint,
        version=__version__,
        totals=Totals(
            waiting=len(state.waiting),
            waiting_limit=state.limits.queued_jobs,
            running=len(state.running),
            completed=state.completed,
            failed=state.failed,
            retried=state.retried,
            store=state.store_bytes,
            store_limit=state.limits.store_bytes,
            disk_free=state.disk_free,
            disk_reserve=state.limits.free_bytes,
        ),
        workers=workers,
        running=running,
        waiting=waiting,
        ended=ends.at(now),
    )


class _Turn:
    """The time that the event loop spends on one description before others have their turn."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    async def ends(self) -> None:
        """Let others have their turn if it is over."""
        if time.perf_counter() - self._began >= _LONGEST_TURN:
            await asyncio.sleep(0)
            self._began = time.perf_counter()


def _worker(worker: Worker, now: float) -> WorkerView:
    since = _since(worker)
    return WorkerView(
        id=worker.id,
        kind=worker.kind.value,
        state=worker.state,
        seconds=None if since is None else max(0.0, now - since),
        why=worker.broken,
        draining=worker.draining,
        jobs=list(worker.running),
        engine=worker.engine,
        device=worker.device,
        version=worker.version,
        memory=worker.offer.memory,
        labels=sorted(worker.offer.labels),
        warm=sorted(worker.offer.warm)[:_MOST_WARM],
    )


def _since(worker: Worker) -> float | None:
    """When a worker began to be in its state; ``None`` if that is not known."""
    match worker.state:
        case WorkerState.SILENT:
            return worker.seen
        case WorkerState.RUNNING:
            return min(job.started or 0.0 for job in worker.running.values())
        case WorkerState.IDLE:
            return worker.idle_since
    return None


def _running(job: Job, now: float) -> RunningJob:
    return RunningJob(
        id=job.id,
        client=job.client,
        batch=job.batch,
        priority=job.priority,
        attempt=job.attempt,
        worker=job.worker_id or "",
        seconds=max(0.0, now - (job.started or now)),
        progress=progress_of(job.more),
    )


def _waiting(job: Job, position: int, state: GatewayState) -> WaitingJob:
    return WaitingJob(
        id=job.id,
        position=position,
        client=job.client,
        batch=job.batch,
        priority=job.priority,
        front=job.front,
        low=job.low_priority,
        attempt=job.attempt,
        seconds=max(0.0, state.now - job.queued),
        why=state.why(job),
    )


def _ended(job: Job) -> EndedJob:
    ran = None if job.started is None or job.finished is None else job.finished - job.started
    return EndedJob.model_validate(
        {
            "id": job.id,
            "state": job.state.value,
            "code": job.ending.code,
            "client": job.client,
            "batch": job.batch,
            "worker": job.worker_id or "",
            "attempt": job.attempt,
            "ago": 0.0,
            "seconds": None if ran is None else max(0.0, ran),
            "files": job.ending.files,
            "size": job.ending.size,
        }
    )


class _Output(BaseModel):
    nodes_done: float = Field(ge=0, allow_inf_nan=False)
    nodes_total: float = Field(gt=0, allow_inf_nan=False)
    step: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    steps: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class _More(BaseModel):
    output: _Output


def progress_of(more: bytes) -> float | None:
    """How much of a job is done, from its last progress (`wire.answer.ProgressSnapshot`), 0 to 1.

    Args:
        more: `Job.more`. It may have a preview, which is only skipped here.
    """
    if len(more) < 3:
        return None
    try:
        said = _More.model_validate_json(more).output
    except ValidationError:  # another worker's, or none yet
        return None
    part = min(1.0, said.step / said.steps) if said.step is not None and said.steps else 0.0
    return min(1.0, (said.nodes_done + part) / said.nodes_total)
