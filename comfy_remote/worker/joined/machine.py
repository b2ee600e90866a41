"""All joined workers of one process: one for each engine, with one folder of results."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace

from pydantic import SecretStr

from ...advice import Hint
from ...aio import in_thread
from ...errors import AuthenticationError, ComfyRemoteError, ConfigurationError
from ...net.address import base_address, check_key_is_safe
from ...wire.joined import WORKER_NAME, Report
from ...wire.runpod import check_endpoint_id
from ..engines import WorkerEngine
from ..settings import WorkerSettings
from .client import Gateway
from .delivery import SpoolStore
from .spool import Spool
from .worker import JoinedTimes, JoinedWorker

__all__ = ["Join", "JoinedMachine", "name_in"]

_LONGEST_LABEL = 64
_SHORTEST_SECRET = 32

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Join:
    """Which gateway is joined, and as whom.

    Attributes:
        url: ``https://head:8000``.
        name: The token's, or that with a suffix.
        tls: See `client.trusting`.

    Raises:
        ConfigurationError: One of them cannot be used.
    """

    url: str
    endpoint: str
    name: str
    token: SecretStr
    labels: Sequence[str] = ()
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        check_key_is_safe(base_address(self.url))
        check_endpoint_id(self.endpoint)
        for label in self.labels:
            if not (0 < len(label) <= _LONGEST_LABEL and label.isprintable()):
                raise ConfigurationError(
                    f"{label!r} cannot be a label.",
                    advice=f"A label has 1 to {_LONGEST_LABEL} printable characters.",
                )


class JoinedMachine:
    """The workers.

    Args:
        settings: How the workers treat their jobs.
        spool: Where results wait; opened by `run`.
    """

    def __init__(
        self,
        join: Join,
        settings: WorkerSettings,
        spool: Spool,
        times: JoinedTimes | None = None,
    ) -> None:
        self._join = join
        self._settings = settings
        self._spool = spool
        self._times = times or JoinedTimes()
        self._workers: list[JoinedWorker] = []
        self._draining = False

    def drain(self) -> None:
        """Take no further job; `run` ends when those that run have ended, and are delivered."""
        self._draining = True
        for worker in self._workers:
            worker.drain()

    async def run(self, engines: Iterable[WorkerEngine]) -> None:
        """Work until drained, or cancelled: then what runs is given back.

        Args:
            engines: Started; each has a worker.

        Raises:
            AuthenticationError: The gateway does not take the token.
            ConfigurationError: A setting is wrong, or another process has the folder of results.
            ComfyRemoteError: No worker can work any more.
        """
        await in_thread(self._spool.open, self._join.token.get_secret_value())
        try:
            engines = list(engines)
            names = {self._name(one, len(engines)): one for one in engines}
            waiting = {one.worker for one in self._spool.waiting()}
            works = [self._work(name, one) for name, one in names.items()]
            # Results of a GPU that is not used any more.
            works += [self._deliver(name) for name in sorted(waiting - set(names))]
            await _all(works)
        except AuthenticationError as error:
            raise AuthenticationError(
                f"The gateway refused the token of {self._join.name}: it is not, or no longer, "
                f"one for endpoint {self._join.endpoint} there.",
                advice=Hint.WORKER_TOKEN(),
                details=error.details,
            ) from error
        finally:
            await in_thread(self._spool.close)

    def _name(self, one: WorkerEngine, engines: int) -> str:
        name = self._join.name
        if engines == 1 and one.gpu is None:
            return name
        return f"{name}-{one.id}" if "." in name else f"{name}.{one.id}"

    def _gateway(self, name: str, *, attached: bool = False) -> Gateway:
        join = self._join
        return Gateway(
            # Clients' address of a gateway ends in /v2, and may be what was copied.
            join.url.rstrip("/").removesuffix(f"/v2/{join.endpoint}").removesuffix("/v2"),
            endpoint=join.endpoint,
            worker=name,
            token=join.token,
            boot=self._spool.boot(attached=attached),
            tls=join.tls,
        )

    async def _work(self, name: str, one: WorkerEngine) -> None:
        settings = replace(self._settings, worker=name)
        async with self._gateway(name, attached=one.attached) as gateway:
            store = SpoolStore(self._spool, name)
            handler = one.handler(settings, store=store, inputs=gateway.inputs())
            report = one.report(settings, self._join.labels)
            worker = JoinedWorker(gateway, self._spool, report, store, self._times)
            self._workers.append(worker)
            if self._draining:
                worker.drain()
            await worker.run(handler)

    async def _deliver(self, name: str) -> None:
        async def nothing() -> Report:
            return Report()

        async with self._gateway(name) as gateway:
            store = SpoolStore(self._spool, name)
            await JoinedWorker(gateway, self._spool, nothing, store, self._times).deliver_only()


def name_in(token: SecretStr, name: str | None) -> str:
    """The worker's name: the token's, or one with a suffix that was asked for.

    Raises:
        ConfigurationError: It is not a worker's token, or it is for another name.
    """
    own, dot, secret = token.get_secret_value().partition(".")
    if not (dot and len(secret) >= _SHORTEST_SECRET and WORKER_NAME.fullmatch(own)):
        raise ConfigurationError(
            "That is not a worker's token.",
            advice=Hint.WORKER_TOKEN(),
        )
    if name is None:
        return own
    if not WORKER_NAME.fullmatch(name) or name.partition(".")[0] != own:
        raise ConfigurationError(
            f"The token is for a worker named {own}, not {name}.",
            advice=f"Use that name, or one like {own}.2; or make a token for the other name.",
        )
    return name


async def _all(works: Sequence[Coroutine[object, object, None]]) -> None:
    """Run until all have ended. One that fails ends alone, unless it would fail for all.

    Raises:
        ComfyRemoteError: All failed, or the token is not taken.
    """
    tasks = [asyncio.ensure_future(one) for one in works]
    try:
        failure: ComfyRemoteError | None = None
        ended = 0
        for task in asyncio.as_completed(tasks):
            try:
                await task
                ended += 1
            except AuthenticationError:
                raise
            except ComfyRemoteError as error:
                failure = error
                if len(tasks) > 1:
                    _log.error("A worker has ended. %s", error)
        if failure is not None and not ended:
            raise failure
    finally:
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
