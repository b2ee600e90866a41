"""The members of an open route together: what is known of each for a run, and what they have."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from ...aio import within
from ...errors import ComfyRemoteError, LocalStorageError, TargetUnreachable
from ...schedule.choose import Candidate, choose
from ...schedule.prefer import Prefer
from ..base import Capabilities, Health, ListsModels, RunRequest, Target
from .able import Request, lacking
from .journal import Journal, MemoryJournal, Past
from .member import OpenMember, RouteTimes, Seen
from .union import union_of

__all__ = ["Members", "RouteOptions"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """What is set for a route: see `TargetSettings`."""

    prefer: Prefer = "order"
    patience: float | None = None
    at_most: Mapping[str, int] = field(default_factory=dict)


class Members:
    """The members of one route, in its order.

    Args:
        route: What the route is called.

    Attributes:
        options: What is set for the route.
        journal: What is known of them from before.
    """

    def __init__(
        self, route: str, members: Sequence[OpenMember], options: RouteOptions, times: RouteTimes
    ) -> None:
        self._route = route
        self._members = {one.name: one for one in members}
        self.options = options
        self._times = times
        self.journal: Journal = MemoryJournal()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __getitem__(self, name: str) -> OpenMember:
        return self._members[name]

    def __iter__(self) -> Iterator[OpenMember]:
        return iter(self._members.values())

    async def close(self, *exc_info: object) -> None:
        """Close those that were opened."""
        for member in self:
            await member.close(*exc_info)

    # For a run

    async def candidates(
        self, request: RunRequest, refused: Mapping[str, str], ask_all: bool
    ) -> list[Candidate]:
        """What is known of the members, in their order; without those that need not be asked.

        Args:
            refused: Why some did not take this very job, by name: they are not asked.
            ask_all: Ask all others, also those that cool down, and what their caps allow.
        """
        learned = ask_all or self.options.prefer != "order"
        past = await self.journal.past(tuple(self._members), request.prompt, learned=learned)
        ask = partial(
            self._candidate,
            past=past,
            classes={node["class_type"] for node in request.prompt.values()},
            asked=Request.of(request),
            capped=request if ask_all else None,
        )
        one_by_one = self.options.prefer == "order" and not ask_all
        found = {name: Candidate(name, refused=why) for name, why in refused.items()}
        enough = False
        for cooling in (False, True):
            group = [
                member
                for member in self
                if member.name not in refused and (past[member.name].cooling > 0) is cooling
            ]
            for members in [[member] for member in group] if one_by_one else [group]:
                if not enough:
                    asked = await asyncio.gather(*map(ask, members))
                    found.update({one.name: one for one in asked})
                    enough = not ask_all and any(choose([one])[0].able for one in asked)
                elif cooling:  # they come last, and why is said
                    for one in members:
                        cools = past[one.name].cooling
                        found[one.name] = Candidate(one.name, cooling=cools)
        return [found[name] for name in self._members if name in found]

    async def _candidate(
        self,
        member: OpenMember,
        past: Mapping[str, Past],
        classes: Collection[str],
        asked: Request,
        capped: RunRequest | None,
    ) -> Candidate:
        """What is known of one.

        Args:
            capped: To see whether its cap would allow that.
        """
        known = past[member.name]
        seen = await self._looked(member, classes, known)
        if seen.problem:
            return Candidate(member.name, problem=seen.problem, cooling=known.cooling)
        able = await asyncio.to_thread(lacking, member, seen, asked)
        health = seen.health if seen.health is not None and seen.health.counted else None
        over = ""
        if capped is not None:
            over = await self.journal.over_cap(capped, await member.open())
        return replace(
            able,
            cap=f"is over a cap ({over.rstrip('.')})" if over else "",
            cooling=known.cooling,
            ours=known.ours,
            at_most=self.options.at_most.get(member.name),
            ready=None if health is None else health.ready,
            running=None if health is None else health.running,
            queued=None if health is None else health.queued,
            seconds=known.seconds,
            start=known.start,
            price=known.price or member.price,
            peak=known.peak,
            had_models=known.had_models,
        )

    async def _looked(
        self, member: OpenMember, classes: Collection[str] | None, known: Past
    ) -> Seen:
        """What a member says; one that cannot be used cools down."""
        seen = await member.look(classes)
        if seen.problem and known.cooling <= 0 and member.target is not None:
            with suppress(LocalStorageError):  # then it does not cool down
                await self.journal.failed(member.name)
        return seen

    async def failed(self, member: OpenMember) -> None:
        """Let a member cool down that has just failed, and ask it again before it is used."""
        member.forget()
        with suppress(LocalStorageError):  # then it does not cool down
            await self.journal.failed(member.name)

    # What they have

    async def have_input(self, name: str) -> bool:
        """Whether every member that answers has it: the job may go to any."""
        asked = await self._of_each(lambda target: target.has_input(name))
        return bool(asked) and all(asked)

    async def models(self) -> dict[str, list[str]]:
        """See `ListsModels`: what any of them has."""

        async def listed(target: Target) -> dict[str, list[str]]:
            return await target.models() if isinstance(target, ListsModels) else {}

        found: dict[str, dict[str, None]] = {}
        for models in await self._of_each(listed):
            for folder, names in models.items():
                found.setdefault(folder, {}).update(dict.fromkeys(names))
        return {folder: [*names] for folder, names in found.items()}

    async def describe(self, classes: Collection[str] | None = None) -> Capabilities:
        """What any of them has: each class as the first of them has it, with the choices of all."""

        seen = await self._seen(classes)
        known = [one.capabilities for one in seen.values() if one.capabilities is not None]
        return await asyncio.to_thread(union_of, known)

    async def health(self) -> Health:
        """All of them together; those that do not answer have no workers."""
        seen = await self._seen(())
        ready = running = queued = starting = throttled = 0
        for name, one in seen.items():
            if one.health is None:
                continue
            most = self.options.at_most.get(name)
            ready += one.health.ready if most is None else min(one.health.ready, most)
            running += one.health.running if most is None else min(one.health.running, most)
            queued += one.health.queued
            starting += one.health.starting
            throttled += one.health.throttled
        return Health(ready, running, queued, starting, throttled)

    async def problems(self) -> dict[str, str]:
        """See `ChoosesAmong`."""
        past = await self.journal.past(tuple(self._members), {}, learned=False)
        looks = [self._looked(one, (), past[one.name]) for one in self._members.values()]
        seen = await asyncio.gather(*looks)
        return {name: one.problem for name, one in zip(self._members, seen, strict=True)}

    async def _seen(self, classes: Collection[str] | None) -> dict[str, Seen]:
        """What the members say; those that cool down are not asked while others answer.

        Raises:
            TargetUnreachable: None can be used.
        """
        past = await self.journal.past(tuple(self._members), {}, learned=False)
        seen: dict[str, Seen] = {}
        for cooling in (False, True):
            group = [
                one for name, one in self._members.items() if (past[name].cooling > 0) is cooling
            ]
            asking = [self._looked(one, classes, past[one.name]) for one in group]
            seen.update(
                zip([one.name for one in group], await asyncio.gather(*asking), strict=True)
            )
            if any(not one.problem for one in seen.values()):
                return seen
        said = "; ".join(f"{name} {one.problem}" for name, one in seen.items())
        raise TargetUnreachable(f"No target of the route {self._route} can be used: {said}.")

    async def _of_each(self, ask: Callable[[Target], Awaitable[_T]]) -> list[_T]:
        """The answers of the members that can be used."""
        usable = [name for name, one in (await self._seen(())).items() if not one.problem]

        async def asked(name: str) -> list[_T]:
            with suppress(ComfyRemoteError, asyncio.TimeoutError):
                target = await self._members[name].open()
                return [await within(ask(target), self._times.look)]
            return []

        return [one for some in await asyncio.gather(*map(asked, usable)) for one in some]
