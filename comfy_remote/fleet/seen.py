"""The workers of a fleet, as they say themselves and as the gateway sees them; and its status."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from ..aio import concurrent_map
from ..version import __version__
from .cluster import Node, Unanswered, is_worker_of
from .settings import FleetSettings
from .sizing import GatewayView, Member
from .worker import WorkerStatus

__all__ = ["Answering", "FleetStatus", "ShownWorker", "Workers", "member_of"]

_AT_A_TIME = 64
_ANSWER_PATIENCE = 1.0
_UNANSWERED = 10.0  # seconds after which a worker that has never answered is surely not placed
_FAILS = 10.0  # seconds after which one that cannot work is no capacity: an engine may start again
_MISSED = 60.0  # seconds without a word to the gateway: as long as a worker waits for its name


class ShownWorker(WorkerStatus):
    """A worker, as `fleet status` shows it.

    Attributes:
        id: Of its actor.
        placed: Whether it has said anything yet.
        at_gateway: Its state there; empty where the gateway does not know it.
        is_current: Whether it is what the settings say.
        fails: Whether it takes no jobs, though it should; `why` says more.
    """

    id: str
    placed: bool = True
    at_gateway: str = ""
    is_current: bool = True
    fails: bool = False


class FleetStatus(BaseModel):
    """A moment of a fleet.

    Attributes:
        wanted: How many workers there should be.
        waiting: Jobs that wait at the gateway; ``None`` where it does not answer. So ``running``.
        gateway_error: Why it does not answer.
        problem: What else is wrong with the fleet.
        leaving: Ids of machines that are to have no workers.
        nodes: Machines that are in the cluster.
    """

    model_config = ConfigDict(frozen=True)

    wanted: int = 0
    min: int = 0
    max: int = 0
    waiting: int | None = None
    running: int | None = None
    gateway_error: str = ""
    problem: str = ""
    workers: tuple[ShownWorker, ...] = ()
    nodes: tuple[Node, ...] = ()
    leaving: tuple[str, ...] = ()
    down: bool = False
    version: str = __version__


class Answering(Protocol):
    """What is asked here of a cluster: see `cluster.Cluster`."""

    async def ask(self, name: str, method: str, *arguments: str, patience: float = ...) -> str: ...


class Workers:
    """Asks the workers, and remembers what they said last and for how long one has had trouble."""

    def __init__(
        self, cluster: Answering, settings: FleetSettings, monotonic: Callable[[], float]
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._monotonic = monotonic
        self._last: dict[str, ShownWorker] = {}
        self._first_seen: dict[str, float] = {}
        self._troubled: dict[str, float] = {}
        self._outdated: set[str] = set()
        self._died: set[str] = set()

    @property
    def died(self) -> set[str]:
        """Names whose process has died on a machine that is in the cluster, as Ray says: it has
        made the actor again, with another name on another machine.
        """
        return self._died

    def waiting_are_outdated(self) -> None:
        """Have those that wait for a GPU replaced: they do so by what was said before."""
        self._outdated |= {one.id for one in self._last.values() if not one.placed}

    def is_surely_unplaced(self, name: str) -> bool:
        """Whether one that has never answered has had the time to: the head may be new."""
        one = self._last.get(name)
        answered = one is not None and one.placed
        return answered or self._monotonic() - self._first_seen[name] >= _UNANSWERED

    async def ask(
        self, ids: Sequence[str], view: GatewayView | None, alive: set[str]
    ) -> list[ShownWorker]:
        """What they say of themselves; of those that do not answer, what they said last.

        Args:
            alive: Ids of the machines that are in the cluster.
        """
        now = self._monotonic()
        self._first_seen = {name: self._first_seen.get(name, now) for name in ids}

        async def ask(name: str) -> ShownWorker:
            return await self._one(name, view)

        shown = await concurrent_map(ask, ids, at_a_time=_AT_A_TIME)
        self._died |= _replaced([*self._last.values()], shown, alive)
        self._last = {one.id: one for one in shown}
        self._outdated &= set(ids)
        self._troubled = {name: at for name, at in self._troubled.items() if name in ids}
        return shown

    def forget_died(self, known: set[str]) -> None:
        """Remember no other names than these of those that died."""
        self._died &= known

    async def _one(self, name: str, view: GatewayView | None) -> ShownWorker:
        current = is_worker_of(self._settings, name)
        try:
            answer = await self._cluster.ask(name, "status", patience=_ANSWER_PATIENCE)
            said = WorkerStatus.model_validate_json(answer)
        except (Unanswered, ValidationError):
            last = self._last.get(name)
            if last is None or not last.placed:
                waits_as_it_should = current and name not in self._outdated
                return ShownWorker(id=name, placed=False, is_current=waits_as_it_should)
            said = last
        return self._as_seen(name, said, view, current)

    def _as_seen(
        self, name: str, said: WorkerStatus, view: GatewayView | None, current: bool
    ) -> ShownWorker:
        """A worker as itself and the gateway see it."""
        at_gateway = view.workers.get(said.name) if view is not None else None
        state = at_gateway.state if at_gateway is not None else ""
        why = said.why or (at_gateway.why if at_gateway is not None and state == "broken" else "")
        is_missed = view is not None and said.state == "working" and state in ("", "silent")
        now = self._monotonic()
        if said.state in ("failed", "working") and (why or is_missed):
            lasts = now - self._troubled.setdefault(name, now)
        else:
            lasts = 0.0
            self._troubled.pop(name, None)
        if not why and lasts > _MISSED:
            url = self._settings.gateway.url
            why = f"The gateway does not hear from it. Can {said.host} reach {url}?"
        return ShownWorker(
            **{**said.model_dump(include=set(WorkerStatus.model_fields)), "why": why},
            id=name,
            at_gateway=state,
            is_current=current,
            fails=bool(why) and lasts > _FAILS,
        )


def _replaced(
    before: Sequence[ShownWorker], now: Sequence[ShownWorker], alive: set[str]
) -> set[str]:
    """Names of those whose process has died on a machine that is in the cluster, as Ray says: it
    has made the actor again, with another name on another machine.
    """
    names = {one.id: one for one in now}
    return {
        one.name
        for one in before
        if one.name and one.node in alive and one.id in names
        if names[one.id].process != one.process and names[one.id].name not in ("", one.name)
    }


def member_of(one: ShownWorker, alive: set[str]) -> Member:
    """What decisions are made from."""
    # Where its machine has gone, Ray makes it again as soon as there is room.
    state = one.state if one.placed and one.node in alive else "unplaced"
    return Member(one.id, one.name, one.node, state, one.is_current, one.fails)
