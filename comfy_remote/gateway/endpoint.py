"""What the clients' routes need of an endpoint, and the one whose jobs are in this process."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from aiohttp import web
from pydantic import JsonValue

from ..wire.runpod import EndpointHealth
from .files import FileStore
from .job import Submission
from .limits import GatewayLimits
from .queue import JobQueue

__all__ = ["Endpoint", "LocalEndpoint", "Status"]

Status: TypeAlias = dict[str, JsonValue]
"""What ``/status`` answers: `wire.runpod.JobStatus`, without the keys that are empty."""


class Endpoint(Protocol):
    """An endpoint, as its clients know it. Of a job that is not known: `JobNotFound`."""

    @property
    def limits(self) -> GatewayLimits:
        """What it keeps to."""

    async def submit(
        self, submission: Submission, *, sync: bool, idempotency_key: str | None
    ) -> Status:
        """Take a job, or find the one that the same key brought before.

        Args:
            sync: Whether it came by ``/runsync``.

        Raises:
            RateLimited: Too many wait.
        """

    async def wait(self, job_id: str, timeout: float) -> Status:
        """The job's status once it is final, or after ``timeout`` seconds."""

    async def status(self, job_id: str) -> Status:
        """The job's status now."""

    async def stream(self, job_id: str) -> list[JsonValue]:
        """Chunks that have come since the last call."""

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


class LocalEndpoint:
    """A queue in this process, and the files beside it."""

    def __init__(self, queue: JobQueue, files: FileStore) -> None:
        self._queue = queue
        self._files = files

    @property
    def limits(self) -> GatewayLimits:
        """See `Endpoint.limits`."""
        return self._queue.limits

    async def submit(
        self, submission: Submission, *, sync: bool, idempotency_key: str | None
    ) -> Status:
        """See `Endpoint.submit`."""
        return self._queue.add(submission, sync=sync, idempotency_key=idempotency_key).status()

    async def wait(self, job_id: str, timeout: float) -> Status:
        """See `Endpoint.wait`."""
        job = self._queue.get(job_id)
        await self._queue.wait_until_final(job, timeout)
        return job.status()

    async def status(self, job_id: str) -> Status:
        """See `Endpoint.status`."""
        return self._queue.get(job_id).status()

    async def stream(self, job_id: str) -> list[JsonValue]:
        """See `Endpoint.stream`."""
        return self._queue.take_stream(self._queue.get(job_id))

    async def cancel(self, job_id: str) -> Status:
        """See `Endpoint.cancel`."""
        job = self._queue.get(job_id)
        self._queue.cancel(job)
        return job.status()

    async def retry(self, job_id: str) -> Status:
        """See `Endpoint.retry`."""
        job = self._queue.get(job_id)
        self._queue.retry(job)
        return job.status()

    async def purge(self) -> int:
        """See `Endpoint.purge`."""
        return self._queue.purge()

    async def health(self) -> EndpointHealth:
        """See `Endpoint.health`."""
        return self._queue.health()

    async def file(self, request: web.Request, job_id: str, sha256: str) -> web.StreamResponse:
        """See `Endpoint.file`."""
        del request
        headers = {"Content-Type": "application/octet-stream", "Cache-Control": "private"}
        return web.FileResponse(self._files.get(job_id, sha256), headers=headers)
