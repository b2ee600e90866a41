"""A worker inside the gateway's own process."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol, TypeAlias, runtime_checkable

from pydantic import JsonValue
from pydantic_core import from_json

from ..aio import first_of, within
from ..errors import (
    ComfyRemoteError,
    ConfigurationError,
    ExecutionFailed,
    LocalStorageError,
)
from ..net.retry import Backoff
from ..wire.joined import Report as EngineReport
from .body import json_bytes
from .endpoint import GivenJob, LocalEndpoint
from .needs import offer_of
from .placing import Offer
from .workers import WorkerKind

__all__ = ["AskEngine", "Handler", "LocalWorker", "Report"]

Report: TypeAlias = Callable[[dict[str, JsonValue]], Awaitable[None]]
"""Shows a dictionary as the job's ``output`` while it is in progress."""

AskEngine: TypeAlias = Callable[[], Awaitable[EngineReport]]
"""Asks the engine, which runs, what it has."""

_POLL = 30.0
_ASK_PATIENCE = 60.0
_ASK_AGAIN_AFTER = 300.0
_QUICKLY_PARSED = 16 * 1024  # bytes: a thread would take longer to begin
_BACKOFF = Backoff(first=1.0, longest=60.0)
_log = logging.getLogger(__name__)


class Handler(Protocol):
    """Runs jobs; `worker.handler.JobHandler` is one."""

    async def __call__(
        self, job_id: str, payload: JsonValue, report: Report
    ) -> dict[str, JsonValue]:
        """Run one job. Cancelled when the job is.

        Returns:
            What a RunPod handler returns: the job's output, and under ``error`` a string if it
            failed.
        """


@runtime_checkable
class GetsReady(Protocol):
    """A handler that has to get ready before it takes a job."""

    async def ready(self) -> None:
        """Wait until it can.

        Raises:
            ComfyRemoteError: It cannot.
        """


class LocalWorker:
    """Takes jobs from an endpoint, one after the other, and awaits a handler for each.

    A job is taken only when the handler is ready: until then it can go to another worker.

    Args:
        kind: `WorkerKind.URL` if the engine goes on without this process.
        ask_engine: For the placing of jobs: called before the first job, and again now and then,
            since jobs bring models and the engine's owner adds nodes.
        ask_again_after: Seconds between two times.
    """

    def __init__(
        self,
        endpoint: LocalEndpoint,
        handler: Handler,
        *,
        worker_id: str = "local",
        kind: WorkerKind = WorkerKind.LOCAL,
        ask_engine: AskEngine | None = None,
        ask_again_after: float = _ASK_AGAIN_AFTER,
    ) -> None:
        self._endpoint = endpoint
        self._queue = endpoint.queue
        self._handler = handler
        self._gets_ready = handler if isinstance(handler, GetsReady) else None  # asking takes long
        self.worker_id = worker_id
        boot = f"{kind.value}:{uuid.uuid4().hex}"
        self._worker = self._queue.workers.register(worker_id, kind, boot, Offer())
        self._ask_engine = ask_engine
        self._ask_again_after = ask_again_after
        self._asked = False

    async def run(self) -> None:
        """Work until cancelled, or until the queue is closed.

        Raises:
            ConfigurationError: The handler cannot get ready, and never will.
        """
        async with first_of(self._take_jobs(), self._keep_asking()) as (ended, _):
            ended.result()

    async def _take_jobs(self) -> None:
        while not self._queue.closed:
            await self._get_ready()
            if not self._asked:
                await self._ask()
            for given in await self._take():
                await self._run(given)

    async def _get_ready(self) -> None:
        failures = 0
        while self._gets_ready is not None:
            try:
                await self._gets_ready.ready()
                break
            except ConfigurationError:
                raise  # it would be no better the next time
            except ComfyRemoteError as error:
                self._worker.broken = error.message
                self._worker.offer = replace(self._worker.offer, warm=frozenset())
                self._asked = False
                _log.error("The worker takes no job. %s", error)
            failures += 1
            await asyncio.sleep(_BACKOFF.seconds(failures))
        self._worker.broken = ""

    async def _keep_asking(self) -> None:
        while True:
            await asyncio.sleep(self._ask_again_after)
            if self._asked:
                await self._ask()

    async def _ask(self) -> None:
        self._asked = True
        if self._ask_engine is None:
            return
        try:
            said = await within(self._ask_engine(), _ASK_PATIENCE)
        except (ComfyRemoteError, asyncio.TimeoutError) as error:
            _log.debug("The engine of %s does not say what it has: %s", self.worker_id, error)
            return
        self._worker.offer = replace(offer_of(said), warm=self._worker.offer.warm)
        self._worker.engine, self._worker.device = said.engine, said.device

    async def _take(self) -> list[GivenJob]:
        try:
            return await self._endpoint.take(self.worker_id, wait=_POLL)
        except LocalStorageError as error:
            _log.error("The worker takes no job. %s", error)
            await asyncio.sleep(_BACKOFF.seconds(1))
            return []

    async def _run(self, given: GivenJob) -> None:
        lease = given.lease
        try:
            async with first_of(self._work(given), self._stopped(lease.job.id)):
                pass
        except BaseException:
            # Whoever ends this worker ends its engine's run with it.
            self._queue.put_back([lease], "The gateway was stopped.")
            raise
        if self._queue.closed:
            self._queue.put_back([lease], "The gateway was stopped.")
        else:
            # Nothing, if the job has ended; else the handler gave up by itself.
            given_up = ExecutionFailed("The worker stopped before the job was done.")
            self._queue.fail(lease.job.id, self.worker_id, given_up, attempt=lease.attempt)

    async def _stopped(self, job_id: str) -> None:
        workers = self._queue.workers
        while not self._queue.closed:
            if job_id in await workers.take_stops(self.worker_id, wait=_POLL):
                return

    async def _work(self, given: GivenJob) -> None:
        job_id, attempt = given.lease.job.id, given.lease.attempt

        async def report(snapshot: dict[str, JsonValue]) -> None:
            shown = json_bytes({"output": snapshot})
            self._queue.progress(job_id, self.worker_id, shown, attempt=attempt)

        try:
            content = given.content
            large = len(content) > _QUICKLY_PARSED
            payload = await asyncio.to_thread(from_json, content) if large else from_json(content)
            result = dict(await self._handler(job_id, payload, report))
        except ComfyRemoteError as error:
            self._queue.fail(job_id, self.worker_id, error, attempt=attempt)
            return
        except Exception as error:  # noqa: BLE001  a job must not end the worker, as in the SDK
            _log.exception("The handler failed on job %s.", job_id)
            failure = ExecutionFailed(
                f"The worker failed: {type(error).__name__}: {error}",
                details={"exception_type": type(error).__name__},
            )
            self._queue.fail(job_id, self.worker_id, failure, attempt=attempt)
            return
        failed = result.pop("error", None) or None
        # For RunPod's workers. In here, the handler has already ended its engine, if need be.
        result.pop("refresh_worker", None)
        # Not awaited until it is on disk: the next job's lease goes there with it.
        await self._endpoint.finish(
            job_id, self.worker_id, output=result or None, error=failed, attempt=attempt
        )
