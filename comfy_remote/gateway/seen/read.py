"""Reads a gateway's state from its queue and its store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from ...wire.joined import Hello
from ..job import Job
from ..placing import Needs
from ..queue import JobQueue
from ..workers import Worker
from .state import GatewayState, WorkerFacts, WorkerState

__all__ = ["Store", "read_state"]

_Demand: TypeAlias = "tuple[Needs, frozenset[str], int]"


class Store(Protocol):
    """What is read of the store."""

    @property
    def used(self) -> int:
        """Bytes of all files."""

    @property
    def free(self) -> int:
        """Bytes that were free on its disk when that was last measured."""


def read_state(
    endpoint: str, queue: JobQueue, store: Store, said: Callable[[str], Hello | None]
) -> GatewayState:
    """The state of now.

    Args:
        said: What a joined worker said of itself last.
    """
    health = queue.health().jobs
    return GatewayState(
        endpoint=endpoint,
        now=queue.clock(),
        limits=queue.limits,
        waiting=sorted(queue.line, key=_place),
        running=sorted(queue.running, key=lambda job: job.started or 0.0),
        workers=sorted(
            (_facts(worker, said(worker.id)) for worker in queue.workers), key=lambda one: one.id
        ),
        why=_Reasons(queue),
        completed=health.completed,
        failed=health.failed,
        retried=health.retried,
        store_bytes=store.used,
        disk_free=store.free,
    )


class _Reasons:
    """Why each job waits. Jobs that need the same wait for the same: with many workers, a reason
    takes a while to find.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._known: dict[_Demand, str] = {}

    def __call__(self, job: Job) -> str:
        demand = job.needs, job.labels, job.memory
        if demand not in self._known:
            self._known[demand] = self._queue.why(job)
        return self._known[demand]


def _place(job: Job) -> tuple[bool, int, bool, int]:
    """Jobs in the order in which they are taken, if all are one client's and suit each worker."""
    return job.low_priority, -job.priority, not job.front, job.number


def _facts(worker: Worker, said: Hello | None) -> WorkerFacts:
    state, since = _state(worker)
    return WorkerFacts(
        id=worker.id,
        kind=worker.kind.value,
        state=state,
        since=since,
        why=worker.broken,
        draining=worker.draining,
        jobs=tuple(worker.running),
        engine=said.report.engine if said else worker.engine,
        device=said.report.device if said else worker.device,
        version=said.version if said else "",
        memory=worker.offer.memory,
        labels=worker.offer.labels,
        warm=worker.offer.warm,
    )


def _state(worker: Worker) -> tuple[WorkerState, float | None]:
    """What a worker does, and since when."""
    if worker.silent:
        return WorkerState.SILENT, worker.seen
    if worker.broken:
        return WorkerState.BROKEN, None
    if worker.running:
        return WorkerState.RUNNING, min(job.started or 0.0 for job in worker.running.values())
    if worker.draining:
        return WorkerState.DRAINED, None
    if not worker.ready:
        return WorkerState.STARTING, None
    return WorkerState.IDLE, worker.idle_since
