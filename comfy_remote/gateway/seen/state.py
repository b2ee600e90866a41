"""What a gateway's page and metrics read of it: its state at one moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from ..job import Job
from ..limits import GatewayLimits

__all__ = ["GatewayState", "WorkerFacts", "WorkerState"]


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


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """One worker.

    Attributes:
        kind: ``local``, ``sdk`` or ``joined``.
        since: When it began to be in this state; ``None`` if that is not known.
        why: Why it is broken, in its engine's words.
        draining: It takes no more jobs; it may still run one.
        jobs: Ids of the jobs that it runs.
        engine: For example ``ComfyUI 0.33.0``.
        device: The name of its GPU, or ``cpu``.
        version: Of Comfy Remote there.
        memory: Bytes of its GPU's memory.
        warm: Models of its last run.
    """

    id: str
    kind: str
    state: WorkerState
    since: float | None = None
    why: str = ""
    draining: bool = False
    jobs: tuple[str, ...] = ()
    engine: str = ""
    device: str = ""
    version: str = ""
    memory: int | None = None
    labels: frozenset[str] = frozenset()
    warm: frozenset[str] = frozenset()


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
    workers: Sequence[WorkerFacts]
    why: Callable[[Job], str]
    completed: int
    failed: int
    retried: int
    store_bytes: int
    disk_free: int
