"""The actor that steers a fleet: once a second it looks, decides and does.

It remembers nothing that it could not see again: which workers there are, Ray knows; what they are,
they say. Which machines are to be left alone, and for how long a worker lives on where it is cut
off, is in a file.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from ..aio import concurrent_map, in_thread
from ..config.folders import home
from ..errors import AuthenticationError, ComfyRemoteError
from ..net.tls import trusting
from ..version import __version__
from .cluster import HEAD, Node, Unanswered, is_worker_of
from .membership import surely_ended
from .notes import Notes, Unmade
from .settings import FleetSettings
from .sizing import Decision, GatewayView, Member, decide, lost
from .view import Gateway
from .worker import WorkerStatus, read_token

__all__ = ["FleetHead", "FleetStatus", "ShownWorker", "Steered"]

_EVERY = 1.0
_AT_A_TIME = 64
_SHORTEST_ID = 6  # characters of a machine's id that somebody types
_ANSWER_PATIENCE = 1.0
_UNANSWERED = 10.0  # seconds after which a worker that has never answered is surely not placed
_FAILS = 10.0  # seconds after which one that cannot work is no capacity: an engine may start again
_MISSED = 60.0  # seconds without a word to the gateway: as long as a worker waits for its name
_log = logging.getLogger(__name__)


class Steered(Protocol):
    """What the head needs of a cluster: see `cluster.Cluster`."""

    def nodes(self) -> list[Node]: ...

    def workers(self) -> list[str]: ...

    def start_worker(self, settings: FleetSettings, leaving: frozenset[str]) -> str: ...

    def unmade(self) -> dict[str, str]: ...

    async def ask(self, name: str, method: str, *arguments: str, patience: float = ...) -> str: ...

    def end(self, name: str) -> None: ...

    def request(self, workers: int, settings: FleetSettings) -> None: ...


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


class FleetHead:
    """Steers from the moment it is made, in a thread of its own.

    Args:
        settings: A `FleetSettings` as JSON.
        version: Of Comfy Remote, where the fleet was started.
        own_id: Of the actor, which it keeps when Ray makes it again.
    """

    def __init__(
        self,
        settings: str,
        version: str,
        cluster: Steered,
        *,
        own_id: str = "",
        folder: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = FleetSettings.model_validate_json(settings)
        self._cluster = cluster
        self._monotonic = monotonic
        where = folder or home() / "fleet" / self._settings.gateway.endpoint
        self._own_id = own_id
        self._notes = Notes(where / "head.json", self._settings.workers.away)
        self._known: set[str] = set()
        self._died: set[str] = set()
        self._lost: dict[str, float] = {}
        self._first_seen: dict[str, float] = {}
        self._troubled: dict[str, float] = {}
        self._unmade = Unmade(monotonic)
        self._outdated: set[str] = set()
        self._has_ended = False
        # The one that was made before this one may have been going down.
        self._down = bool(own_id) and self._notes.down == own_id
        self._status = FleetStatus(min=self._settings.workers.min, max=self._settings.workers.max)
        threading.Thread(target=self._run, name="fleet head", daemon=True).start()

    def status(self) -> str:
        """A `FleetStatus` as JSON: that of the last look."""
        return self._status.model_dump_json()

    def leave(self, machine: str, undo: str = "") -> str:
        """Have no workers on a machine; ``undo`` for workers again. The ids of the machines.

        Args:
            machine: A host's name, an address, or the beginning of an id.
        """
        found = [
            one.id
            for one in self._status.nodes
            if machine in (one.host, one.address)
            or (len(machine) >= _SHORTEST_ID and one.id.startswith(machine))
        ]
        for one in found:
            self._notes.change(one, leaves=not undo)
        if found:
            # Those that wait for a GPU do so by what was said before.
            self._outdated |= {one.id for one in self._status.workers if not one.placed}
        return " ".join(found)

    def go_down(self) -> None:
        """Drain all workers, start none, and end with the last."""
        self._down = True
        self._notes.go_down(self._own_id)

    def _run(self) -> None:
        try:
            asyncio.run(self._steer_on())
        except BaseException:  # noqa: BLE001 - whatever it is, somebody has to steer
            _log.exception("The head of the fleet has ended unexpectedly.")
            os._exit(1)  # Ray starts it again

    async def _steer_on(self) -> None:
        own = self._settings.gateway
        while not self._has_ended:
            token = None
            try:
                if own.token_file is not None:
                    token = await asyncio.to_thread(
                        read_token, own.token_file, "the gateway's token"
                    )
                tls = await asyncio.to_thread(trusting, own.ca_file)
                async with Gateway(own.url, own.endpoint, token, tls) as gateway:
                    while await self._look_and_do(gateway):
                        pass
            except ComfyRemoteError as error:  # a file that is not there (yet)
                _log.error("%s", error)
                await self._look_and_do(None, f"{error.message} {error.advice}".strip())

    async def _look_and_do(self, gateway: Gateway | None, error: str = "") -> bool:
        """Once, and the rest of the second.

        Returns:
            Whether to go on with this gateway: it takes the token, and the fleet has not ended.
        """
        began = self._monotonic()
        view, refused = None, False
        if gateway is not None:
            view, error, refused = await _looked(gateway)
        nodes = await in_thread(self._cluster.nodes)
        ids = await in_thread(self._cluster.workers)
        if self._down and not ids:
            await in_thread(self._cluster.request, 0, self._settings)
            self._has_ended = True
            await in_thread(self._cluster.end, HEAD)
            return False
        alive = {one.id for one in nodes if one.alive}
        before = self._status.workers
        shown = await self._asked(ids, view)
        self._died |= _replaced(before, shown, alive)
        leaving = self._notes.leaving(alive)
        members = [_member(one, alive) for one in shown]
        decision = (
            _ending(members)
            if self._down
            else decide(self._settings.workers, members, view, leaving=leaving)
        )
        self._unmade.note(await in_thread(self._cluster.unmade))
        self._status = FleetStatus(
            wanted=decision.wanted,
            min=self._settings.workers.min,
            max=self._settings.workers.max,
            waiting=None if view is None else view.waiting,
            running=None if view is None else view.running,
            gateway_error=error,
            problem=self._notes.problem or self._unmade.why,
            workers=tuple(shown),
            nodes=tuple(one for one in nodes if one.alive),
            leaving=tuple(sorted(leaving)),
            down=self._down,
        )
        await self._do(decision, leaving)
        if gateway is not None and view is not None:
            await self._say_lost(gateway, view, members, alive)
        await asyncio.sleep(max(0.05, _EVERY - (self._monotonic() - began)))
        return not refused

    async def _asked(self, ids: list[str], view: GatewayView | None) -> list[ShownWorker]:
        """What the workers say of themselves; of those that do not answer, what they said last."""
        before = {one.id: one for one in self._status.workers}
        now = self._monotonic()
        self._first_seen = {name: self._first_seen.get(name, now) for name in ids}

        async def ask(name: str) -> ShownWorker:
            current = is_worker_of(self._settings, name)
            try:
                answer = await self._cluster.ask(name, "status", patience=_ANSWER_PATIENCE)
                said = WorkerStatus.model_validate_json(answer)
            except (Unanswered, ValidationError):
                last = before.get(name)
                if last is None or not last.placed:
                    waits_as_it_should = current and name not in self._outdated
                    return ShownWorker(id=name, placed=False, is_current=waits_as_it_should)
                said = last
            return self._as_seen(name, said, view, current)

        shown = await concurrent_map(ask, ids, at_a_time=_AT_A_TIME)
        self._outdated &= set(ids)
        self._troubled = {name: at for name, at in self._troubled.items() if name in ids}
        return shown

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

    async def _do(self, decision: Decision, leaving: frozenset[str]) -> None:
        await in_thread(self._cluster.request, decision.wanted, self._settings)
        now = self._monotonic()
        for name in decision.remove:
            # One that has not answered yet may be at work: this head may be new.
            answered = any(one.id == name and one.placed for one in self._status.workers)
            if not answered and now - self._first_seen[name] < _UNANSWERED:
                continue
            _log.info("%s ends.", name)
            await in_thread(self._cluster.end, name)
        for name in decision.drain:
            _log.info("%s takes no further job.", name)
            try:
                await self._cluster.ask(name, "drain", patience=_ANSWER_PATIENCE)
            except Unanswered:
                continue  # the next look tries again
        if not self._unmade.may_start():
            return
        for _ in range(decision.start):
            name = await in_thread(self._cluster.start_worker, self._settings, leaving)
            _log.info("%s is started.", name)

    async def _say_lost(
        self, gateway: Gateway, view: GatewayView, members: list[Member], alive: set[str]
    ) -> None:
        token = await asyncio.to_thread(
            read_token, self._settings.gateway.worker_token_file, "the worker's token"
        )
        prefix = f"{token.get_secret_value().partition('.')[0]}."
        self._known |= {one.name for one in members if one.name}
        self._known &= view.workers.keys() | {one.name for one in members}
        self._died &= self._known - {one.name for one in members}
        now, names = self._monotonic(), lost(view, members, alive, prefix, self._known)
        self._lost = {name: self._lost.get(name, now) for name in names}
        for name, since in self._lost.items():
            away = 0.0 if name in self._died else self._notes.away
            if now - since > surely_ended(away):
                _log.warning("%s is gone with its machine: its job goes to another worker.", name)
                await gateway.say_gone(name)


async def _looked(gateway: Gateway) -> tuple[GatewayView | None, str, bool]:
    """What it shows; why it does not; and whether it refuses the token."""
    try:
        return await gateway.look(), "", False
    except ComfyRemoteError as error:
        return None, error.message, isinstance(error, AuthenticationError)


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


def _member(one: ShownWorker, alive: set[str]) -> Member:
    # Where its machine has gone, Ray makes it again as soon as there is room.
    state = one.state if one.placed and one.node in alive else "unplaced"
    return Member(one.id, one.name, one.node, state, one.is_current, one.fails)


def _ending(members: list[Member]) -> Decision:
    """What ends a fleet without losing a job."""
    runs_nothing = {one.id for one in members if one.state in ("unplaced", "ended")}
    works = [one.id for one in members if one.stays and one.id not in runs_nothing]
    return Decision(0, drain=tuple(works), remove=tuple(sorted(runs_nothing)))
