"""What happens to jobs and workers, for whoever watches: the log, the page, the metrics.

The queue calls one function, ``on_event``, with each of these, at once and in its own event loop.
A watcher only notes; it must not wait, change anything, or raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from .job import Job

__all__ = [
    "JobAccepted",
    "JobEnded",
    "JobPutBack",
    "JobRepeated",
    "JobStarted",
    "QueueEvent",
    "Watch",
    "WorkerBack",
    "WorkerGone",
    "WorkerJoined",
    "WorkerSilent",
    "ignore_event",
]


@dataclass(frozen=True, slots=True)
class JobAccepted:
    """A job was put into the line: a new one, or one that a client retries."""

    job: Job


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A worker has taken the job: ``worker_id`` and ``started`` say which one and when."""

    job: Job


@dataclass(frozen=True, slots=True)
class JobPutBack:
    """The job waits again, and its start is not counted: it never reached the worker, or the
    worker gave it back.

    Attributes:
        worker_id: The worker that had it.
        ran: Seconds that it had it.
    """

    job: Job
    worker_id: str
    ran: float
    why: str


@dataclass(frozen=True, slots=True)
class JobRepeated:
    """The job waits again because its attempt is proven dead. (One that may not be repeated ends
    instead: `JobEnded`.)

    Attributes:
        worker_id: The worker that had it.
        ran: Seconds that it had it.
        why: What proves it.
    """

    job: Job
    worker_id: str
    ran: float
    why: str


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The job is final, and that is on disk: ``state``, ``finished`` and ``ending`` say how."""

    job: Job


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker asks for jobs for the first time."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class WorkerSilent:
    """A worker has said nothing for ``seconds``. It may be computing."""

    worker_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class WorkerBack:
    """A worker that was silent says something again."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """A worker is not there any more; ``why`` says what shows that, in words."""

    worker_id: str
    why: str


QueueEvent: TypeAlias = (
    JobAccepted
    | JobStarted
    | JobPutBack
    | JobRepeated
    | JobEnded
    | WorkerJoined
    | WorkerSilent
    | WorkerBack
    | WorkerGone
)

Watch: TypeAlias = Callable[[QueueEvent], None]
"""Notes what happens."""


def ignore_event(event: QueueEvent) -> None:
    """A watch that notes nothing."""
    del event
