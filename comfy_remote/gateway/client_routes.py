"""What clients ask: RunPod's endpoint operations."""

from __future__ import annotations

from aiohttp import web

from ..errors import OutputLost, WorkflowInvalid
from ..wire.runpod import IDEMPOTENCY_HEADER
from .access import Access, refusal
from .body import json_answer, read_limited
from .files import FileStore
from .job import Job, Submission
from .queue import JobQueue

__all__ = ["client_routes"]

_LONGEST_KEY = 255


def client_routes(queue: JobQueue, files: FileStore, access: Access) -> list[web.RouteDef]:
    """The routes of one endpoint's clients."""
    limits = queue.limits

    def job_of(request: web.Request) -> Job:
        return queue.get(request.match_info["job_id"])

    async def submit(request: web.Request, limit: int, *, sync: bool) -> Job:
        body = await read_limited(request, limit)
        submission = Submission.parse(body, limits)
        key = request.headers.get(IDEMPOTENCY_HEADER)
        if key is not None and not 0 < len(key) <= _LONGEST_KEY:
            raise WorkflowInvalid(f"{IDEMPOTENCY_HEADER} must have 1 to {_LONGEST_KEY} characters.")
        return queue.add(submission, sync=sync, idempotency_key=key)

    async def run(request: web.Request) -> web.Response:
        job = await submit(request, limits.run_bytes, sync=False)
        return json_answer({"id": job.id, "status": job.state.value})

    async def runsync(request: web.Request) -> web.Response:
        wait = _wait_of(request, limits.runsync_wait, limits.runsync_longest_wait)
        job = await submit(request, limits.runsync_bytes, sync=True)
        await queue.wait_until_final(job, wait)
        return json_answer(job.status())

    async def status(request: web.Request) -> web.Response:
        return json_answer(job_of(request).status())

    async def stream(request: web.Request) -> web.Response:
        job = job_of(request)
        return json_answer(
            {"id": job.id, "status": job.state.value, "stream": queue.take_stream(job)}
        )

    async def cancel(request: web.Request) -> web.Response:
        job = job_of(request)
        queue.cancel(job)
        return json_answer({"id": job.id, "status": job.state.value})

    async def retry(request: web.Request) -> web.Response:
        job = job_of(request)
        queue.retry(job)
        return json_answer({"id": job.id, "status": job.state.value})

    async def purge_queue(_request: web.Request) -> web.Response:
        return json_answer({"removed": queue.purge(), "status": "completed"})

    async def health(_request: web.Request) -> web.Response:
        response = json_answer(queue.health().model_dump(mode="json", by_alias=True))
        response.headers[IDEMPOTENCY_HEADER] = "supported"
        return response

    async def read_file(request: web.Request) -> web.StreamResponse:
        try:
            path = files.get(request.match_info["job_id"], request.match_info["sha256"])
        except OutputLost as error:
            return refusal(error, status=404)
        headers = {"Content-Type": "application/octet-stream", "Cache-Control": "private"}
        return web.FileResponse(path, headers=headers)

    base = "/v2/{endpoint}"
    guard = access.client
    return [
        web.post(f"{base}/run", guard(run)),
        web.post(f"{base}/runsync", guard(runsync)),
        web.get(f"{base}/status/{{job_id}}", guard(status)),
        web.post(f"{base}/status/{{job_id}}", guard(status)),
        web.get(f"{base}/stream/{{job_id}}", guard(stream)),
        web.post(f"{base}/stream/{{job_id}}", guard(stream)),
        web.post(f"{base}/cancel/{{job_id}}", guard(cancel)),
        web.post(f"{base}/retry/{{job_id}}", guard(retry)),
        web.post(f"{base}/purge-queue", guard(purge_queue)),
        web.get(f"{base}/health", guard(health)),
        web.get(f"{base}/files/{{job_id}}/{{sha256}}", guard(read_file)),
    ]


def _wait_of(request: web.Request, default: float, longest: float) -> float:
    given = request.query.get("wait")
    if given is None:
        return default
    try:
        seconds = int(given) / 1000
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= longest:
        raise WorkflowInvalid(f"?wait= must be 0 to {longest * 1000:.0f} (milliseconds).")
    return seconds
