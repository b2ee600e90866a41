"""What routes need of an endpoint, and the endpoint whose jobs are in this process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from aiohttp import web
from pydantic import JsonValue
from pydantic_core import to_json

from ..errors import LocalStorageError, OutputTooLarge
from ..wire.runpod import EndpointHealth
from .body import json_bytes
from .job import Job, Submission
from .limits import GatewayLimits
from .queue import JobQueue
from .store import JobStore

__all__ = ["Endpoint", "LocalEndpoint", "Status", "StoredStatus"]

Status: TypeAlias = dict[str, JsonValue]
"""What ``/status`` answers: `wire.runpod.JobStatus`, without the keys that are empty."""


@dataclass(frozen=True, slots=True)
class StoredStatus:
    """A status whose output is JSON already.

    Attributes:
        status: Its other keys.
        more: One JSON object with those of the output, or a file with it.
    """

    status: Status
    more: bytes | Path


def joined(first: bytes, second: bytes) -> bytes:
    """Two JSON objects as one. Not both may be empty."""
    return first if second == b"{}" else first[:-1] + b"," + second[1:]


class Endpoint(Protocol):
    """An endpoint, as its clients see it. Its methods raise `JobNotFound` for an unknown job."""

    @property
    def limits(self) -> GatewayLimits:
        """Its limits."""

    async def submit(
        self, submission: Submission, *, sync: bool, idempotency_key: str | None
    ) -> Status:
        """Take a job, or find the one that the same key brought before.

        Args:
            sync: Whether it came by ``/runsync``.

        Raises:
            RateLimited: Too many wait.
        """

    async def wait(self, job_id: str, timeout: float) -> Status | StoredStatus:
        """The job's status once it is final, or after ``timeout`` seconds."""

    async def status(self, job_id: str) -> Status | StoredStatus:
        """The job's status now."""

    async def stream(self, job_id: str) -> list[bytes]:
        """Chunks that have come since the last call, each as JSON."""

    async def cancel(self, job_id: str) -> Status:
        """End a job; one that is final stays as it is."""

    async def retry(self, job_id: str) -> Status:
        """Run a failed or timed-out job again, under the same id.

        Raises:
            WorkflowInvalid: It is in another state, or this endpoint keeps no jobs to run again.
        """

    async def purge(self) -> int:
        """Cancel all jobs that wait; how many there were."""

    async def health(self) -> EndpointHealth:
        """What ``/health`` answers."""

    async def file(self, request: web.Request, job_id: str, sha256: str) -> web.StreamResponse:
        """Answer with an output that was too large for the job's result.

        Raises:
            OutputLost: There is none.
        """


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """A queue in this process, and the files beside it.

    Small inputs and results are in the queue's records, the others in the store.
    """

    queue: JobQueue
    store: JobStore

    @property
    def limits(self) -> GatewayLimits:
        """See `Endpoint.limits`."""
        return self.queue.limits

    async def submit(
        self, submission: Submission, *, sync: bool, idempotency_key: str | None
    ) -> Status:
        """See `Endpoint.submit`."""
        if (known := self.queue.records.by_key(idempotency_key)) is not None:
            return known.status()
        self.queue.check_room()  # before anything is written
        job_id = self.queue.new_id(sync=sync)
        content = to_json(submission.input)
        limit = self.limits.runsync_bytes if sync else self.limits.run_bytes
        small = self.queue.records.has_memory_for(content)
        if small:
            self.store.check_room(limit)
        else:
            await self.store.accept(job_id, content, result=limit)
        try:
            job = self.queue.add(
                submission,
                job_id=job_id,
                content=content if small else None,
                sync=sync,
                idempotency_key=idempotency_key,
            )
        except BaseException:
            self.store.forget(job_id)
            raise
        if job.id != job_id:  # the same key has brought a job meanwhile
            self.store.forget(job_id)
        return job.status()

    async def wait(self, job_id: str, timeout: float) -> Status | StoredStatus:
        """See `Endpoint.wait`."""
        job = self.queue.records.get(job_id)
        await self.queue.wait_until_final(job, timeout)
        return self._status(self.queue.records.get(job_id))  # it may have gone meanwhile

    async def status(self, job_id: str) -> Status | StoredStatus:
        """See `Endpoint.status`."""
        return self._status(self.queue.records.get(job_id))

    async def stream(self, job_id: str) -> list[bytes]:
        """See `Endpoint.stream`."""
        return self.queue.records.take_stream(self.queue.records.get(job_id))

    async def cancel(self, job_id: str) -> Status:
        """See `Endpoint.cancel`."""
        job = self.queue.records.get(job_id)
        self.queue.cancel(job)
        return job.status()

    async def retry(self, job_id: str) -> Status:
        """See `Endpoint.retry`."""
        job = self.queue.records.get(job_id)
        before = job.result
        self.queue.retry(job)
        if before is not None:
            self.store.drop(job_id, before)
        return job.status()

    async def purge(self) -> int:
        """See `Endpoint.purge`."""
        return self.queue.purge()

    async def health(self) -> EndpointHealth:
        """See `Endpoint.health`."""
        return self.queue.health()

    async def file(self, request: web.Request, job_id: str, sha256: str) -> web.StreamResponse:
        """See `Endpoint.file`."""
        del request
        headers = {"Content-Type": "application/octet-stream", "Cache-Control": "private"}
        return web.FileResponse(self.store.file(job_id, sha256), headers=headers)

    async def input_of(self, job: Job) -> bytes:
        """What the client sent, as JSON.

        Raises:
            LocalStorageError: It cannot be read (any more).
        """
        return job.input if job.input is not None else await self.store.read_input(job.id)

    async def finish(
        self, job_id: str, worker_id: str, *, output: JsonValue, error: JsonValue
    ) -> None:
        """End a job with what its worker gave: failed if there is an ``error``.

        Nothing happens when it comes too late: the job is not that worker's any more. A result
        that is too large, or cannot be stored, makes the job fail.
        """
        if not self.queue.is_running(job_id, worker_id):
            return
        limit = self.queue.records.get(job_id).result_limit
        given: JsonValue = {
            key: value for key, value in (("output", output), ("error", error)) if value is not None
        }
        content = json_bytes(given)
        if len(content) > limit:
            too_large = OutputTooLarge(
                f"The job's result has {len(content)} bytes; an answer may have {limit}.",
                advice="Have the worker store large outputs instead of returning them inline.",
                details={"size": len(content), "limit": limit},
            )
            self.queue.fail(job_id, worker_id, too_large)
            return
        failed = error is not None
        if self.queue.records.has_memory_for(content):
            self.queue.finish(job_id, worker_id, result=content, failed=failed)
            return
        try:
            name = await self.store.add_result(job_id, content)
        except LocalStorageError as full:
            self.queue.fail(job_id, worker_id, full)
            return
        if not self.queue.finish(job_id, worker_id, result=name, failed=failed):
            self.store.drop(job_id, name)

    async def whole_status(self, job: Job) -> bytes:
        """What ``/status`` answers, as JSON."""
        found = self._status(job)
        more = found.more
        if isinstance(more, Path):
            more = await asyncio.to_thread(more.read_bytes)
        return joined(to_json(found.status), more)

    def _status(self, job: Job) -> StoredStatus:
        if job.result is not None:
            return StoredStatus(job.status(), self.store.result(job.id, job.result))
        return StoredStatus(job.status(), job.more)
