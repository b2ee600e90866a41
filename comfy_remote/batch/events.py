"""What happens to a batch while it is driven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import ComfyRemoteError
from ..events import Progress
from ..jobs.record import BatchEntry
from ..types import JsonValue
from .manifest import RunLine

__all__ = [
    "BatchEvent",
    "GoesOn",
    "Noted",
    "RunBegan",
    "RunEnded",
    "RunFetches",
    "RunProgress",
    "RunSends",
    "Stopped",
    "Waits",
]


@dataclass(frozen=True, slots=True)
class RunBegan:
    """A run has begun, or is followed again.

    Attributes:
        row: From 0.
        values: What is changed for it.
        job: The id of its job.
        resumed: Whether it had been begun before.
    """

    row: int
    values: Mapping[str, JsonValue]
    job: str
    attempt: int = 1
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is; at most about four a second."""

    row: int
    progress: Progress


@dataclass(frozen=True, slots=True)
class RunSends:
    """Its input files travel: so many bytes of them are there."""

    row: int
    sent: int
    total: int


@dataclass(frozen=True, slots=True)
class RunFetches:
    """Its outputs travel: so many bytes of them are here."""

    row: int
    received: int


@dataclass(frozen=True, slots=True)
class RunEnded:
    """A run has ended, and its line is in the manifest."""

    line: RunLine


@dataclass(frozen=True, slots=True)
class Waits:
    """No run is begun for now; ``why`` is a sentence. It goes on by itself: see `GoesOn`."""

    why: str


@dataclass(frozen=True, slots=True)
class GoesOn:
    """What it waited for has come."""


@dataclass(frozen=True, slots=True)
class Noted:
    """Something for people to read, a sentence."""

    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Stopped:
    """The last event: it has ended, was cancelled, or is paused until somebody resumes it.

    Attributes:
        error: Why it is paused, if that is an error.
    """

    entry: BatchEntry
    error: ComfyRemoteError | None = None


BatchEvent: TypeAlias = (
    "RunBegan | RunProgress | RunSends | RunFetches | RunEnded | Waits | GoesOn | Noted | Stopped"
)
