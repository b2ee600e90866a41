"""The gateway as a server: start it, give it workers, stop it."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import ssl
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path

from aiohttp import web
from pydantic import SecretStr

from ..aio import first_of
from ..errors import ComfyRemoteError, ConfigurationError
from ..media.temporary import remove_leftovers
from ..net.address import is_loopback
from ..net.serving import GuardedRunner
from ..secrets import SECRETS
from . import webhook
from .access import Access, refusals
from .client_routes import client_routes
from .endpoint import LocalEndpoint
from .job import Job
from .limits import GatewayLimits
from .listening import check_token, in_url, listen
from .local_worker import Handler, LocalWorker
from .queue import JobQueue
from .sdk_worker import SdkWorker, worker_command
from .store import JobStore
from .worker_routes import worker_routes

__all__ = ["GatewayServer"]

_ENDPOINT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SWEEP_INTERVAL = 0.5
_WEBHOOKS_AT_A_TIME = 4
_log = logging.getLogger(__name__)


class GatewayServer:
    """One endpoint over HTTP. Used as an asynchronous context manager::

        async with GatewayServer(endpoint_id="desk", port=8000) as gateway:
            gateway.add_local_worker(handler)

    Args:
        endpoint_id: 1 to 64 letters, digits, ``-`` and ``_``.
        host: Name or address to listen on. Anything but loopback needs a token.
        port: 0 picks a free one.
        token: What clients must send as bearer token; at least 16 characters.
        files_folder: Where inputs, results and large outputs are stored; a temporary folder when
            ``None``.
        webhook_secret: ``whsec_…``, to sign webhooks with; see `webhook.webhook_key`.

    Raises:
        ConfigurationError: The arguments do not go together, with what to do.
    """

    def __init__(
        self,
        *,
        endpoint_id: str = "local",
        host: str = "127.0.0.1",
        port: int = 0,
        token: SecretStr | None = None,
        limits: GatewayLimits | None = None,
        ssl_context: ssl.SSLContext | None = None,
        files_folder: Path | None = None,
        webhook_secret: SecretStr | None = None,
    ) -> None:
        _check(endpoint_id, host, token)
        self._webhook_key = webhook.webhook_key(webhook_secret) if webhook_secret else None
        self.endpoint_id = endpoint_id
        self.limits = limits or GatewayLimits()
        self.worker_token = SecretStr(secrets.token_urlsafe(32))
        SECRETS.add("the worker's token", self.worker_token.get_secret_value())
        self._files_folder = files_folder
        self._failure: ComfyRemoteError | None = None
        self._worker_failed = asyncio.Event()
        self.store = JobStore(self.limits, files_folder)
        self.queue = JobQueue(
            self.limits, on_final=self._ended, on_forget=lambda job: self.store.forget(job.id)
        )
        self.endpoint = LocalEndpoint(self.queue, self.store)
        self._webhooks = asyncio.Semaphore(_WEBHOOKS_AT_A_TIME)
        self._host = host
        self._port = port
        self._token = token
        self._ssl_context = ssl_context
        self._runner: GuardedRunner | None = None
        self._url = self._worker_url = ""
        self._workers: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """``http://HOST:PORT/v2``: used instead of ``https://api.runpod.ai/v2``."""
        return self._url

    @property
    def endpoint_url(self) -> str:
        """`url` and the endpoint's id."""
        return f"{self._url}/{self.endpoint_id}"

    @property
    def worker_endpoint_url(self) -> str:
        """The same, as workers on this machine reach it: plain HTTP on loopback."""
        return f"{self._worker_url}/{self.endpoint_id}"

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return 0 if self._runner is None else self._runner.connections

    async def __aenter__(self) -> GatewayServer:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: The address or port cannot be used, with what to do.
        """
        await asyncio.to_thread(remove_leftovers, self._files_folder)
        await self.store.look_after()
        access = Access(
            endpoint_id=self.endpoint_id,
            client_token=self._token,
            worker_token=self.worker_token,
            limits=self.limits,
        )
        app = web.Application(middlewares=[refusals])
        app.add_routes(client_routes(self.endpoint, access))
        app.add_routes(worker_routes(self.endpoint, access))
        # Cancelled handlers are how a worker that hangs up in a long poll is noticed.
        self._runner = GuardedRunner(
            app, handler_cancellation=True, shutdown_timeout=2.0, limits=self.limits.connections
        )
        await self._runner.setup()
        try:
            port = await listen(self._runner, self._host, self._port, self._ssl_context)
            scheme = "http" if self._ssl_context is None else "https"
            self._url = f"{scheme}://{in_url(self._host)}:{port}/v2"
            self._worker_url = self._url
            if self._ssl_context is not None or not is_loopback(self._host):
                inner = await listen(self._runner, "127.0.0.1", 0, None)
                self._worker_url = f"http://127.0.0.1:{inner}/v2"
        except BaseException:
            await self._runner.cleanup()
            raise
        self._start_task(self._sweep())

    async def stop(self) -> None:
        """Stop the workers, then stop listening. Jobs and files are gone afterwards."""
        for task in self._workers:
            task.cancel()
        # The SDK ends only when its long polls have been answered.
        await asyncio.sleep(0)
        self.queue.close()
        await asyncio.gather(*self._workers, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await asyncio.to_thread(self.store.close)

    def add_local_worker(self, handler: Handler, *, worker_id: str = "local") -> LocalWorker:
        """Run jobs in this process, one at a time."""
        worker = LocalWorker(self.endpoint, handler, worker_id=worker_id)
        self._start_worker(worker.run())
        return worker

    def add_sdk_worker(
        self, command: Sequence[str] | None = None, *, environment: Mapping[str, str] | None = None
    ) -> SdkWorker:
        """Run jobs in a process of their own that uses the RunPod SDK.

        Args:
            command: What to start; our own worker, with the engine it finds, when ``None``.
        """
        worker = SdkWorker(
            self.queue,
            endpoint_url=self.worker_endpoint_url,
            endpoint_id=self.endpoint_id,
            token=self.worker_token,
            command=command or worker_command(),
            environment=environment,
        )
        self._start_worker(worker.run())
        return worker

    async def wait_until_ready(self, timeout: float) -> bool:
        """Wait until a worker asks for jobs; whether one did within ``timeout`` seconds.

        Raises:
            ComfyRemoteError: A worker has ended for good; see `wait_until_failed`.
        """
        waiting = self.queue.workers.wait_until_ready(timeout)
        async with first_of(waiting, self.wait_until_failed()) as (ready, failed):
            if failed.done():
                failed.result()
            return bool(await ready)

    async def wait_until_failed(self) -> None:
        """Wait until a worker has failed for good.

        Raises:
            ConfigurationError: One of its settings is wrong.
            ComfyRemoteError: It could not begin.
        """
        await self._worker_failed.wait()
        if self._failure is not None:
            raise self._failure

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_INTERVAL)
            self.queue.sweep()
            await self.store.look_after()

    def _ended(self, job: Job) -> None:
        if not job.may_be_retried:
            self.store.drop(job.id)
        if job.webhook is not None:
            self._start_task(self._deliver(job.webhook, job))

    async def _deliver(self, address: str, job: Job) -> None:
        # Few at a time: each has a whole result in memory.
        async with self._webhooks:
            try:
                await webhook.deliver(
                    address,
                    await self.endpoint.whole_status(job),
                    guard=webhook.webhook_guard(self.limits),
                    retry_delay=self.limits.webhook_retry_delay,
                    message_id=job.id,
                    key=self._webhook_key,
                )
            finally:
                job.owed = False

    def _start_task(self, work: Coroutine[object, object, None]) -> None:
        _start(work, self._tasks)

    def _start_worker(self, work: Coroutine[object, object, None]) -> None:
        async def watched() -> None:
            try:
                await work
            except ComfyRemoteError as error:
                self._failure = error
                self._worker_failed.set()

        _start(watched(), self._workers)


def _start(work: Coroutine[object, object, None], tasks: set[asyncio.Task[None]]) -> None:
    def ended(task: asyncio.Task[None]) -> None:
        tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("A task of the gateway failed.", exc_info=error)

    task = asyncio.get_running_loop().create_task(work)
    tasks.add(task)
    task.add_done_callback(ended)


def _check(endpoint_id: str, host: str, token: SecretStr | None) -> None:
    if not _ENDPOINT_ID.fullmatch(endpoint_id):
        raise ConfigurationError(
            f"{endpoint_id!r} cannot be the id of an endpoint.",
            advice="Use 1 to 64 letters, digits, - and _.",
        )
    check_token(host, token)
