"""A worker inside the gateway's own process."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from pydantic import JsonValue

from ..aio import first_of, in_thread, within
from ..errors import ComfyRemoteError, LocalStorageError, OutputLost
from ..media.files import link_or_copy, storage_errors
from ..media.receive import Received, file_chunks
from ..net.retry import Backoff
from ..wire.joined import Report as EngineReport
from ..worker.loop import Handler, Report, TakenJob, work
from ..worker.storage import StoredFile
from .body import json_bytes
from .endpoint import LocalEndpoint
from .job import Lease
from .needs import offer_of
from .offers import Offer
from .workers import WorkerKind

__all__ = ["AskEngine", "Handler", "LocalFiles", "LocalWorker", "Report"]

AskEngine: TypeAlias = Callable[[], Awaitable[EngineReport]]
"""Asks the engine, which runs, what it has."""

_POLL = 30.0
_ASK_PATIENCE = 60.0
_ASK_AGAIN_AFTER = 300.0
_BACKOFF = Backoff(first=1.0, longest=60.0)
_log = logging.getLogger(__name__)


class LocalWorker:
    """A `worker.loop.JobSource`: jobs of an endpoint in this process.

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
        self.worker_id = worker_id
        boot = f"{kind.value}:{uuid.uuid4().hex}"
        self._worker = self._queue.workers.register(worker_id, kind, boot, Offer())
        self._ask_engine = ask_engine
        self._ask_again_after = ask_again_after
        self._asked = False
        self._lease: Lease | None = None

    async def run(self) -> None:
        """Work until cancelled, or until the queue is closed.

        Raises:
            ConfigurationError: The handler cannot get ready, and never will.
        """
        working = work(self, self._handler, backoff=_BACKOFF)
        async with first_of(working, self._keep_asking()) as (ended, _):
            ended.result()

    # What the loop asks for

    @property
    def closed(self) -> bool:
        """Whether there are no more jobs."""
        return self._queue.closed

    async def take(self) -> TakenJob | None:
        """The next job; ``None`` if there is none yet."""
        self._worker.broken = ""
        if not self._asked:
            await self._ask()
        try:
            given = await self._endpoint.take(self.worker_id, wait=_POLL)
        except LocalStorageError as error:
            _log.error("The worker takes no job. %s", error)
            await asyncio.sleep(_BACKOFF.seconds(1))
            return None
        for one in given:
            self._lease = one.lease
            return TakenJob(one.lease.job.id, one.lease.attempt, one.content)
        return None

    async def progress(self, job: TakenJob, snapshot: dict[str, JsonValue]) -> None:
        """Show a snapshot while the job runs."""
        shown = json_bytes({"output": snapshot})
        self._queue.progress(job.id, self.worker_id, shown, attempt=job.attempt)

    async def stopped(self, job: TakenJob) -> None:
        """Wait until the job is to be stopped."""
        workers = self._queue.workers
        while not self._queue.closed:
            if job.id in await workers.take_stops(self.worker_id, wait=_POLL):
                return

    async def dropped(self, job: TakenJob) -> None:
        """The job has ended here: it was cancelled, or the gateway is being stopped."""
        if self._queue.closed:
            await self.put_back(job)

    async def finish(self, job: TakenJob, *, output: JsonValue, error: JsonValue) -> None:
        """End the job."""
        # Not awaited until it is on disk: the next job's lease goes there with it.
        await self._endpoint.finish(
            job.id, self.worker_id, output=output, error=error, attempt=job.attempt
        )

    async def fail(self, job: TakenJob, error: ComfyRemoteError) -> None:
        """End the job with one of our errors."""
        self._queue.fail(job.id, self.worker_id, error, attempt=job.attempt)

    async def put_back(self, job: TakenJob) -> None:
        """Whoever ends this worker ends its engine's run with it: another may do the job."""
        del job
        if self._lease is not None:
            self._queue.put_back([self._lease], "The gateway was stopped.")

    def not_ready(self, error: ComfyRemoteError) -> None:
        """Show why no job is taken."""
        self._worker.broken = error.message
        self._worker.offer = replace(self._worker.offer, warm=frozenset())
        self._asked = False

    # What the engine has

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


class LocalFiles:
    """`worker.storage.Store` and `worker.storage.InputStore` of a local worker: nothing of its
    files goes over HTTP.
    """

    public = False

    def __init__(self, endpoint: LocalEndpoint) -> None:
        self._endpoint = endpoint

    async def put(self, job_id: str, filename: str, file: Received) -> StoredFile:
        """Store an output of a job that runs.

        Raises:
            ComfyRemoteError: As `LocalEndpoint.add_output`.
        """
        del filename
        await self._endpoint.add_output(job_id, file.sha256, file_chunks(file.path))
        return StoredFile(url=f"files/{job_id}/{file.sha256}")

    async def fetch(self, job_id: str, sha256: str, path: Path) -> bool:
        """Put an input of a job that runs at ``path``: a link to the stored file, which nobody
        changes, or a copy on another disk.
        """
        job = self._endpoint.queue.live.get(job_id)
        if job is None or sha256 not in job.input_files:
            return False
        try:
            stored = self._endpoint.files.path(sha256)
        except OutputLost:
            return False
        with storage_errors(path):
            await in_thread(link_or_copy, stored, path)
        return True
