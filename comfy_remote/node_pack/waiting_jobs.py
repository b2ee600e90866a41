"""Jobs that wait on their target, shown by ComfyUI's own routes as pending and not as running.

A remote job is among ComfyUI's running prompts from the start, since its queue's own worker would
take it from the pending ones (see `lane`). A page reads the difference off these answers: what
*Clear queue* would stop, how many run, whether anything waits.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..types import JsonValue, as_list, mapping

__all__ = ["STATES", "WAITING_AND_RUNNING", "job_shown", "jobs_shown", "queue_shown"]

PENDING, RUNNING = "pending", "in_progress"
WAITING_AND_RUNNING = frozenset({PENDING, RUNNING})
STATES = ("pending", "in_progress", "completed", "failed", "cancelled")
"""What ``GET /api/jobs`` filters by."""


def queue_shown(queue: Mapping[str, JsonValue], waiting: Collection[str]) -> dict[str, JsonValue]:
    """The answer to ``GET /queue``, with the jobs named among the pending ones."""
    running, pending = as_list(queue.get("queue_running")), as_list(queue.get("queue_pending"))
    moved = [item for item in running if _id_of(item) in waiting]
    return {
        **queue,
        "queue_running": [item for item in running if _id_of(item) not in waiting],
        "queue_pending": [*moved, *pending],
    }


def job_shown(job: JsonValue, waiting: Collection[str]) -> JsonValue:
    """One job as ``GET /api/jobs`` describes it."""
    fields = mapping(job)
    if fields.get("status") == RUNNING and fields.get("id") in waiting:
        return {**fields, "status": PENDING}
    return job


def jobs_shown(
    answer: Mapping[str, JsonValue],
    waiting: Collection[str],
    *,
    states: Collection[str],
    limit: int | None,
    offset: int,
) -> dict[str, JsonValue]:
    """The answer to ``GET /api/jobs``, from one with all running and all pending jobs in it.

    Args:
        states: Those that were asked for.
        limit: How many were asked for; ``None`` for all.
        offset: From which on.
    """
    shown = [job_shown(job, waiting) for job in as_list(answer.get("jobs"))]
    jobs = [job for job in shown if mapping(job).get("status") in states]
    page = jobs[offset:][:limit]
    return {
        **answer,
        "jobs": page,
        "pagination": {
            "offset": offset,
            "limit": limit,
            "total": len(jobs),
            "has_more": offset + len(page) < len(jobs),
        },
    }


def _id_of(item: JsonValue) -> str:
    """Of a prompt as ``GET /queue`` lists it: ``[number, id, prompt, …]``."""
    return str(item[1]) if isinstance(item, list) and len(item) > 1 else ""
