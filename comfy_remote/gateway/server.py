"""The gateway as a server: start it, give it workers, stop it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import ssl
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path

from aiohttp import web
from pydantic import SecretStr

from ..aio import first_of, in_thread
from ..errors import (
    ComfyRemoteError,
    ConfigurationError,
    JobNotFound,
    LocalStorageError,
)
from ..media.temporary import TemporaryFolder, remove_leftovers
from ..net.address import is_loopback
from ..net.serving import GuardedRunner
from ..secrets import SECRETS
from ..wire.runpod import check_endpoint_id
from . import webhook
from .access import Access, refusals
from .client_routes import client_routes
from .clock import AwakeTime
from .earlier_process import give_up_lost_starts
from .endpoint import LocalEndpoint
from .files import FileStore
from .job import Job
from .joined import JoinedWorkers
from .joined_routes import joined_routes
from .journal import Journal
from .limits import GatewayLimits
from .listening import check_token, in_url, listen
from .local_worker import AskEngine, Handler, LocalWorker
from .queue import JobQueue
from .queue_events import JobEnded, QueueEvent, Watch, ignore_event
from .sdk_worker import SdkWorker, worker_command
from .seen.control import QueueControl
from .seen.routes import page_routes
from .seen.shown import Shown
from .seen.state import GatewayState, read_state
from .upload_routes import upload_routes
from .worker_routes import worker_routes
from .workers import WorkerKind

__all__ = ["GatewayServer"]

_SWEEP_INTERVAL = 0.5
_WEBHOOKS_AT_A_TIME = 4
_STOP_PATIENCE = 5.0
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
        folder: Where all that it promises is stored. The next gateway with the same folder goes on
            from there; see docs/serve.md. A temporary folder when ``None``.
        metrics_token: What may read the metrics besides ``token``, and nothing else.
        webhook_secret: ``whsec_…``, to sign webhooks with; see `webhook.webhook_key`.
        on_event: Called with what happens to jobs and workers; see `queue_events`.

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
        folder: Path | None = None,
        metrics_token: SecretStr | None = None,
        webhook_secret: SecretStr | None = None,
        on_event: Watch = ignore_event,
    ) -> None:
        check_endpoint_id(endpoint_id)
        check_token(host, token)
        if metrics_token is not None:
            check_token(host, metrics_token)
            if metrics_token == token:
                raise ConfigurationError(
                    "The token for the metrics is the clients' token, so it could do everything.",
                    advice="Make one of its own for the metrics.",
                )
        self._webhook_key = webhook.webhook_key(webhook_secret) if webhook_secret else None
        self.endpoint_id = endpoint_id
        self.limits = limits or GatewayLimits()
        self.worker_token = SecretStr(secrets.token_urlsafe(32))
        SECRETS.add("the worker's token", self.worker_token.get_secret_value())
        self._temporary: TemporaryFolder | None = None
        if folder is None:
            self._temporary = TemporaryFolder("gateway")
            folder = Path(self._temporary.name, "endpoint")
        self.folder = folder
        self._failure: ComfyRemoteError | None = None
        self._worker_failed = asyncio.Event()
        self.journal = Journal(
            folder, key_retention=self.limits.key_retention, monotonic=AwakeTime()
        )
        self.files = FileStore(folder / "files", self.limits, self.journal)
        self.queue = JobQueue(
            self.limits,
            self.journal,
            clock=self.journal.clock,
            on_event=self._happened,
        )
        self.endpoint = LocalEndpoint(self.queue, self.files)
        self._on_event = on_event
        self._shown = Shown(self._state)
        self.joined = JoinedWorkers(self.endpoint, self.journal)
        self._webhooks = asyncio.Semaphore(_WEBHOOKS_AT_A_TIME)
        self._host = host
        self._port = port
        self._token = token
        self._metrics_token = metrics_token
        self._ssl_context = ssl_context
        self._runner: GuardedRunner | None = None
        self._applications: dict[str, web.Application] = {}
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
        return f"{self.local_url}/{self.endpoint_id}"

    @property
    def local_url(self) -> str:
        """`url`, as this machine reaches it: plain HTTP on loopback."""
        return self._worker_url

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return 0 if self._runner is None else self._runner.connections

    def add_application(self, path: str, application: web.Application) -> None:
        """Serve an application below a path that is not the gateway's. It has a guard of its own.

        Before `start`.
        """
        self._applications[path] = application

    async def __aenter__(self) -> GatewayServer:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Restore what the folder has, and listen.

        Raises:
            ConfigurationError: Another gateway has the folder; or the address or port cannot be
                used, with what to do.
            LocalStorageError: The folder cannot be used.
        """
        await asyncio.to_thread(remove_leftovers)
        recovered = await in_thread(self.journal.open)
        try:
            await in_thread(self.files.open)
            self.queue.restore(recovered.live)
            await self.joined.read_words()
            if self.joined.notes.any_expected:
                self.queue.expect_workers()
            await self._shown.recall(self.journal.last_ended)
            await self._listen()
        except BaseException:
            await self.journal.close()
            raise
        for waiting in give_up_lost_starts(self.queue):
            self._start_task(waiting)
        self._start_task(self._sweep())
        for job_id in recovered.owed:
            self._start_task(self._deliver_late(job_id))

    async def _listen(self) -> None:
        access = Access(
            endpoint_id=self.endpoint_id,
            client_token=self._token,
            worker_token=self.worker_token,
            metrics_token=self._metrics_token,
            limits=self.limits,
        )
        app = web.Application(middlewares=[refusals])
        app.add_routes(client_routes(self.endpoint, access, takes_files=True))
        app.add_routes(upload_routes(self.files, access, self.limits))
        app.add_routes(worker_routes(self.endpoint, access))
        app.add_routes(page_routes(self._shown, QueueControl(self.queue, self.joined), access))
        app.add_routes(joined_routes(self.endpoint, self.joined, access))
        for path, application in self._applications.items():
            app.add_subapp(path, application)
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

    async def stop(self) -> None:
        """Stop the workers, then stop listening. What their jobs were doing waits again."""
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
        await self.queue.settle(_STOP_PATIENCE)
        await self.journal.close()
        if self._temporary is not None:
            await asyncio.to_thread(self._temporary.cleanup)

    def add_local_worker(
        self,
        handler: Handler,
        *,
        worker_id: str = "local",
        kind: WorkerKind = WorkerKind.LOCAL,
        ask_engine: AskEngine | None = None,
    ) -> LocalWorker:
        """Run jobs in this process, one at a time.

        Args:
            kind: `WorkerKind.URL` for an engine that goes on when this process ends.
            ask_engine: Asks the engine what it has; jobs are placed by that.
        """
        worker = LocalWorker(
            self.endpoint, handler, worker_id=worker_id, kind=kind, ask_engine=ask_engine
        )
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
            with contextlib.suppress(LocalStorageError):  # the journal has said so, and tries again
                await self.journal.look_after()
                await self.joined.read_words()
                while (await self.journal.expire(self.journal.clock())).more:
                    pass  # some hundreds at a time, so that promises are written between them
                await self.files.look_after()

    def _happened(self, event: QueueEvent) -> None:
        self._shown.on_event(event)
        self._on_event(event)
        if isinstance(event, JobEnded) and event.job.owed:
            self._start_task(self._deliver(event.job))

    def _state(self) -> GatewayState:
        return read_state(self.endpoint_id, self.queue, self.files)

    async def _deliver_late(self, job_id: str) -> None:
        """Call the webhook of a job that ended before this process began."""
        job = await self.queue.owed(job_id)
        if job is not None:
            await self._deliver(job)

    async def _deliver(self, job: Job) -> None:
        finished = job.finished
        # Few at a time: each has a whole result in memory.
        async with self._webhooks:
            if not job.owed or job.webhook is None or job.finished != finished:
                return  # it was retried meanwhile
            try:
                body = await self.endpoint.whole_status(job)
            except (OSError, JobNotFound) as error:
                _log.error("The webhook of job %s is not called: %s.", job.id, error)
            else:
                await webhook.deliver(
                    job.webhook,
                    body,
                    guard=webhook.webhook_guard(self.limits),
                    retry_delay=self.limits.webhook_retry_delay,
                    # The same after a restart, and another if the job was retried and ends again.
                    message_id=f"{job.id}.{round((finished or 0.0) * 1000)}",
                    key=self._webhook_key,
                )
            self.queue.webhook_called(job, finished)

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
