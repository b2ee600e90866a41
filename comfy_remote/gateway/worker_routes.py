"""The routes of workers: the calls that the RunPod SDK makes from inside a worker.

Facts from the SDK, 1.12 (`serverless/modules/rp_job.py`, `rp_scale.py`, `rp_http.py`).
"""

from __future__ import annotations

from aiohttp import web
from pydantic import JsonValue
from pydantic_core import to_json

from ..errors import (
    JobNotFound,
    LocalStorageError,
    OutputCorrupt,
    OutputError,
    OutputTooLarge,
    RequestTooLarge,
    WorkflowInvalid,
)
from .access import Access, refusal
from .body import Bodies, body_chunks, json_answer, json_bytes
from .endpoint import LocalEndpoint
from .job import Job

__all__ = ["worker_routes"]

_LARGEST_BATCH = 64


def worker_routes(endpoint: LocalEndpoint, access: Access) -> list[web.RouteDef]:
    """The routes of one endpoint's workers."""
    queue, limits = endpoint.queue, endpoint.limits
    bodies = Bodies(limits.body_bytes, limits.json_values, limits.body_pause)

    async def hand_over(request: web.Request, count: int) -> list[Job]:
        worker_id = request.match_info["worker_id"]
        if request.query.get("job_in_progress") == "0":
            queue.worker_is_idle(worker_id)
        return await queue.take(worker_id, wait=limits.poll_wait, count=count)

    async def job_take(request: web.Request) -> web.StreamResponse:
        return await deliver(request, await hand_over(request, 1), in_a_list=False)

    async def job_take_batch(request: web.Request) -> web.StreamResponse:
        wanted = request.query.get("batch_size", "1")
        count = int(wanted) if wanted.isdecimal() and len(wanted) < 4 else 1
        jobs = await hand_over(request, min(max(count, 1), _LARGEST_BATCH))
        return await deliver(request, jobs, in_a_list=True)

    async def deliver(
        request: web.Request, jobs: list[Job], *, in_a_list: bool
    ) -> web.StreamResponse:
        """Answer with jobs. Those that cannot be written go back to the head of the line."""
        try:
            described = [one for job in jobs if (one := await as_taken(job)) is not None]
            if not described:
                return web.Response(status=204)
            body = b"[" + b",".join(described) + b"]" if in_a_list else described[0]
            return await _write(request, web.Response(body=body, content_type="application/json"))
        except BaseException:  # a cancelled handler means that the worker hung up
            queue.put_back(jobs)
            raise

    async def as_taken(job: Job) -> bytes | None:
        """What a worker is given of a job; ``None`` if that cannot be read, and it has failed."""
        try:
            content = await endpoint.input_of(job)
        except LocalStorageError as error:
            queue.fail(job.id, job.worker_id or "", error)
            return None
        return to_json({"id": job.id})[:-1] + b',"input":' + content + b"}"

    async def job_done(request: web.Request) -> web.Response:
        job_id, worker_id = request.match_info["job_id"], request.match_info["worker_id"]
        queue.workers.seen(worker_id)
        job = queue.records.get(job_id)
        try:
            async with (
                bodies.receive(request, job.result_limit) as body,
                bodies.parsed(body, bodies.json_object) as result,
            ):
                await take_result(job_id, worker_id, result)
        except WorkflowInvalid as refused:
            error = _unusable(job, refused)
            queue.fail(job_id, worker_id, error)
            # The status that RunPod answers here; the SDK tries others again.
            return refusal(error, status=400)
        return json_answer({"id": job_id})

    async def take_result(job_id: str, worker_id: str, result: dict[str, JsonValue]) -> None:
        if result.get("status") == "IN_PROGRESS":
            queue.progress(job_id, worker_id, json_bytes({"output": result.get("output")}))
            return
        error = result.get("error") or None
        await endpoint.finish(job_id, worker_id, output=result.get("output"), error=error)

    async def job_stream(request: web.Request) -> web.Response:
        job_id, worker_id = request.match_info["job_id"], request.match_info["worker_id"]
        queue.workers.seen(worker_id)
        async with (
            bodies.receive(request, limits.stream_bytes) as body,
            bodies.parsed(body, bodies.json_object) as chunk,
        ):
            queue.stream(job_id, worker_id, json_bytes(chunk))
        return json_answer({"id": job_id})

    async def job_stop(request: web.Request) -> web.StreamResponse:
        worker_id = request.match_info["worker_id"]
        stops = await queue.workers.take_stops(
            worker_id, wait=limits.poll_wait, settle=limits.stop_settle
        )
        if not stops:
            return web.Response(status=204)
        try:
            return await _write(request, json_answer({"jobsToStop": list(stops)}))
        except BaseException:
            for job_id in stops:
                queue.workers.request_stop(worker_id, job_id, 0.0)
            raise

    async def ping(request: web.Request) -> web.Response:
        queue.workers.seen(request.match_info["worker_id"])
        return json_answer({"status": "ok"})

    async def write_file(request: web.Request) -> web.Response:
        job_id, sha256 = request.match_info["job_id"], request.match_info["sha256"]
        if (job := queue.records.get(job_id)).state.final:
            raise JobNotFound(f"Job {job_id} is {job.state.value}; its files are not stored.")
        chunks = body_chunks(request.content.read, limits.body_pause)
        size = await endpoint.store.put(job_id, sha256, chunks)
        return json_answer({"url": f"files/{job_id}/{sha256}", "size": size}, status=201)

    base = "/v2/{endpoint}"
    guard = access.worker
    return [
        web.get(f"{base}/job-take/{{worker_id}}", guard(job_take)),
        web.get(f"{base}/job-take-batch/{{worker_id}}", guard(job_take_batch)),
        web.post(f"{base}/job-done/{{worker_id}}/{{job_id}}", guard(job_done)),
        web.post(f"{base}/job-stream/{{worker_id}}/{{job_id}}", guard(job_stream)),
        web.get(f"{base}/job-stop/{{worker_id}}", guard(job_stop)),
        web.get(f"{base}/ping/{{worker_id}}", guard(ping)),
        web.put(f"{base}/files/{{job_id}}/{{sha256}}", guard(write_file)),
    ]


def _unusable(job: Job, refused: WorkflowInvalid) -> OutputError:
    if not isinstance(refused, RequestTooLarge):
        return OutputCorrupt(f"The worker's result could not be read. {refused}")
    return OutputTooLarge(
        f"The job's result is larger than the {job.result_limit} bytes "
        f"({job.result_limit / 2**20:g} MiB) that an answer may have.",
        advice="Have the worker store large outputs instead of returning them inline.",
        details={"limit": job.result_limit},
    )


async def _write(request: web.Request, response: web.Response) -> web.Response:
    """Send the answer now, so that a broken connection is noticed.

    Raises:
        ConnectionError: The worker is not there any more.
    """
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError("the worker hung up")
    await response.prepare(request)
    await response.write_eof()
    return response
