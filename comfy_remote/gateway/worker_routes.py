"""The routes of workers: the calls that the RunPod SDK makes from inside a worker.

Facts from the SDK, 1.12 (`serverless/modules/rp_job.py`, `rp_scale.py`, `rp_http.py`).
"""

from __future__ import annotations

from aiohttp import web
from pydantic_core import to_json

from ..errors import (
    OutputCorrupt,
    OutputError,
    OutputTooLarge,
    RequestTooLarge,
    WorkflowInvalid,
)
from ..wire.runpod import STORE_LARGE_OUTPUTS
from .access import Access, refusal
from .body import Bodies, body_chunks, json_answer, json_bytes
from .endpoint import GivenJob, LocalEndpoint
from .job import Job

__all__ = ["unusable", "worker_routes", "write_now"]

_LARGEST_BATCH = 64


def worker_routes(endpoint: LocalEndpoint, access: Access) -> list[web.RouteDef]:
    """The routes of one endpoint's workers."""
    base, guard, routes = "/v2/{endpoint}", access.worker, _WorkerRoutes(endpoint)
    return [
        web.get(f"{base}/job-take/{{worker_id}}", guard(routes.take)),
        web.get(f"{base}/job-take-batch/{{worker_id}}", guard(routes.take_batch)),
        web.post(f"{base}/job-done/{{worker_id}}/{{job_id}}", guard(routes.done)),
        web.post(f"{base}/job-stream/{{worker_id}}/{{job_id}}", guard(routes.stream)),
        web.get(f"{base}/job-stop/{{worker_id}}", guard(routes.stop)),
        web.get(f"{base}/ping/{{worker_id}}", guard(routes.ping)),
        web.put(f"{base}/files/{{job_id}}/{{sha256}}", guard(routes.write_file)),
    ]


class _WorkerRoutes:
    """The handlers, a method for each route."""

    def __init__(self, endpoint: LocalEndpoint) -> None:
        self._endpoint = endpoint
        self._queue, self._limits = endpoint.queue, endpoint.limits
        limits = self._limits
        self._bodies = Bodies(limits.body_bytes, limits.json_values, limits.body_pause)

    async def take(self, request: web.Request) -> web.StreamResponse:
        return await self._deliver(request, await self._hand_over(request, 1), in_a_list=False)

    async def take_batch(self, request: web.Request) -> web.StreamResponse:
        wanted = request.query.get("batch_size", "1")
        count = int(wanted) if wanted.isdecimal() and len(wanted) < 4 else 1
        jobs = await self._hand_over(request, min(max(count, 1), _LARGEST_BATCH))
        return await self._deliver(request, jobs, in_a_list=True)

    async def done(self, request: web.Request) -> web.Response:
        job_id, worker_id = self._seen(request)
        job = self._queue.live.get(job_id)
        if job is None:
            job = await self._queue.get(job_id)  # for the error, if it is not known at all
        try:
            async with (
                self._bodies.receive(request, job.result_limit) as body,
                self._bodies.parsed(body, self._bodies.json_object) as result,
            ):
                output, error = result.get("output"), result.get("error") or None
                if result.get("status") == "IN_PROGRESS":
                    self._queue.progress(job_id, worker_id, json_bytes({"output": output}))
                else:
                    await self._endpoint.finish(job_id, worker_id, output=output, error=error)
                    await self._queue.committed()
        except WorkflowInvalid as refused:
            failure = unusable(job, refused)
            self._queue.fail(job_id, worker_id, failure)
            await self._queue.committed()
            # The status that RunPod answers here; the SDK tries others again.
            return refusal(failure, status=400)
        return json_answer({"id": job_id})

    async def stream(self, request: web.Request) -> web.Response:
        job_id, worker_id = self._seen(request)
        async with (
            self._bodies.receive(request, self._limits.stream_bytes) as body,
            self._bodies.parsed(body, self._bodies.json_object) as chunk,
        ):
            self._queue.stream(job_id, worker_id, json_bytes(chunk))
        return json_answer({"id": job_id})

    async def stop(self, request: web.Request) -> web.StreamResponse:
        worker_id, workers = request.match_info["worker_id"], self._queue.workers
        stops = await workers.take_stops(
            worker_id, wait=self._limits.poll_wait, settle=self._limits.stop_settle
        )
        if not stops:
            return web.Response(status=204)
        try:
            return await write_now(request, json_answer({"jobsToStop": list(stops)}))
        except BaseException:
            for job_id in stops:
                workers.request_stop(worker_id, job_id, 0.0)
            raise

    async def ping(self, request: web.Request) -> web.Response:
        self._queue.workers.seen(request.match_info["worker_id"])
        return json_answer({"status": "ok"})

    async def write_file(self, request: web.Request) -> web.Response:
        job_id, sha256 = request.match_info["job_id"], request.match_info["sha256"]
        chunks = body_chunks(request.content.read, self._limits.body_pause)
        size = await self._endpoint.add_output(job_id, sha256, chunks)
        return json_answer({"url": f"files/{job_id}/{sha256}", "size": size}, status=201)

    def _seen(self, request: web.Request) -> tuple[str, str]:
        """The ids of the job and the worker that a request is about; the worker lives."""
        job_id, worker_id = request.match_info["job_id"], request.match_info["worker_id"]
        self._queue.workers.seen(worker_id)
        return job_id, worker_id

    async def _hand_over(self, request: web.Request, count: int) -> list[GivenJob]:
        worker_id = request.match_info["worker_id"]
        if request.query.get("job_in_progress") == "0":
            self._queue.worker_is_idle(worker_id)
        return await self._endpoint.take(worker_id, wait=self._limits.poll_wait, count=count)

    async def _deliver(
        self, request: web.Request, jobs: list[GivenJob], *, in_a_list: bool
    ) -> web.StreamResponse:
        """Answer with jobs. Those that cannot be written go back to the head of the line."""
        if not jobs:
            return web.Response(status=204)
        try:
            described = [_as_taken(job) for job in jobs]
            body = b"[" + b",".join(described) + b"]" if in_a_list else described[0]
            return await write_now(
                request, web.Response(body=body, content_type="application/json")
            )
        except BaseException:  # a cancelled handler means that the worker hung up
            self._queue.put_back([job.lease for job in jobs], "It did not reach the worker.")
            raise


def _as_taken(job: GivenJob) -> bytes:
    """What a worker is given of a job."""
    return to_json({"id": job.lease.job.id})[:-1] + b',"input":' + job.content + b"}"


def unusable(job: Job, refused: WorkflowInvalid) -> OutputError:
    if not isinstance(refused, RequestTooLarge):
        return OutputCorrupt(f"The worker's result could not be read. {refused}")
    return OutputTooLarge(
        f"The job's result is larger than the {job.result_limit} bytes "
        f"({job.result_limit / 2**20:g} MiB) that an answer may have.",
        advice=STORE_LARGE_OUTPUTS,
        details={"limit": job.result_limit},
    )


async def write_now(request: web.Request, response: web.Response) -> web.Response:
    """Send the answer now, so that a broken connection is noticed.

    Raises:
        ConnectionError: The worker is not there any more.
    """
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError("the worker hung up")
    await response.prepare(request)
    await response.write_eof()
    return response
