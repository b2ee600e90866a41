"""What routes need of an endpoint, and the endpoint whose jobs are in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from aiohttp import web
from pydantic import JsonValue
from pydantic_core import to_json

from ..errors import (
    JobNotFound,
    LocalStorageError,
    OutputCorrupt,
    OutputLost,
    OutputTooLarge,
    RateLimited,
    RequestTooLarge,
    ValueInvalid,
)
from ..wire.request import named_by_hash
from ..wire.runpod import STORE_LARGE_OUTPUTS, EndpointHealth, RunPodState
from .body import json_bytes
from .files import FileStore
from .job import Ending, Job, Lease, Submission
from .limits import GatewayLimits
from .needs import needs_of
from .offers import Needs
from .queue import JobQueue

__all__ = ["Endpoint", "GivenJob", "LocalEndpoint", "Status", "StoredStatus"]

_QUICKLY_READ = 16 * 1024  # bytes: a thread would take longer to begin
_FILES_IN_A_TURN = 100

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
class _Given:
    """What a submission brings, as JSON, and what it names.

    Attributes:
        files: The SHA-256 of files that were sent by themselves.
    """

    content: bytes
    needs: Needs
    files: list[str]


@dataclass(frozen=True, slots=True)
class GivenJob:
    """A job that a worker was given, and its input as JSON."""

    lease: Lease
    content: bytes


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """A queue in this process, and the files beside it.

    Small inputs and results are in the jobs' rows, the others in the store.
    """

    queue: JobQueue
    files: FileStore

    @property
    def limits(self) -> GatewayLimits:
        """See `Endpoint.limits`."""
        return self.queue.limits

    async def submit(
        self, submission: Submission, *, sync: bool, idempotency_key: str | None
    ) -> Status:
        """See `Endpoint.submit`."""
        try:
            job = await self._add(submission, sync=sync, idempotency_key=idempotency_key)
        except (RateLimited, LocalStorageError):
            # A client whose first answer was lost asks again: its job is here, and may run.
            known = await self.queue.by_key(idempotency_key)
            if known is None:
                raise
            job = known
        return job.status()

    async def _add(self, submission: Submission, *, sync: bool, idempotency_key: str | None) -> Job:
        limit = self.limits.runsync_bytes if sync else self.limits.run_bytes
        given = await self._read(submission)
        content: bytes | None = given.content
        input_file = None
        small = self.queue.live.has_memory_for(given.content)
        self.files.check_room(limit if small else limit + len(given.content))
        if not small:
            self.queue.check_room()  # before anything is written
            content, input_file = None, await self.files.put(given.content)
        return await self.queue.add(
            submission,
            content=content,
            input_file=input_file,
            # The worker may have those that are not here.
            input_files=await self._here(given.files),
            needs=given.needs,
            sync=sync,
            idempotency_key=idempotency_key,
        )

    async def _read(self, submission: Submission) -> _Given:
        def read() -> _Given:
            payload = submission.input
            return _Given(to_json(payload), needs_of(payload), named_by_hash(payload))

        return await asyncio.to_thread(read) if submission.size > _QUICKLY_READ else read()

    async def _here(self, files: Sequence[str]) -> frozenset[str]:
        """Those of the files that are in the store: they stay."""
        found: set[str] = set()
        for number, sha256 in enumerate(files, 1):
            if self.files.stays(sha256):
                found.add(sha256)
            if number % _FILES_IN_A_TURN == 0:
                await asyncio.sleep(0)
        return frozenset(found)

    async def wait(self, job_id: str, timeout: float) -> Status | StoredStatus:
        """See `Endpoint.wait`."""
        await self.queue.wait_until_final(job_id, timeout)
        return await self.status(job_id)

    async def status(self, job_id: str) -> Status | StoredStatus:
        """See `Endpoint.status`."""
        return self._status(await self.queue.get(job_id))

    async def stream(self, job_id: str) -> list[bytes]:
        """See `Endpoint.stream`."""
        return self.queue.take_stream(await self.queue.get(job_id))

    async def cancel(self, job_id: str) -> Status:
        """See `Endpoint.cancel`."""
        return (await self.queue.cancel(job_id)).status()

    async def retry(self, job_id: str) -> Status:
        """See `Endpoint.retry`."""
        job = await self.queue.retry(job_id)
        # A worker may have it by now.
        return {"id": job.id, "status": RunPodState.IN_QUEUE.value}

    async def purge(self) -> int:
        """See `Endpoint.purge`."""
        return await self.queue.purge()

    async def health(self) -> EndpointHealth:
        """See `Endpoint.health`."""
        return self.queue.health()

    async def file(self, request: web.Request, job_id: str, sha256: str) -> web.StreamResponse:
        """See `Endpoint.file`."""
        del request
        job = await self.queue.get(job_id)
        if sha256 not in job.output_files and sha256 not in job.input_files:
            raise OutputLost(
                f"There is no such file of job {job_id}.",
                advice="Files are stored as long as the job's result; run the job again.",
            )
        headers = {"Content-Type": "application/octet-stream", "Cache-Control": "private"}
        return web.FileResponse(self.files.path(sha256), headers=headers)

    # The worker's side

    async def take(self, worker_id: str, *, wait: float, count: int = 1) -> list[GivenJob]:
        """`JobQueue.take`, with the jobs' inputs. A job whose input cannot be read fails."""
        leases = await self.queue.take(worker_id, wait=wait, count=count)
        try:
            given = [(lease, await self._input_of(lease)) for lease in leases]
        except BaseException:
            self.queue.put_back(leases, "It did not reach the worker.")
            raise
        return [GivenJob(lease, content) for lease, content in given if content is not None]

    async def _input_of(self, lease: Lease) -> bytes | None:
        job = lease.job
        if job.input is not None:
            return job.input
        try:
            return await self.files.read(job.input_file or "")
        except (LocalStorageError, OutputLost) as error:
            unreadable = LocalStorageError(
                f"The input of job {job.id} cannot be read. {error.message}",
                advice="Submit the job again.",
            )
            self.queue.fail(job.id, lease.worker_id, unreadable, attempt=lease.attempt)
            return None

    async def add_output(
        self,
        job_id: str,
        sha256: str,
        chunks: AsyncIterator[bytes],
        *,
        worker_id: str | None = None,
        attempt: int | None = None,
    ) -> int:
        """Store an output that is too large for an answer; its size in bytes.

        Args:
            worker_id: Whose it must be; the worker that has the job when ``None``.

        Raises:
            JobNotFound: The job has ended, or is another worker's.
            OutputTooLarge: It, or all files together, are above the limit.
            OutputCorrupt: Its SHA-256 is another.
            OutputLost: That is no SHA-256.
            LocalStorageError: The disk is full or cannot be written.
        """
        ended = JobNotFound(f"Job {job_id} is not running here; its files are not stored.")
        job = self.queue.live.get(job_id)
        owner = worker_id or (job.worker_id if job is not None else None)
        if owner is None or not self.queue.takes_result(job_id, owner, attempt=attempt):
            raise ended
        try:
            size = await self.files.receive(sha256, chunks)
        except ValueInvalid as error:
            raise OutputCorrupt(error.message, advice=error.advice) from error
        except (RequestTooLarge, RateLimited) as error:
            raise OutputTooLarge(
                error.message,
                advice="Make the output smaller, run the job later, or raise the gateway's limit.",
            ) from error
        if not self.queue.add_output_file(job_id, owner, sha256, attempt=attempt):
            raise ended
        return size

    async def finish(
        self,
        job_id: str,
        worker_id: str,
        *,
        output: JsonValue,
        error: JsonValue,
        attempt: int | None = None,
        tries_again: bool = False,
    ) -> bool:
        """End a job with what its worker gave: failed if there is an ``error``.

        A result that is too large, or cannot be stored, makes the job fail. The end is on disk
        after `JobQueue.committed`.

        Args:
            tries_again: The worker has the result on its own disk, and delivers it later if it
                cannot be stored now.

        Returns:
            See `JobQueue.finish`.

        Raises:
            LocalStorageError: With ``tries_again``: it cannot be stored now.
        """
        queue = self.queue
        limit = self.limits.run_bytes
        if (job := queue.live.get(job_id)) is not None:
            limit = job.result_limit
        given: JsonValue = {
            key: value for key, value in (("output", output), ("error", error)) if value is not None
        }
        content = json_bytes(given)
        if len(content) > limit:
            too_large = OutputTooLarge(
                f"The job's result has {len(content)} bytes; an answer may have {limit}.",
                advice=STORE_LARGE_OUTPUTS,
                details={"size": len(content), "limit": limit},
            )
            return queue.fail(job_id, worker_id, too_large, attempt=attempt)
        failed = error is not None
        result: bytes | str = content
        if not queue.live.has_memory_for(content):
            if not queue.takes_result(job_id, worker_id, attempt=attempt):
                return False
            try:
                result = await self.files.put(content)
            except LocalStorageError as full:
                if tries_again:
                    raise
                return queue.fail(job_id, worker_id, full, attempt=attempt)
        return queue.finish(
            job_id,
            worker_id,
            result=result,
            attempt=attempt,
            failed=failed,
            ending=Ending.of(output, error),
        )

    async def whole_status(self, job: Job) -> bytes:
        """What ``/status`` answers, as JSON.

        Raises:
            OSError: The result cannot be read.
        """
        found = self._status(job)
        more = found.more
        if isinstance(more, Path):
            more = await asyncio.to_thread(more.read_bytes)
        return joined(to_json(found.status), more)

    def _status(self, job: Job) -> StoredStatus:
        if job.result is not None:
            try:
                return StoredStatus(job.status(), self.files.path(job.result))
            except OutputLost:
                raise JobNotFound(f"The result of job {job.id} has gone.") from None
        return StoredStatus(job.status(), job.more)
