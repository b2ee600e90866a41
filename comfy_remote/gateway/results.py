"""Inputs and results of jobs: small ones are in the queue, the others in the store."""

from __future__ import annotations

from pydantic import JsonValue

from ..errors import LocalStorageError, OutputTooLarge
from .body import json_bytes
from .job import Job
from .queue import JobQueue
from .store import JobStore

__all__ = ["finish", "input_of"]


async def input_of(store: JobStore, job: Job) -> bytes:
    """What the client sent, as JSON.

    Raises:
        LocalStorageError: It cannot be read (any more).
    """
    return job.input if job.input is not None else await store.read_input(job.id)


async def finish(
    queue: JobQueue,
    store: JobStore,
    job_id: str,
    worker_id: str,
    *,
    output: JsonValue,
    error: JsonValue,
) -> None:
    """End a job with what its worker gave: failed if there is an ``error``.

    Nothing happens when it comes too late: the job is not that worker's any more. A result that
    is too large, or cannot be stored, makes the job fail.
    """
    if not queue.is_running(job_id, worker_id):
        return
    limit = queue.get(job_id).result_limit
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
        queue.fail(job_id, worker_id, too_large)
        return
    failed = error is not None
    if queue.has_memory_for(content):
        queue.finish(job_id, worker_id, result=content, failed=failed)
        return
    try:
        name = await store.add_result(job_id, content)
    except LocalStorageError as full:
        queue.fail(job_id, worker_id, full)
        return
    if not queue.finish(job_id, worker_id, result=name, failed=failed):
        store.drop(job_id, name)
