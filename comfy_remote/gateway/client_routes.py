"""The routes of clients: RunPod's endpoint operations."""

from __future__ import annotations

import asyncio
import os

from aiohttp import web
from pydantic_core import to_json

from ..errors import JobNotFound, OutputLost, WorkflowInvalid
from ..wire.runpod import FILES_HEADER, IDEMPOTENCY_HEADER
from .access import Access, refusal
from .body import Bodies, json_answer, number_in_query
from .endpoint import Endpoint, Status, StoredStatus, joined
from .job import Submission

__all__ = ["client_routes"]

_LONGEST_KEY = 255
_CHUNK = 256 * 1024


def client_routes(
    endpoint: Endpoint, access: Access, *, takes_files: bool = False
) -> list[web.RouteDef]:
    """The routes of one endpoint's clients.

    Args:
        takes_files: Whether it has `upload_routes`, too.
    """
    base, guard = "/v2/{endpoint}", access.client
    routes = _ClientRoutes(endpoint, takes_files=takes_files)
    return [
        web.post(f"{base}/run", guard(routes.run)),
        web.post(f"{base}/runsync", guard(routes.runsync)),
        web.get(f"{base}/status/{{job_id}}", guard(routes.status)),
        web.post(f"{base}/status/{{job_id}}", guard(routes.status)),
        web.get(f"{base}/status-sync/{{job_id}}", guard(routes.status_sync)),
        web.post(f"{base}/status-sync/{{job_id}}", guard(routes.status_sync)),
        web.get(f"{base}/stream/{{job_id}}", guard(routes.stream)),
        web.post(f"{base}/stream/{{job_id}}", guard(routes.stream)),
        web.post(f"{base}/cancel/{{job_id}}", guard(routes.cancel)),
        web.post(f"{base}/retry/{{job_id}}", guard(routes.retry)),
        web.post(f"{base}/purge-queue", guard(routes.purge_queue)),
        web.get(f"{base}/health", guard(routes.health)),
        web.get(f"{base}/files/{{job_id}}/{{sha256}}", access.client_or_worker(routes.read_file)),
    ]


class _ClientRoutes:
    """The handlers, a method for each route."""

    def __init__(self, endpoint: Endpoint, *, takes_files: bool) -> None:
        self._endpoint, self._limits = endpoint, endpoint.limits
        self._takes_files = takes_files
        limits = self._limits
        self._bodies = Bodies(limits.body_bytes, limits.json_values, limits.body_pause)

    async def run(self, request: web.Request) -> web.Response:
        return json_answer(_brief(await self._submit(request, self._limits.run_bytes, sync=False)))

    async def runsync(self, request: web.Request) -> web.StreamResponse:
        wait = self._wait(request)
        job = await self._submit(request, self._limits.runsync_bytes, sync=True)
        return await _answer(request, await self._endpoint.wait(str(job["id"]), wait))

    async def status_sync(self, request: web.Request) -> web.StreamResponse:
        """As ``/status``, once the job has ended or ``?wait=`` is over: RunPod's JavaScript SDK
        asks so when its ``/runsync`` is over.
        """
        wait = self._wait(request)
        return await _answer(request, await self._endpoint.wait(_job_id(request), wait))

    def _wait(self, request: web.Request) -> float:
        """Seconds that a request may be held for the end of a job."""
        default, longest = (
            round(seconds * 1000)
            for seconds in (self._limits.runsync_wait, self._limits.runsync_longest_wait)
        )
        return number_in_query(request, "wait", default, least=0, most=longest) / 1000

    async def status(self, request: web.Request) -> web.StreamResponse:
        return await _answer(request, await self._endpoint.status(_job_id(request)))

    async def stream(self, request: web.Request) -> web.Response:
        job = await self._endpoint.status(_job_id(request))
        chunks = b",".join(await self._endpoint.stream(_job_id(request)))
        head = to_json(_brief(job.status if isinstance(job, StoredStatus) else job))
        body = head[:-1] + b',"stream":[' + chunks + b"]}"
        return web.Response(body=body, content_type="application/json")

    async def cancel(self, request: web.Request) -> web.Response:
        return json_answer(_brief(await self._endpoint.cancel(_job_id(request))))

    async def retry(self, request: web.Request) -> web.Response:
        return json_answer(_brief(await self._endpoint.retry(_job_id(request))))

    async def purge_queue(self, _request: web.Request) -> web.Response:
        return json_answer({"removed": await self._endpoint.purge(), "status": "completed"})

    async def health(self, _request: web.Request) -> web.Response:
        found = await self._endpoint.health()
        response = json_answer(found.model_dump(mode="json", by_alias=True, exclude_none=True))
        response.headers[IDEMPOTENCY_HEADER] = "supported"
        if self._takes_files:
            response.headers[FILES_HEADER] = str(self._limits.file_bytes)
        return response

    async def read_file(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._endpoint.file(
                request, _job_id(request), request.match_info["sha256"]
            )
        except OutputLost as error:
            return refusal(error, status=404)

    async def _submit(self, request: web.Request, limit: int, *, sync: bool) -> Status:
        key = request.headers.get(IDEMPOTENCY_HEADER)
        if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isprintable()):
            raise WorkflowInvalid(
                f"{IDEMPOTENCY_HEADER} must have 1 to {_LONGEST_KEY} printable characters."
            )
        async with (
            self._bodies.receive(request, limit) as body,
            self._bodies.parsed(
                body, lambda body: Submission.parse(body, self._limits)
            ) as submission,
        ):
            if submission.policy.client is None:
                # Whoever does not say who it is shares fairly by its address.
                policy = submission.policy.model_copy(update={"client": request.remote or ""})
                submission.policy = policy
            return await self._endpoint.submit(submission, sync=sync, idempotency_key=key)


def _job_id(request: web.Request) -> str:
    return request.match_info["job_id"]


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
