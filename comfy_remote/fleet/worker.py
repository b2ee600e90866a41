"""The actor of a GPU: supervises one engine and its worker, as `comfy-remote worker` has them."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, SecretStr

from ..clean import one_line
from ..config.folders import home
from ..config.token_file import read_token_file
from ..errors import AuthenticationError, ComfyRemoteError, ConfigurationError
from ..media.temporary import remove_leftovers
from ..net.retry import Backoff
from ..net.tls import trusting
from ..secrets import redact
from ..version import __version__
from ..worker.engines import Engines
from ..worker.joined.machine import Join, JoinedMachine, name_in
from ..worker.joined.spool import Spool, SpoolLimits
from ..worker.settings import WorkerSettings
from .membership import Membership
from .settings import FleetSettings
from .slot import Slot, take_slot

__all__ = ["FleetWorker", "WorkerState", "WorkerStatus", "read_token"]

WorkerState = Literal["starting", "working", "draining", "ended", "failed"]
"""``failed``: it tries again, and `WorkerStatus.why` says what is wrong."""

_AGAIN = Backoff(first=2.0, longest=60.0)
_log = logging.getLogger(__name__)


class WorkerStatus(BaseModel):
    """What a worker says of itself.

    Attributes:
        name: At the gateway; empty before it has one.
        host: Of its machine; ``node`` is that machine's id in the cluster.
        gpus: Ids of the GPUs that Ray has given it.
        process: Its id there.
        why: Why it has failed, for people.
    """

    model_config = ConfigDict(frozen=True)

    name: str = ""
    host: str = ""
    node: str = ""
    gpus: tuple[str, ...] = ()
    process: int = 0
    state: WorkerState = "starting"
    why: str = ""
    version: str = __version__


class FleetWorker:
    """Works from the moment it is made, in a thread of its own; Ray makes it again where it dies.

    Args:
        settings: A `FleetSettings` as JSON.
        version: Of Comfy Remote, where the fleet was started.
        node: This machine's id in the cluster.
        gpus: Ids of the GPUs that are its own.
        is_member: Asks whether this machine is in the cluster.
    """

    def __init__(
        self,
        settings: str,
        version: str,
        *,
        node: str,
        gpus: Sequence[str],
        is_member: Callable[[], bool],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._status = WorkerStatus(
            host=socket.gethostname(), node=node, gpus=tuple(gpus), process=os.getpid()
        )
        self._draining = False
        self._machine: JoinedMachine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._membership: Membership | None = None
        if version != __version__:
            self._say(
                "failed",
                f"{self._status.host} has Comfy Remote {__version__}, and the fleet was started "
                f"with {version}: install the same there.",
            )
            return
        self._settings = FleetSettings.model_validate_json(settings)
        self._environ = {**environ, **self._settings.workers.environment}
        self._membership = Membership(is_member, patience=self._settings.workers.away)
        self._membership.start()
        threading.Thread(target=self._run, name="fleet worker", daemon=True).start()

    def status(self) -> str:
        """A `WorkerStatus` as JSON."""
        return self._status.model_dump_json()

    def drain(self) -> None:
        """Take no further job; it is ``ended`` when the one that runs has, and is delivered."""
        with self._lock:
            self._draining = True
            if self._status.state in ("starting", "working"):
                self._say("draining")
            elif self._status.state == "failed":
                self._say("ended")
            machine, loop = self._machine, self._loop
        if machine is not None and loop is not None:
            loop.call_soon_threadsafe(machine.drain)

    def _run(self) -> None:
        remove_leftovers()
        try:
            asyncio.run(self._work())
        except BaseException:  # noqa: BLE001 - see below
            _log.exception("The worker has ended unexpectedly.")
            # A process without its worker holds a GPU for nothing: Ray starts another one.
            os._exit(1)
        self._say("ended")
        if self._membership is not None:
            self._membership.stop()

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        failures = 0
        while not self._draining:
            try:
                await self._work_once()
                failures = 0
            except ComfyRemoteError as error:
                lasting = isinstance(error, (AuthenticationError, ConfigurationError))
                _log.error("%s", error)
                if self._draining:
                    return
                self._say("failed", f"{error.message} {error.advice}".strip())
                failures += 1
                # What is set wrongly stays so until somebody changes it.
                await self._drained_within(_AGAIN.longest if lasting else _AGAIN.seconds(failures))

    async def _work_once(self) -> None:
        fleet = self._settings
        token = await asyncio.to_thread(
            read_token, fleet.gateway.worker_token_file, "the worker's token"
        )
        own_name = name_in(token, None)
        folder = home() / "fleet" / fleet.gateway.endpoint
        slot = await asyncio.to_thread(take_slot, folder, own_name)
        try:
            await self._in(slot, token)
        finally:
            slot.release()

    async def _in(self, slot: Slot, token: SecretStr) -> None:
        fleet = self._settings
        self._status = self._status.model_copy(update={"name": slot.name})
        join = Join(
            fleet.gateway.url,
            fleet.gateway.endpoint,
            slot.name,
            token,
            fleet.workers.labels,
            trusting(fleet.gateway.ca_file),
        )
        spool = Spool(slot.spool, SpoolLimits.from_environ())
        machine = JoinedMachine(join, WorkerSettings.from_environ(self._environ), spool)
        engines = await Engines.one_of_several(
            fleet.workers.engine,
            name=f"worker{slot.number}",
            folder=slot.engine,
            take_port=slot.free_port,
            environ=self._environ,
        )
        with engines:
            with self._lock:
                self._machine = machine
                if self._draining:
                    machine.drain()
                else:
                    self._say("working")
            try:
                await machine.run(engines)
            finally:
                self._machine = None

    async def _drained_within(self, seconds: float) -> None:
        for _ in range(max(1, int(seconds))):
            if self._draining:
                return
            await asyncio.sleep(1.0)

    def _say(self, state: WorkerState, why: str = "") -> None:
        shown = one_line(redact(why))
        self._status = self._status.model_copy(update={"state": state, "why": shown})


def read_token(path: Path, name: str) -> SecretStr:
    """A token of the fleet's, as `read_token_file` reads it. Blocking.

    Raises:
        ConfigurationError: It cannot be read, or holds none.
    """
    advice = (
        f"{socket.gethostname()} needs that file, as each machine of the fleet does, readable for "
        "the user of Ray there."
    )
    return read_token_file(path.expanduser(), name, advice=advice)
