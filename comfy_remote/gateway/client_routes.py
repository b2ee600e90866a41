"""The routes of clients: RunPod's endpoint operations."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web
from pydantic_core import to_json

from ..errors import JobNotFound, OutputLost, WorkflowInvalid
from ..wire.runpod import IDEMPOTENCY_HEADER
from .access import Access, refusal
from .body import Bodies, json_answer, number_in_query
from .endpoint import Endpoint, Status, StoredStatus, joined
from .job import Submission

__all__ = ["client_routes"]

_LONGEST_KEY = 255
_CHUNK = 256 * 1024


def client_routes(endpoint: Endpoint, access: Access) -> list[web.RouteDef]:
    """The routes of one endpoint's clients."""
    limits = endpoint.limits
    bodies = Bodies(limits.body_bytes, limits.json_values, limits.body_pause)

    def job_id_of(request: web.Request) -> str:
        return request.match_info["job_id"]

    async def submit(request: web.Request, limit: int, *, sync: bool) -> Status:
        key = request.headers.get(IDEMPOTENCY_HEADER)
        if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isprintable()):
            raise WorkflowInvalid(
                f"{IDEMPOTENCY_HEADER} must have 1 to {_LONGEST_KEY} printable characters."
            )
        async with (
            bodies.receive(request, limit) as body,
            bodies.parsed(body, lambda body: Submission.parse(body, limits)) as submission,
        ):
            return await endpoint.submit(submission, sync=sync, idempotency_key=key)

    async def run(request: web.Request) -> web.Response:
        return json_answer(_brief(await submit(request, limits.run_bytes, sync=False)))

    async def runsync(request: web.Request) -> web.StreamResponse:
        default, longest = limits.runsync_wait * 1000, limits.runsync_longest_wait * 1000
        wait = number_in_query(request, "wait", round(default), least=0, most=round(longest))
        job = await submit(request, limits.runsync_bytes, sync=True)
        return await _answer(request, await endpoint.wait(str(job["id"]), wait / 1000))

    async def status(request: web.Request) -> web.StreamResponse:
        return await _answer(request, await endpoint.status(job_id_of(request)))

    async def stream(request: web.Request) -> web.Response:
        job = await endpoint.status(job_id_of(request))
        chunks = b",".join(await endpoint.stream(job_id_of(request)))
        head = to_json(_brief(job.status if isinstance(job, StoredStatus) else job))
        body = head[:-1] + b',"stream":[' + chunks + b"]}"
        return web.Response(body=body, content_type="application/json")

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


async def _answer(request: web.Request, found: Status | StoredStatus) -> web.StreamResponse:
    """The status as an answer. A result that is in a file is streamed from it.

    Raises:
        JobNotFound: The file has just gone.
    """
    if not isinstance(found, StoredStatus):
        return json_answer(found)
    if isinstance(found.more, bytes):
        body = joined(to_json(found.status), found.more)
        return web.Response(body=body, content_type="application/json")
    try:
        file = await asyncio.to_thread(found.more.open, "rb")
    except FileNotFoundError:
        raise JobNotFound(f"The result of job {found.status['id']} has gone.") from None
    with file:
        size = os.fstat(file.fileno()).st_size
        first = joined(to_json(found.status), await asyncio.to_thread(file.read, _CHUNK))
        response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
        response.content_length = len(first) + max(0, size - _CHUNK)
        await response.prepare(request)
        await response.write(first)
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            await response.write(chunk)
    await response.write_eof()
    return response
