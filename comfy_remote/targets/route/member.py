"""One member of a route: opened when it is needed, and what is known of it for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass

from ...aio import within
from ...errors import ComfyRemoteError, TargetUnreachable
from ...net.retry import at_most_tries
from ...schedule.money import Price
from ..base import Capabilities, DescribesByJob, Health, LimitsSizes, Target
from ..kinds import Can, Member
from .reasons import clause_of

__all__ = ["TRIES", "OpenMember", "RouteTimes", "Seen"]

TRIES = 2
"""Of each request to a member: one that does not answer then is passed over."""

_MOST_CLASSES = 32  # sets of node classes that are remembered


@dataclass(frozen=True, slots=True)
class RouteTimes:
    """How long a route waits for what, in seconds.

    Attributes:
        open: For a member to be found or started.
        look: For a member to say what it has and how busy it is.
        whole: The same, for all of its nodes, which may be megabytes.
        silent: For so long, one that did not answer is not asked again.
        fresh: For so long, what it said counts.
        stale: For so long, it counts while the member is asked again.
        again: Before it is looked again whether another member could take a job that waits.
        others: For another process that sends the job on.
        poll: Between two looks at the journal, meanwhile.
    """

    open: float = 60.0
    look: float = 8.0
    whole: float = 30.0
    silent: float = 5.0
    fresh: float = 20.0
    stale: float = 300.0
    again: float = 5.0
    others: float = 120.0
    poll: float = 0.25


@dataclass(frozen=True, slots=True)
class Seen:
    """What a member said, or why it did not.

    Attributes:
        problem: A clause whose subject is the member; empty if it can be used.
        capabilities: ``None`` where there is a problem, like ``health``.
        at: When, by `time.monotonic`.
    """

    problem: str = ""
    capabilities: Capabilities | None = None
    health: Health | None = None
    at: float = 0.0


class OpenMember:
    """A member of an open route.

    Args:
        member: As it is configured.
        target: What it means; ``None`` where it cannot be opened.
        problem: Why not.
    """

    def __init__(
        self, member: Member, target: Target | None, problem: str, times: RouteTimes
    ) -> None:
        self.member = member
        self.target = target
        self.problem = problem
        self._times = times
        self._opening = asyncio.Lock()
        self._opened = False
        self._seen: dict[frozenset[str] | None, Seen] = {}
        self._asking: dict[frozenset[str] | None, asyncio.Task[Seen]] = {}

    @property
    def name(self) -> str:
        """As the route has it."""
        return self.member.name

    async def open(self) -> Target:
        """Its target, opened once.

        Raises:
            ComfyRemoteError: It cannot be opened, found or started.
        """
        if self.target is None:
            raise TargetUnreachable(f"{self.name} {self.problem}.")
        async with self._opening:
            if not self._opened:
                self.target = await self.target.__aenter__()
                self._opened = True
        return self.target

    async def close(self, *exc_info: object) -> None:
        """Close it, if it was opened."""
        for asking in self._asking.values():
            asking.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        if self._opened and self.target is not None:
            self._opened = False
            await self.target.__aexit__(*exc_info)

    async def look(self, classes: Collection[str] | None) -> Seen:
        """What it says of these node classes, and how busy it is; from memory if that is recent.

        Args:
            classes: ``None`` for all of them.
        """
        if self.target is None:
            return Seen(self.problem)
        key = None if classes is None else frozenset(classes)
        if (known := self._seen.get(key)) is not None:
            age = time.monotonic() - known.at
            if age < (self._times.silent if known.problem else self._times.fresh):
                return known
            if age < self._times.stale and not known.problem:
                self._ask(key)  # for the next one
                return known
        return await asyncio.shield(self._ask(key))

    def forget(self) -> None:
        """What it said does not hold any more: it has refused a job, or fallen silent."""
        self._seen.clear()

    def _ask(self, classes: frozenset[str] | None) -> asyncio.Task[Seen]:
        """Ask it, unless that is under way."""
        asking = self._asking.get(classes)
        if asking is None:
            asking = asyncio.ensure_future(self._asked(classes))
            self._asking[classes] = asking
            asking.add_done_callback(lambda _: self._asking.pop(classes, None))
        return asking

    async def _asked(self, classes: frozenset[str] | None) -> Seen:
        now = time.monotonic
        try:
            target = await within(self.open(), self._times.open)
            with at_most_tries(TRIES):
                said = asyncio.gather(_described(target, classes), target.health())
            patience = self._times.whole if classes is None else self._times.look
            capabilities, health = await within(said, patience)
            seen = Seen("", capabilities, health, now())
        except asyncio.TimeoutError:
            seen = Seen("did not answer in time", at=now())
        except ComfyRemoteError as error:
            seen = Seen(clause_of(error), at=now())
        if len(self._seen) >= _MOST_CLASSES:
            self._seen.clear()
        self._seen[classes] = seen
        return seen

    @property
    def body_limit(self) -> int | None:
        """See `LimitsSizes`."""
        return self.target.body_limit if isinstance(self.target, LimitsSizes) else None

    @property
    def result_limit(self) -> int | None:
        """See `LimitsSizes`."""
        return self.target.result_limit if isinstance(self.target, LimitsSizes) else None

    @property
    def price(self) -> Price | None:
        """What the settings say an hour costs; nothing where the machine is the user's own."""
        said = self.member.settings.price_per_hour
        if said is not None:
            return Price(said, "your settings")
        return None if self.member.billed else Price(0.0, "your own")

    def fetches(self, seen: Seen) -> bool:
        """Whether it fetches the models of a job that it lacks."""
        if Can.FETCH_MODELS not in self.member.kind.can:
            return False
        return seen.capabilities is None or seen.capabilities.fetches_models is not False


async def _described(target: Target, classes: Collection[str] | None) -> Capabilities:
    """What a target has, without a job of its own for it."""
    if isinstance(target, DescribesByJob):
        return await target.described_before()
    return await target.describe(classes)
