"""What a gateway's page and metrics read of it: its state at one moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..files import FileStore
from ..job import Job
from ..limits import GatewayLimits
from ..offers import Needs
from ..queue import JobQueue
from ..workers import Worker

__all__ = ["GatewayState", "read_state"]

_Demand: TypeAlias = "tuple[Needs, frozenset[str], int]"


@dataclass(frozen=True, slots=True)
class GatewayState:
    """A gateway at one moment.

    Attributes:
        endpoint: Its id.
        now: The time by the queue's clock, as all times of jobs.
        waiting: Jobs that wait, in the order in which they are taken, as far as that is known.
        why: Why a job waits, in words.
        completed: How many jobs have been completed; ``failed`` and ``retried`` likewise.
        store_bytes: Bytes of inputs, results and outputs on the disk.
        disk_free: Bytes that are free there.
    """

    endpoint: str
    now: float
    limits: GatewayLimits
    waiting: Sequence[Job]
    running: Sequence[Job]
    workers: Sequence[Worker]
    why: Callable[[Job], str]
    completed: int
    failed: int
    retried: int
    store_bytes: int
    disk_free: int


def read_state(endpoint: str, queue: JobQueue, files: FileStore) -> GatewayState:
    """The state of now."""
    health = queue.health().jobs
    return GatewayState(
        endpoint=endpoint,
        now=queue.clock(),
        limits=queue.limits,
        waiting=sorted(queue.line, key=_position),
        running=sorted(queue.running, key=lambda job: job.started or 0.0),
        workers=sorted(queue.workers, key=lambda worker: worker.id),
        why=_Reasons(queue),
        completed=health.completed,
        failed=health.failed,
        retried=health.retried,
        store_bytes=files.used,
        disk_free=files.free,
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


def _position(job: Job) -> tuple[bool, int, bool, int]:
    """Jobs in the order in which they are taken, if all are one client's and suit each worker."""
    return job.low_priority, -job.priority, not job.front, job.number
