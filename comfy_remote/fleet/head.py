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
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ..aio import in_thread
from ..config.folders import home
from ..errors import AuthenticationError, ComfyRemoteError
from ..net.tls import trusting
from .cluster import HEAD, Node, Unanswered
from .membership import surely_ended
from .notes import Notes, Unmade
from .seen import Answering, FleetStatus, Workers, member_of
from .settings import FleetSettings
from .sizing import Decision, GatewayView, Member, decide, lost
from .view import Gateway
from .worker import read_token

__all__ = ["FleetHead", "Steered"]

_EVERY = 1.0
_SHORTEST_ID = 6  # characters of a machine's id that somebody types
_DRAIN_PATIENCE = 1.0
_log = logging.getLogger(__name__)


class Steered(Answering, Protocol):
    """What the head needs of a cluster: see `cluster.Cluster`."""

    def nodes(self) -> list[Node]: ...

    def workers(self) -> list[str]: ...

    def start_worker(self, settings: FleetSettings, leaving: frozenset[str]) -> str: ...

    def unmade(self) -> dict[str, str]: ...

    def end(self, name: str) -> None: ...

    def request(self, workers: int, settings: FleetSettings) -> None: ...


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
        self._workers = Workers(cluster, self._settings, monotonic)
        self._known: set[str] = set()
        self._lost: dict[str, float] = {}
        self._unmade = Unmade(monotonic)
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
            self._workers.waiting_are_outdated()
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
        shown = await self._workers.ask(ids, view, alive)
        leaving = self._notes.leaving(alive)
        members = [member_of(one, alive) for one in shown]
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

    async def _do(self, decision: Decision, leaving: frozenset[str]) -> None:
        await in_thread(self._cluster.request, decision.wanted, self._settings)
        for name in decision.remove:
            if not self._workers.is_surely_unplaced(name):
                continue
            _log.info("%s ends.", name)
            await in_thread(self._cluster.end, name)
        for name in decision.drain:
            _log.info("%s takes no further job.", name)
            try:
                await self._cluster.ask(name, "drain", patience=_DRAIN_PATIENCE)
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
        self._workers.forget_died(self._known - {one.name for one in members})
        now, names = self._monotonic(), lost(view, members, alive, prefix, self._known)
        self._lost = {name: self._lost.get(name, now) for name in names}
        for name, since in self._lost.items():
            away = 0.0 if name in self._workers.died else self._notes.away
            if now - since > surely_ended(away):
                _log.warning("%s is gone with its machine: its job goes to another worker.", name)
                await gateway.say_gone(name)


async def _looked(gateway: Gateway) -> tuple[GatewayView | None, str, bool]:
    """What it shows; why it does not; and whether it refuses the token."""
    try:
        return await gateway.look(), "", False
    except ComfyRemoteError as error:
        return None, error.message, isinstance(error, AuthenticationError)


def _ending(members: list[Member]) -> Decision:
    """What ends a fleet without losing a job."""
    runs_nothing = {one.id for one in members if one.state in ("unplaced", "ended")}
    works = [one.id for one in members if one.stays and one.id not in runs_nothing]
    return Decision(0, drain=tuple(works), remove=tuple(sorted(runs_nothing)))
