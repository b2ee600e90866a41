"""The journal of a route: what it has done with each job, written down before it acts.

Each time that a job is sent to a member is a *step*. It is written down before anything is sent,
so whoever comes after a crash asks that member, and sends the job nowhere else. A further step may
begin only behind one after which the job surely did not run, once, and never after the user has
cancelled the job. `Journal.begin` decides that as one transaction, for all processes of the user.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal, Protocol, TypeAlias

from ...events import DidItRun
from ...schedule.money import Price
from ...types import JsonValue
from ...workflow.prompt import Prompt
from ..base import RemoteRef, RunRequest, Target

__all__ = [
    "Begun",
    "Journal",
    "MemoryJournal",
    "Past",
    "Step",
    "StepState",
    "cooled_for",
]

_COOLS_FIRST = 15.0  # seconds
_COOLS_LONGEST = 600.0


class StepState(str, Enum):
    """How far a step has come."""

    SENDING = "sending"
    """It may be there: it is being sent, or whoever sent it was killed."""
    ACCEPTED = "accepted"
    """The member has it."""
    UNKNOWN = "unknown"
    """It may be there: the answer was lost."""
    NEVER_ACCEPTED = "never_accepted"
    """The member did not take it."""
    WITHDRAWN = "withdrawn"
    """The member gave it up before it began."""
    ENDED = "ended"
    """It ran there, or may have, and has ended."""

    @property
    def surely_not(self) -> bool:
        """Whether the job surely did not run there, and will not."""
        return self in (StepState.NEVER_ACCEPTED, StepState.WITHDRAWN)

    @classmethod
    def of(cls, grade: DidItRun | None) -> StepState:
        """The state of a step whose job has ended with this grade."""
        match grade:
            case DidItRun.NEVER_ACCEPTED:
                return cls.NEVER_ACCEPTED
            case DidItRun.WITHDRAWN:
                return cls.WITHDRAWN
            case _:
                return cls.ENDED


@dataclass(frozen=True, slots=True)
class Step:
    """One time that a job was sent to a member.

    Attributes:
        number: From 1.
        member: Its name in the route.
        ref: What the member answered; ``None`` until it has.
        why: Why it was sent there, a sentence.
        at: When, in seconds since the epoch.
        decision: All members as they were judged, for people: `schedule.choose.Ranked` as JSON.
    """

    job_id: str
    number: int
    member: str
    state: StepState = StepState.SENDING
    ref: RemoteRef | None = None
    why: str = ""
    at: float = 0.0
    decision: Sequence[JsonValue] = ()


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a member from before. ``None`` is for what is not known.

    Attributes:
        cooling: Seconds until it has cooled down from its last failure; 0 if it has.
        ours: Jobs of the user that wait or run there.
        seconds: How long runs like this one took there.
        start: How long a worker took to start there.
        price: What an hour costs there.
        peak: Bytes of memory that runs like this one used there at most.
        had_models: Whether this workflow was last sent there.
    """

    cooling: float = 0.0
    ours: int = 0
    seconds: float | None = None
    start: float | None = None
    price: Price | None = None
    peak: int | None = None
    had_models: bool = False


Begun: TypeAlias = Literal["begun", "taken", "cancelled", "full"]
"""Whether a step may be sent now; else see `Journal.begin`."""


class Journal(Protocol):
    """What a route remembers. Its methods raise `LocalStorageError`."""

    async def begin(
        self, step: Step, request: RunRequest, target: Target, at_most: int | None = None
    ) -> Begun:
        """Write a step down, before anything of it is sent, and reserve what it may cost.

        Args:
            request: What is to be sent.
            target: Of the member.
            at_most: How many jobs of the user it may have at a time.

        Returns:
            ``begun``: It is the next one of its job, and what the job was sent as before surely did
            not run. ``taken``: That is not so, or another process has begun the step.
            ``cancelled``: The user has cancelled the job. ``full``: The member has as many jobs as
            it may.

        Raises:
            SpendingCap: A cap does not allow the member for this job. Nothing is written.
        """

    async def note(self, step: Step) -> None:
        """Write down how far a step has come, and what the member answered."""

    async def steps(self, job_id: str) -> Sequence[Step]:
        """All steps of a job, in order."""

    async def cancel(self, job_id: str) -> None:
        """Write down that the user has cancelled a job: no further step begins."""

    async def cancelled(self, job_id: str) -> bool:
        """Whether the user has cancelled it."""

    async def request(self, job_id: str) -> RunRequest | None:
        """What was sent, to send it to another member; ``None`` if it is not known any more."""

    async def over_cap(self, request: RunRequest, target: Target) -> str:
        """Why a cap would not allow a request at a member, a sentence; empty where it would."""

    async def failed(self, member: str) -> None:
        """Write down that a member could not be reached or used: it cools down."""

    async def worked(self, member: str) -> None:
        """Write down that it could."""

    async def past(
        self, members: Sequence[str], prompt: Prompt, *, learned: bool
    ) -> Mapping[str, Past]:
        """What is known of some members, for a run of a prompt.

        Args:
            learned: Also what past runs say (``seconds`` and what follows it), which takes longer.
        """


def cooled_for(failures: int) -> float:
    """Seconds that a member cools down after so many failures in a row: 15, 30, … 600."""
    return min(_COOLS_FIRST * 2.0 ** (min(failures, 16) - 1), _COOLS_LONGEST)


@dataclass
class MemoryJournal:
    """A journal in memory: for a route that is opened without a client, and for tests.

    Attributes:
        now: Seconds, for cool-downs.
    """

    now: Callable[[], float] = time.monotonic
    _steps: dict[str, list[Step]] = field(default_factory=dict)
    _cancelled: set[str] = field(default_factory=set)
    _requests: dict[str, RunRequest] = field(default_factory=dict)
    _failures: dict[str, tuple[int, float]] = field(default_factory=dict)

    async def begin(
        self, step: Step, request: RunRequest, target: Target, at_most: int | None = None
    ) -> Begun:
        """See `Journal.begin`."""
        if step.job_id in self._cancelled:
            return "cancelled"
        steps = self._steps.setdefault(step.job_id, [])
        if step.number != len(steps) + 1 or (steps and not steps[-1].state.surely_not):
            return "taken"
        if at_most is not None and self._at(step.member) >= at_most:
            return "full"
        steps.append(step)
        return "begun"

    def _at(self, member: str) -> int:
        """How many jobs a member has."""
        last = [steps[-1] for steps in self._steps.values() if steps]
        there = (StepState.SENDING, StepState.ACCEPTED)
        return sum(one.member == member and one.state in there for one in last)

    async def note(self, step: Step) -> None:
        """See `Journal.note`."""
        steps = self._steps[step.job_id]
        steps[step.number - 1] = replace(step)

    async def steps(self, job_id: str) -> Sequence[Step]:
        """See `Journal.steps`."""
        return tuple(self._steps.get(job_id, ()))

    async def cancel(self, job_id: str) -> None:
        """See `Journal.cancel`."""
        self._cancelled.add(job_id)

    async def cancelled(self, job_id: str) -> bool:
        """See `Journal.cancelled`."""
        return job_id in self._cancelled

    def keep(self, request: RunRequest) -> None:
        """Hold a request for `request`, as the record does."""
        self._requests[request.job_id] = request

    async def request(self, job_id: str) -> RunRequest | None:
        """See `Journal.request`."""
        return self._requests.get(job_id)

    async def over_cap(self, request: RunRequest, target: Target) -> str:
        """See `Journal.over_cap`: there are no caps here."""
        return ""

    async def failed(self, member: str) -> None:
        """See `Journal.failed`."""
        failures = self._failures.get(member, (0, 0.0))[0] + 1
        self._failures[member] = failures, self.now() + cooled_for(failures)

    async def worked(self, member: str) -> None:
        """See `Journal.worked`."""
        self._failures.pop(member, None)

    async def past(
        self, members: Sequence[str], prompt: Prompt, *, learned: bool
    ) -> Mapping[str, Past]:
        """Only how long each has to cool down, and how many jobs it has."""
        until = {name: self._failures.get(name, (0, 0.0))[1] for name in members}
        return {name: Past(max(0.0, at - self.now()), self._at(name)) for name, at in until.items()}
