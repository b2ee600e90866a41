"""The routes of joined workers; `wire.joined` has the list.

A worker is told apart by its token, which lets in one name, and sees only jobs that it was given.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from ..errors import (
    AuthenticationError,
    JobNotFound,
    OutputCorrupt,
    ValueInvalid,
    WorkflowInvalid,
)
from ..json_text import check_json_values, problems_in
from ..net.serving import give_way
from ..wire.joined import (
    BOOT_HEADER,
    HELLO_LIMIT,
    JOB_HEADER,
    NAME_TAKEN,
    SAY_HELLO,
    WORKER_NAME,
    Delivered,
    Hello,
    HelloAnswer,
    Ping,
    Stored,
)
from .access import Access, RouteHandler, refusal
from .body import Bodies, body_chunks, json_answer, json_bytes, number_in_query
from .endpoint import GivenJob, LocalEndpoint
from .job import Job, Lease
from .joined import JoinedWorkers, NameTaken, NotGreeted
from .worker_routes import unusable, write_now

__all__ = ["joined_routes"]

_REFUSAL_DELAY = 0.5
_LONGEST_ATTEMPT = 7  # digits

_Model = TypeVar("_Model", bound=BaseModel)


def joined_routes(
    endpoint: LocalEndpoint, joined: JoinedWorkers, access: Access
) -> list[web.RouteDef]:
    """The routes of one endpoint's joined workers."""
    base = "/v2/{endpoint}/workers/{worker_id}"
    job = f"{base}/jobs/{{job_id}}/{{attempt}}"
    routes = _JoinedRoutes(endpoint, joined, access)
    guard = routes.guard
    return [
        web.post(f"{base}/hello", guard(routes.hello)),
        web.post(f"{base}/take", guard(routes.take)),
        web.post(f"{base}/ping", guard(routes.ping)),
        web.post(f"{job}/progress", guard(routes.progress)),
        web.post(f"{job}/done", guard(routes.done)),
        web.post(f"{job}/back", guard(routes.back)),
        web.head(f"{job}/files/{{sha256}}", guard(routes.has_output)),
        web.put(f"{job}/files/{{sha256}}", guard(routes.write_output)),
        web.get(f"{base}/files/{{job_id}}/{{sha256}}", guard(routes.read_input), allow_head=False),
    ]


class _JoinedRoutes:
    """The handlers, a method for each route."""

    def __init__(self, endpoint: LocalEndpoint, joined: JoinedWorkers, access: Access) -> None:
        self._endpoint, self._joined, self._access = endpoint, joined, access
        self._queue, self._limits = endpoint.queue, endpoint.limits
        limits = self._limits
        self._bodies = Bodies(limits.body_bytes, limits.json_values, limits.body_pause)

    def guard(self, handler: RouteHandler) -> RouteHandler:
        """A route for the workers that a token lets in."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            worker_id = request.match_info["worker_id"]
            admitted = scheme.lower() == "bearer" and WORKER_NAME.fullmatch(worker_id)
            if not admitted or not self._joined.notes.admits(token.strip(), worker_id):
                give_way(request)
                await asyncio.sleep(_REFUSAL_DELAY)
                raise AuthenticationError(
                    f"The token is not (or no longer) one for worker {worker_id}."
                )
            self._access.check_endpoint(request)
            try:
                return await handler(request)
            except NotGreeted:
                return _conflict(SAY_HELLO, "Say hello first: this gateway has started again.")
            except NameTaken as error:
                return _conflict(NAME_TAKEN, str(error))

        return guarded

    async def hello(self, request: web.Request) -> web.Response:
        hello = await self._read(request, Hello)
        drop = await self._joined.hello(_worker(request), hello)
        return _answer(HelloAnswer(drop=drop))

    async def take(self, request: web.Request) -> web.StreamResponse:
        ping = await self._read(request, Ping)
        jobs = await self._joined.take(_worker(request), _boot(request), ping)
        if not jobs:
            return web.Response(status=204)
        try:
            return await write_now(request, _as_taken(jobs[0]))
        except BaseException:  # a cancelled handler means that the worker has hung up
            self._joined.not_delivered(_worker(request), jobs)
            raise

    async def ping(self, request: web.Request) -> web.Response:
        ping = await self._read(request, Ping)
        return _answer(await self._joined.ping(_worker(request), _boot(request), ping))

    async def progress(self, request: web.Request) -> web.Response:
        worker_id, job_id, attempt = self._about(request)
        job = self._job(worker_id, job_id)
        if job is None or not self._queue.is_running(job_id, worker_id, attempt):
            return web.Response(status=204)
        async with (
            self._bodies.receive(request, job.result_limit) as body,
            self._bodies.parsed(body, self._bodies.json_object) as said,
        ):
            more = json_bytes({"output": said.get("output")})
        self._queue.progress(job_id, worker_id, more, attempt=attempt)
        return web.Response(status=204)

    async def done(self, request: web.Request) -> web.Response:
        worker_id, job_id, attempt = self._about(request)
        job = self._job(worker_id, job_id)
        if job is None:
            return _answer(Delivered(taken=False))
        try:
            async with (
                self._bodies.receive(request, job.result_limit) as body,
                self._bodies.parsed(body, self._bodies.json_object) as result,
            ):
                self._about(request)  # its token may have been removed meanwhile
                taken = await self._endpoint.finish(
                    job_id,
                    worker_id,
                    output=result.get("output"),
                    error=result.get("error") or None,
                    attempt=attempt,
                    tries_again=True,
                )
        except WorkflowInvalid as refused:
            error = unusable(job, refused)
            self._queue.fail(job_id, worker_id, error, attempt=attempt)
            await self._queue.committed()
            return refusal(error, status=413)
        await self._queue.committed()
        return _answer(Delivered(taken=taken))

    async def back(self, request: web.Request) -> web.Response:
        worker_id, job_id, attempt = self._about(request)
        if (job := self._job(worker_id, job_id)) is not None:
            lease = Lease(job, worker_id, attempt)
            self._queue.put_back([lease], "The worker was stopped.")
            await self._queue.committed()
        return web.Response(status=204)

    async def has_output(self, request: web.Request) -> web.Response:
        worker_id, job_id, attempt = self._about(request)
        job, sha256 = self._job(worker_id, job_id), request.match_info["sha256"]
        if job is None or sha256 not in job.output_files:
            # What will be refused is refused before it is sent.
            size = number_in_query(request, "size", 0, least=0, most=2**62)
            self._endpoint.files.check_file(size)
            return web.Response(status=404)
        return web.Response(headers={JOB_HEADER: f"{job_id}/{attempt}"})

    async def write_output(self, request: web.Request) -> web.Response:
        worker_id, job_id, attempt = self._about(request)
        sha256 = request.match_info["sha256"]
        not_its = JobNotFound(f"Worker {worker_id} does not have job {job_id}.")
        if not self._queue.takes_result(job_id, worker_id, attempt=attempt):
            raise not_its
        # Where there is no room now (429, 507), the worker tries again: it has the file.
        chunks = body_chunks(request.content.read, self._limits.body_pause)
        try:
            size = await self._endpoint.files.receive(sha256, chunks)
        except ValueInvalid as error:
            raise OutputCorrupt(error.message, advice=error.advice) from error
        self._about(request)  # its token may have been removed meanwhile
        if not self._queue.add_output_file(job_id, worker_id, sha256, attempt=attempt):
            raise not_its
        return _answer(Stored(size=size), status=201)

    async def read_input(self, request: web.Request) -> web.StreamResponse:
        worker_id, job_id = _worker(request), request.match_info["job_id"]
        job, sha256 = self._job(worker_id, job_id), request.match_info["sha256"]
        if job is None or sha256 not in job.input_files:
            raise JobNotFound(f"Worker {worker_id} has no job {job_id} with that file.")
        return web.FileResponse(self._endpoint.files.path(sha256))

    def _about(self, request: web.Request) -> tuple[str, str, int]:
        """The worker, which has said hello, the job, and its attempt."""
        worker_id = _worker(request)
        self._joined.check(worker_id, _boot(request))
        attempt = request.match_info["attempt"]
        if not (attempt.isascii() and attempt.isdecimal() and len(attempt) <= _LONGEST_ATTEMPT):
            raise WorkflowInvalid("The attempt is not a number.")
        return worker_id, request.match_info["job_id"], int(attempt)

    def _job(self, worker_id: str, job_id: str) -> Job | None:
        """The live job, if it is or was this worker's."""
        return self._queue.live.get(job_id) if self._queue.had_job(job_id, worker_id) else None

    async def _read(self, request: web.Request, model: type[_Model]) -> _Model:
        async with self._bodies.receive(request, HELLO_LIMIT) as body:

            def parse(body: bytes) -> _Model:
                check_json_values(body, self._limits.json_values)
                try:
                    return model.model_validate_json(body)
                except ValidationError as error:
                    raise WorkflowInvalid(
                        f"The request is not valid: {problems_in(error, 'body')}.",
                        advice="Run the same version of Comfy Remote on both machines.",
                    ) from None

            async with self._bodies.parsed(body, parse) as read:
                return read


def _worker(request: web.Request) -> str:
    return request.match_info["worker_id"]


def _boot(request: web.Request) -> str:
    return request.headers.get(BOOT_HEADER, "")


def _as_taken(job: GivenJob) -> web.Response:
    headers = {JOB_HEADER: f"{job.lease.job.id}/{job.lease.attempt}"}
    return web.Response(body=job.content, content_type="application/json", headers=headers)


def _answer(model: BaseModel, status: int = 200) -> web.Response:
    body = model.model_dump_json().encode()
    return web.Response(body=body, status=status, content_type="application/json")


def _conflict(code: str, words: str) -> web.Response:
    return json_answer({"error": words, "comfy_remote": {"code": code}}, status=409)
