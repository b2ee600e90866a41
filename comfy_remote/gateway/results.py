"""The end of a job: its result goes into the store, then the queue is told."""

from __future__ import annotations

import asyncio

from pydantic import JsonValue

from ..errors import LocalStorageError, OutputTooLarge
from .body import json_bytes
from .queue import JobQueue
from .store import JobStore

__all__ = ["finish"]


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
    content = await asyncio.to_thread(json_bytes, given)
    if len(content) > limit:
        too_large = OutputTooLarge(
            f"The job's result has {len(content)} bytes; an answer may have {limit}.",
            advice="Have the worker store large outputs instead of returning them inline.",
            details={"size": len(content), "limit": limit},
        )
        queue.fail(job_id, worker_id, too_large)
        return
    try:
        name = await store.add_result(job_id, content)
    except LocalStorageError as full:
        queue.fail(job_id, worker_id, full)
        return
    if not queue.finish(job_id, worker_id, result=name, failed=error is not None):
        store.drop(job_id, name)
