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
from ..config.log import log_to_stderr
from ..errors import ComfyRemoteError
from ..media.files import storage_errors, write_whole
from ..net.tls import trusting
from ..version import __version__
from .cluster import Node, Unanswered
from .membership import surely_ended
from .settings import FleetSettings
from .sizing import Decision, GatewayView, Member, decide, lost
from .view import Gateway
from .worker import LOG_FORM, WorkerStatus, read_token

__all__ = ["FleetHead", "FleetStatus", "ShownWorker", "Steered"]

_EVERY = 1.0
_AT_A_TIME = 64
_SHORTEST_ID = 6  # characters of a machine's id that somebody types
_AGAIN = 10.0
_MOST_NOTED = 1000
_log = logging.getLogger(__name__)


class Steered(Protocol):
    """What the head needs of a cluster: see `cluster.Cluster`."""

    def nodes(self) -> list[Node]: ...

    def workers(self) -> list[str]: ...

    def start_worker(self, settings: FleetSettings, leaving: frozenset[str]) -> str: ...

    async def ask(self, name: str, method: str, *arguments: str) -> str: ...

    def end(self, name: str) -> None: ...

    def request(self, workers: int, settings: FleetSettings) -> None: ...


class ShownWorker(WorkerStatus):
    """A worker, as `fleet status` shows it.

    Attributes:
        id: Of its actor.
        placed: Whether it has said anything yet.
        at_gateway: Its state there; empty where the gateway does not know it.
        is_current: Whether it is what the settings say.
    """

    id: str
    placed: bool = True
    at_gateway: str = ""
    is_current: bool = True


class FleetStatus(BaseModel):
    """A moment of a fleet.

    Attributes:
        wanted: How many workers there should be.
        waiting: Jobs that wait at the gateway; ``None`` where it does not answer. So ``running``.
        gateway_error: Why it does not answer.
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
    """

    def __init__(
        self,
        settings: str,
        version: str,
        cluster: Steered,
        *,
        folder: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = FleetSettings.model_validate_json(settings)
        self._cluster = cluster
        self._monotonic = monotonic
        where = folder or home() / "fleet" / self._settings.gateway.endpoint
        self._notes = _Notes(where / "head.json", self._settings.workers.away)
        self._known: set[str] = set()
        self._died: set[str] = set()
        self._lost: dict[str, float] = {}
        self._down = False
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
        return " ".join(found)

    def go_down(self) -> None:
        """Drain all workers and start none."""
        self._down = True

    def _run(self) -> None:
        log_to_stderr(logging.INFO, LOG_FORM)
        try:
            asyncio.run(self._steer_on())
        except BaseException:  # noqa: BLE001 - whatever it is, somebody has to steer
            _log.exception("The head of the fleet has ended unexpectedly.")
            os._exit(1)  # Ray starts it again

    async def _steer_on(self) -> None:
        while True:
            try:
                await self._steer()
            except ComfyRemoteError as error:  # a token that is not there (yet)
                _log.error("%s", error)
                said = f"{error.message} {error.advice}".strip()
                self._status = self._status.model_copy(update={"gateway_error": said})
                await asyncio.sleep(_AGAIN)

    async def _steer(self) -> None:
        own = self._settings.gateway
        token = None
        if own.token_file is not None:
            token = await asyncio.to_thread(read_token, own.token_file, "the gateway's token")
        async with Gateway(own.url, own.endpoint, token, trusting(own.ca_file)) as gateway:
            while True:
                began = self._monotonic()
                await self._look_and_do(gateway)
                await asyncio.sleep(max(0.05, _EVERY - (self._monotonic() - began)))

    async def _look_and_do(self, gateway: Gateway) -> None:
        nodes, ids, (view, error) = await asyncio.gather(
            in_thread(self._cluster.nodes), in_thread(self._cluster.workers), _looked(gateway)
        )
        alive = {one.id for one in nodes if one.alive}
        before = self._status.workers
        shown = await self._asked(ids, view)
        self._died |= _replaced(before, shown, alive)
        leaving = self._notes.leaving(alive)
        members = [_member(one) for one in shown]
        decision = (
            _ending(members)
            if self._down
            else decide(self._settings.workers, members, view, leaving=leaving)
        )
        self._status = FleetStatus(
            wanted=decision.wanted,
            min=self._settings.workers.min,
            max=self._settings.workers.max,
            waiting=None if view is None else view.waiting,
            running=None if view is None else view.running,
            gateway_error=error,
            workers=tuple(shown),
            nodes=tuple(one for one in nodes if one.alive),
            leaving=tuple(sorted(leaving)),
            down=self._down,
        )
        await self._do(decision, leaving)
        if view is not None:
            await self._say_lost(gateway, view, members, alive)

    async def _asked(self, ids: list[str], view: GatewayView | None) -> list[ShownWorker]:
        """What the workers say of themselves; of those that do not answer, what they said last."""
        before = {one.id: one for one in self._status.workers}

        async def ask(name: str) -> ShownWorker:
            try:
                said = WorkerStatus.model_validate_json(await self._cluster.ask(name, "status"))
            except (Unanswered, ValidationError):
                return before.get(name) or ShownWorker(id=name, placed=False)
            at_gateway = view.workers.get(said.name) if view is not None else None
            return ShownWorker(
                **said.model_dump(),
                id=name,
                at_gateway=at_gateway.state if at_gateway is not None else "",
                is_current=said.digest == self._settings.digest,
            )

        return await concurrent_map(ask, ids, at_a_time=_AT_A_TIME)

    async def _do(self, decision: Decision, leaving: frozenset[str]) -> None:
        await in_thread(self._cluster.request, decision.wanted, self._settings)
        for name in decision.remove:
            _log.info("%s ends.", name)
            await in_thread(self._cluster.end, name)
        for name in decision.drain:
            _log.info("%s takes no further job.", name)
            try:
                await self._cluster.ask(name, "drain")
            except Unanswered:
                continue  # the next look tries again
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


class _Notes:
    """What the head remembers, on disk.

    Attributes:
        away: The longest `WorkersSettings.away` that the fleet has ever had: a worker of before may
            go by it.
    """

    def __init__(self, path: Path, away: float) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            noted = _Noted.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            noted = _Noted()
        self._leaving = frozenset(noted.leaving)
        self.away = max(away, noted.away)
        self._write()

    def leaving(self, alive: set[str]) -> frozenset[str]:
        """Ids of the machines in the cluster that are to have no workers."""
        return self._leaving & alive

    def change(self, node: str, *, leaves: bool) -> None:
        """Note such a machine, or that it has workers again.

        Raises:
            LocalStorageError: That cannot be written.
        """
        with self._lock:
            self._leaving = self._leaving | {node} if leaves else self._leaving - {node}
            self._write()

    def _write(self) -> None:
        noted = _Noted(leaving=sorted(self._leaving)[-_MOST_NOTED:], away=self.away)
        with storage_errors(self._path):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._path, noted.model_dump_json().encode())


class _Noted(BaseModel):
    leaving: list[str] = []
    away: float = 0.0


async def _looked(gateway: Gateway) -> tuple[GatewayView | None, str]:
    try:
        return await gateway.look(), ""
    except ComfyRemoteError as error:
        return None, error.message


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


def _member(one: ShownWorker) -> Member:
    state = one.state if one.placed else "unplaced"
    return Member(one.id, one.name, one.node, state, one.is_current)


def _ending(members: list[Member]) -> Decision:
    """What ends a fleet without losing a job."""
    runs_nothing = {one.id for one in members if one.state in ("unplaced", "ended")}
    works = [one.id for one in members if one.stays and one.id not in runs_nothing]
    return Decision(0, drain=tuple(works), remove=tuple(sorted(runs_nothing)))
