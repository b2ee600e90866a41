"""Which workers there are, what they have, and which jobs they have to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from ..aio import Signal
from .job import Job
from .offers import Offer
from .queue_events import (
    Watch,
    WorkerBack,
    WorkerGone,
    WorkerJoined,
    WorkerSilent,
    ignore_event,
)

__all__ = ["Worker", "WorkerKind", "WorkerRegistry", "WorkerState"]

_LONGEST_WAIT = 3600.0


class WorkerKind(str, Enum):
    """How a worker gets its jobs."""

    LOCAL = "local"
    """It runs in the gateway's own process."""
    SDK = "sdk"
    """A process on this machine with RunPod's SDK."""
    URL = "url"
    """One of the gateway's own, on an engine that goes on without it."""
    JOINED = "joined"
    """One that has joined, on any machine."""

    @classmethod
    def of(cls, boot: str) -> WorkerKind:
        """The kind of the worker that had that boot: those of the gateway's own begin with it."""
        kind = boot.partition(":")[0]
        return cls(kind) if kind in {one.value for one in cls} else cls.JOINED


class WorkerState(str, Enum):
    """What a worker does."""

    IDLE = "idle"
    RUNNING = "running"
    STARTING = "starting"
    """Its engine has not asked for jobs yet."""
    DRAINED = "drained"
    """Its owner has said that it is to take no more jobs, and it runs none."""
    SILENT = "silent"
    BROKEN = "broken"
    """Its engine does not start."""


@dataclass(slots=True, eq=False)
class Worker:
    """One worker.

    Attributes:
        boot: New at each start of its process; of what form, its kind decides.
        seen: When it last said something, by the gateway's clock.
        ready: Whether it has asked for a job since it started.
        silent: Whether it has said nothing for longer than `GatewayLimits.worker_silence`.
        draining: It gets no more jobs, because its owner says so.
        broken: Why it takes no jobs at present, in words; empty if it does.
        offer: What it has.
        engine: Name and version of its engine, ``ComfyUI 0.33.0``, for people; empty if unknown.
        device: Name of its GPU, likewise.
        version: Of Comfy Remote there, likewise.
        running: The jobs that it was given, by id.
        idle_since: When it last became idle; ``None`` while it has a job.
    """

    id: str
    kind: WorkerKind
    boot: str
    seen: float
    idle_since: float | None
    ready: bool = False
    silent: bool = False
    draining: bool = False
    broken: str = ""
    offer: Offer = field(default_factory=Offer)
    engine: str = ""
    device: str = ""
    version: str = ""
    running: dict[str, Job] = field(default_factory=dict)

    @property
    def takes_jobs(self) -> bool:
        """Whether it may be given a job when it is idle."""
        return self.ready and not (self.silent or self.draining or self.broken)

    @property
    def state(self) -> WorkerState:
        """What it does."""
        if self.silent:
            return WorkerState.SILENT
        if self.broken:
            return WorkerState.BROKEN
        if self.running:
            return WorkerState.RUNNING
        if self.draining:
            return WorkerState.DRAINED
        return WorkerState.IDLE if self.ready else WorkerState.STARTING


class WorkerRegistry:
    """Workers by id: when they last said something, and the jobs they must stop."""

    def __init__(self, clock: Callable[[], float], on_event: Watch = ignore_event) -> None:
        self._clock = clock
        self._on_event = on_event
        self._workers: dict[str, Worker] = {}
        self._stops: dict[str, dict[str, float]] = {}
        self._changed = Signal()
        self._closed = False

    def __iter__(self) -> Iterator[Worker]:
        return iter(list(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, worker_id: str) -> Worker | None:
        """The worker of that id, if there is one."""
        return self._workers.get(worker_id)

    @property
    def ready(self) -> frozenset[str]:
        """Workers that have asked for a job, and can take one."""
        return frozenset(worker.id for worker in self._workers.values() if worker.takes_jobs)

    def register(
        self, worker_id: str, kind: WorkerKind, boot: str, offer: Offer | None = None
    ) -> Worker:
        """The worker of that id, as it is from now on; a new one if there was none.

        Args:
            offer: What it has; as before when ``None``.
        """
        worker = self._workers.get(worker_id)
        if worker is None:
            now = self._clock()
            worker = Worker(worker_id, kind, boot, seen=now, idle_since=now)
            self._workers[worker_id] = worker
        if worker.boot != boot:
            worker.ready = False
        worker.kind, worker.boot = kind, boot
        if offer is not None:
            worker.offer = offer
        self.seen(worker_id)
        return worker

    def seen(self, worker_id: str, *, ready: bool = False) -> Worker:
        """Note that a worker lives; ``ready`` when it asks for jobs."""
        worker = self._workers.get(worker_id)
        if worker is None:  # one with the SDK has no other introduction
            worker = self.register(worker_id, WorkerKind.SDK, WorkerKind.SDK.value)
        worker.seen = self._clock()
        if worker.silent:
            worker.silent = False
            self._on_event(WorkerBack(worker_id))
        if ready and not worker.ready:
            worker.ready = True
            if worker.idle_since is not None:
                worker.idle_since = worker.seen
            self._on_event(WorkerJoined(worker_id))
            self._changed.notify()
        return worker

    def note_silence(self, seconds: float) -> None:
        """Mark the workers that have said nothing for longer than ``seconds``."""
        since = self._clock() - seconds
        for worker in self._workers.values():
            may_be_silent = worker.kind is WorkerKind.JOINED or (
                worker.kind is WorkerKind.SDK and worker.ready  # else it is still starting
            )
            if may_be_silent and not worker.silent and worker.seen < since:
                worker.silent = True
                self._on_event(WorkerSilent(worker.id, seconds))
                self._changed.notify()

    async def wait_until_silent(self, worker_id: str) -> None:
        """Wait until a worker that is here has said nothing for too long."""
        while (worker := self._workers.get(worker_id)) is not None and not worker.silent:
            await self._changed.wait(_LONGEST_WAIT)

    def remove(self, worker_id: str, why: str = "It has ended.") -> None:
        """Forget a worker, which has no jobs."""
        self._stops.pop(worker_id, None)
        if self._workers.pop(worker_id, None) is not None:
            self._on_event(WorkerGone(worker_id, why))
            self._changed.notify()

    async def wait_until_ready(self, timeout: float) -> bool:
        """Wait for the first worker to ask for a job; whether one did."""
        deadline = asyncio.get_running_loop().time() + timeout
        while not self.ready:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            await self._changed.wait(left)
        return True

    def request_stop(self, worker_id: str, job_id: str, taken: float) -> None:
        """Ask a worker to stop a job that it took at ``taken``."""
        self._stops.setdefault(worker_id, {})[job_id] = taken
        self._changed.notify()

    def withdraw_stop(self, worker_id: str, job_id: str) -> None:
        """Drop a stop that was not delivered: the worker is given that job again."""
        self._stops.get(worker_id, {}).pop(job_id, None)

    async def take_stops(self, worker_id: str, *, wait: float, settle: float = 0.0) -> list[str]:
        """Jobs the worker must stop, each named once.

        Args:
            wait: Seconds to wait for one.
            settle: Seconds that a job must have been with the worker before it is named.
        """
        deadline = asyncio.get_running_loop().time() + wait
        worker = self.seen(worker_id)
        while self._workers.get(worker_id) is worker:
            self.seen(worker_id)
            pending = self._stops.get(worker_id, {})
            due = [job for job, taken in pending.items() if self._clock() - taken >= settle]
            for job_id in due:
                del pending[job_id]
            if due:
                return due
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or self._closed:
                return []
            if pending:
                left = min(left, settle - self._clock() + min(pending.values()) + 0.001)
            await self._changed.wait(left)
        return []  # the worker was removed meanwhile

    def close(self) -> None:
        """Answer all waiting workers now."""
        self._closed = True
        self._changed.notify()
