"""HTTP: the queue and the history as one list of jobs, as ComfyUI 0.5 and later have it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web
from pydantic import JsonValue

from .engine import ENGINE, Engine
from .prompt_queue import QueuedPrompt

__all__ = ["routes"]

JOB_STATES = ("pending", "in_progress", "completed", "failed", "cancelled")

_ENDINGS = ("execution_success", "execution_error", "execution_interrupted")
_PREVIEWABLE = ("images", "video", "audio", "3d", "text")


@dataclass(frozen=True, slots=True)
class Job:
    """One job of the list. Times are milliseconds since 1970, 0 when unknown."""

    id: str
    status: str
    priority: float
    create_time: int
    workflow_id: str | None
    facts: Mapping[str, object]

    @property
    def duration(self) -> int:
        """How long it ran, in milliseconds; 0 before its end."""
        start, end = self.facts.get("execution_start_time"), self.facts.get("execution_end_time")
        return end - start if isinstance(start, int) and isinstance(end, int) else 0

    def to_json(self, entry: Mapping[str, object] | None = None) -> dict[str, object]:
        """The job as the list has it; in full with its ``entry`` of the history."""
        described: dict[str, object] = {
            "id": self.id,
            "status": self.status,
            "priority": self.priority,
            "create_time": self.create_time,
            "workflow_id": self.workflow_id,
            **self.facts,
        }
        if entry is not None:
            _, _, prompt, extra_data, _ = _prompt_of(entry)
            described["outputs"] = entry.get("outputs")
            described["execution_status"] = entry.get("status")
            described["workflow"] = {"prompt": prompt, "extra_data": extra_data}
        return {key: value for key, value in described.items() if value is not None}


def queue_job(item: QueuedPrompt, status: str) -> Job:
    """A prompt that waits or runs."""
    return Job(
        item.prompt_id,
        status,
        item.number,
        _create_time(item.extra_data),
        _workflow_id(item.extra_data),
        {"outputs_count": 0, "previewable_outputs_count": 0},
    )


def history_job(job_id: str, entry: Mapping[str, object]) -> Job:
    """A prompt that has run."""
    number, _, _, extra_data, _ = _prompt_of(entry)
    status = entry.get("status")
    status = status if isinstance(status, dict) else {}
    messages: dict[str, dict[str, JsonValue]] = dict(status.get("messages", []))
    state = "completed"
    if status.get("status_str") == "error":
        state = "cancelled" if "execution_interrupted" in messages else "failed"
    ending = next((messages[name] for name in _ENDINGS if name in messages), {})
    files = list(_files(entry.get("outputs")))
    previewable = [file for file in files if file["mediaType"] in _PREVIEWABLE]
    saved = [file for file in previewable if file.get("type") == "output"]
    return Job(
        job_id,
        state,
        number if isinstance(number, (int, float)) else 0,
        _create_time(extra_data),
        _workflow_id(extra_data),
        {
            "execution_start_time": messages.get("execution_start", {}).get("timestamp"),
            "execution_end_time": ending.get("timestamp"),
            "execution_error": messages.get("execution_error"),
            "outputs_count": len(files),
            "previewable_outputs_count": len(previewable),
            # A saved file says more about a job than a preview does.
            "preview_output": next(iter([*saved, *previewable]), None),
        },
    )


def _prompt_of(entry: Mapping[str, object]) -> Sequence[object]:
    prompt = entry["prompt"]
    if not isinstance(prompt, list):
        raise TypeError(f"The history keeps a list, not {type(prompt).__name__}")
    return prompt


def _files(outputs: object) -> Iterator[dict[str, JsonValue]]:
    if not isinstance(outputs, dict):
        return
    for node_id, output in outputs.items():
        for kind, files in (output if isinstance(output, dict) else {}).items():
            for file in files if isinstance(files, list) else []:
                if isinstance(file, dict):
                    yield {"mediaType": kind, **file, "nodeId": node_id}


def _create_time(extra_data: object) -> int:
    created = extra_data.get("create_time") if isinstance(extra_data, dict) else None
    return created if isinstance(created, int) else 0


def _workflow_id(extra_data: object) -> str | None:
    value: object = extra_data
    for key in ("extra_pnginfo", "workflow", "id"):
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


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
    return web.json_response({"error": why}, status=400)
