"""HTTP: the queue and the history as one list of jobs, as ComfyUI 0.5 and later have it."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web
from pydantic import JsonValue

from .engine import ENGINE, Engine
from .job_listing import JOB_STATES, Job, history_job, queue_job

__all__ = ["routes"]

_SORT_FIELDS = ("created_at", "execution_duration")

routes = web.RouteTableDef()


@routes.get("/jobs")
async def get_jobs(request: web.Request) -> web.Response:
    """A page of the jobs: ``status``, ``workflow_id``, ``sort_by``, ``limit``, ``offset``."""
    query = request.query
    states = [word.strip().lower() for word in query.get("status", "").split(",") if word.strip()]
    sort_by = query.get("sort_by", "created_at").lower()
    try:
        limit = int(query["limit"]) if "limit" in query else None
        offset = max(0, int(query.get("offset", "0")))
    except ValueError:
        return _refused("limit and offset must be integers")
    if limit is not None and limit <= 0:
        return _refused("limit must be a positive integer")
    if unknown := [state for state in states if state not in JOB_STATES]:
        return _refused(f"Invalid status value(s): {', '.join(unknown)}")
    if sort_by not in _SORT_FIELDS:
        return _refused(f"sort_by must be one of {', '.join(_SORT_FIELDS)}")
    jobs = [
        job
        for job in _all_jobs(request.app[ENGINE])
        if (not states or job.status in states)
        and ("workflow_id" not in query or job.workflow_id == query["workflow_id"])
    ]
    jobs.sort(
        key=lambda job: job.duration if sort_by == "execution_duration" else job.create_time,
        reverse=query.get("sort_order", "desc").lower() == "desc",
    )
    page = jobs[offset:][:limit]
    return web.json_response(
        {
            "jobs": [job.to_json() for job in page],
            "pagination": {
                "offset": offset,
                "limit": limit,
                "total": len(jobs),
                "has_more": offset + len(page) < len(jobs),
            },
        }
    )


@routes.get("/jobs/{job_id}")
async def get_job(request: web.Request) -> web.Response:
    """One job, with its outputs and its workflow once it has ended."""
    engine, job_id = request.app[ENGINE], request.match_info["job_id"]
    if entry := engine.queue.history(job_id).get(job_id):
        return web.json_response(history_job(job_id, entry).to_json(entry))
    for job in _all_jobs(engine):
        if job.id == job_id:
            return web.json_response(job.to_json())
    return web.json_response({"error": "Job not found"}, status=404)


@routes.post("/jobs/{job_id}/cancel")
async def cancel_job(request: web.Request) -> web.Response:
    """Stop a job, whether it waits or runs. Nothing happens to one that has ended."""
    cancelled = _cancel(request.app[ENGINE], request.match_info["job_id"])
    return web.json_response({"cancelled": cancelled})


@routes.post("/jobs/cancel")
async def cancel_jobs(request: web.Request) -> web.Response:
    """``{"job_ids": [...]}``: stop several."""
    try:
        body = await request.json()
    except ValueError:
        return _refused("Request body must be valid JSON")
    ids = body.get("job_ids") if isinstance(body, dict) else None
    if not isinstance(ids, list) or not all(isinstance(job_id, str) for job_id in ids):
        return _refused("job_ids must be a list of strings")
    cancelled = [_cancel(request.app[ENGINE], job_id) for job_id in ids]
    return web.json_response({"cancelled": any(cancelled)})


def _all_jobs(engine: Engine) -> list[Job]:
    running, waiting = engine.queue.snapshot()
    return [
        *(queue_job(item, "in_progress") for item in running),
        *(queue_job(item, "pending") for item in waiting),
        *(history_job(job_id, entry) for job_id, entry in engine.queue.history().items()),
    ]


def _cancel(engine: Engine, job_id: str) -> bool:
    _, waiting = engine.queue.snapshot()
    engine.queue.delete([job_id])
    # It may have begun between the two; then it is interrupted.
    return engine.queue.interrupt_running(job_id) or any(i.prompt_id == job_id for i in waiting)


def _refused(why: str) -> web.Response:
    body: Mapping[str, JsonValue] = {"error": why}
    return web.json_response(body, status=400)
