"""What clients ask: RunPod's endpoint operations."""

from __future__ import annotations

from aiohttp import web

from ..errors import OutputLost, WorkflowInvalid
from ..wire.runpod import IDEMPOTENCY_HEADER
from .access import Access, refusal
from .body import json_answer, read_limited
from .endpoint import Endpoint, Status
from .job import Submission

__all__ = ["client_routes"]

_LONGEST_KEY = 255


def client_routes(endpoint: Endpoint, access: Access) -> list[web.RouteDef]:
    """The routes of one endpoint's clients."""
    limits = endpoint.limits

    def job_id_of(request: web.Request) -> str:
        return request.match_info["job_id"]

    async def submit(request: web.Request, limit: int, *, sync: bool) -> Status:
        body = await read_limited(request, limit)
        submission = Submission.parse(body, limits)
        key = request.headers.get(IDEMPOTENCY_HEADER)
        if key is not None and not 0 < len(key) <= _LONGEST_KEY:
            raise WorkflowInvalid(f"{IDEMPOTENCY_HEADER} must have 1 to {_LONGEST_KEY} characters.")
        return await endpoint.submit(submission, sync=sync, idempotency_key=key)

    async def run(request: web.Request) -> web.Response:
        return json_answer(_brief(await submit(request, limits.run_bytes, sync=False)))

    async def runsync(request: web.Request) -> web.Response:
        wait = _wait_of(request, limits.runsync_wait, limits.runsync_longest_wait)
        job = await submit(request, limits.runsync_bytes, sync=True)
        return json_answer(await endpoint.wait(str(job["id"]), wait))

    async def status(request: web.Request) -> web.Response:
        return json_answer(await endpoint.status(job_id_of(request)))

    async def stream(request: web.Request) -> web.Response:
        job = await endpoint.status(job_id_of(request))
        chunks = await endpoint.stream(job_id_of(request))
        return json_answer({**_brief(job), "stream": chunks})

    async def cancel(request: web.Request) -> web.Response:
        return json_answer(_brief(await endpoint.cancel(job_id_of(request))))

    async def retry(request: web.Request) -> web.Response:
        return json_answer(_brief(await endpoint.retry(job_id_of(request))))

    async def purge_queue(_request: web.Request) -> web.Response:
        return json_answer({"removed": await endpoint.purge(), "status": "completed"})

    async def health(_request: web.Request) -> web.Response:
        found = await endpoint.health()
        response = json_answer(found.model_dump(mode="json", by_alias=True))
        response.headers[IDEMPOTENCY_HEADER] = "supported"
        return response

    async def read_file(request: web.Request) -> web.StreamResponse:
        try:
            return await endpoint.file(request, job_id_of(request), request.match_info["sha256"])
        except OutputLost as error:
            return refusal(error, status=404)

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


def _brief(status: Status) -> Status:
    return {"id": status["id"], "status": status["status"]}


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
