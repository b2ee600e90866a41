"""The worker in the gateway's own process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers import until
from pydantic import JsonValue

from comfy_remote.errors import ComfyRemoteError, ConfigurationError, EngineCrashed, OutOfMemory
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.gateway.job import Job, Submission
from comfy_remote.gateway.local_worker import LocalWorker
from comfy_remote.net.retry import Backoff
from comfy_remote.wire.joined import Report
from comfy_remote.wire.runpod import RunPodState, error_from_runpod


async def submit(gateway: GatewayServer, payload: object) -> Job:
    status = await gateway.endpoint.submit(
        Submission(input=payload), sync=False, idempotency_key=None
    )
    return await gateway.queue.get(str(status["id"]))


async def run(gateway: GatewayServer, payload: object = 1) -> dict[str, object]:
    """A job's whole status once it is final."""
    job = await submit(gateway, payload)
    await gateway.queue.wait_until_final(job.id, 60)
    job = await gateway.queue.get(job.id)
    status: dict[str, object] = json.loads(await gateway.endpoint.whole_status(job))
    return status


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayServer]:
    async with GatewayServer(limits=GatewayLimits(run_bytes=1000)) as server:
        yield server


async def test_result_and_progress(gateway: GatewayServer) -> None:
    seen = []

    async def handler(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        await report({"sequence": 1})
        seen.append(
            ((await gateway.queue.get(job_id)).more, gateway.queue.health().workers.running)
        )
        return {"doubled": payload * 2}

    gateway.add_local_worker(handler)
    job = await run(gateway, 21)
    assert (job["status"], job["output"], job["workerId"]) == (
        "COMPLETED",
        {"doubled": 42},
        "local",
    )
    assert seen == [(b'{"output":{"sequence":1}}', 1)]
    assert gateway.queue.health().workers.idle == 1


async def test_exceptions_fail_the_job_and_not_the_worker(gateway: GatewayServer) -> None:
    async def handler(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        match payload:
            case "ours":
                raise OutOfMemory("The GPU is full.")
            case "theirs":
                raise ValueError("bad")
            case "gives up":
                raise asyncio.CancelledError
            case "large":
                return {"x": "y" * 2000}
            case "failed":
                return {"error": "no", "rest": 1}
            case _:
                return {"fine": True}

    gateway.add_local_worker(handler)
    expected = {
        "ours": "out_of_memory",
        "theirs": "execution_failed",
        "gives up": "execution_failed",
        "large": "output_too_large",
    }
    for payload, code in expected.items():
        job = await run(gateway, payload)
        assert job["status"] == "FAILED"
        assert error_from_runpod(str(job["error"])).code == code
    job = await run(gateway, "failed")
    assert (job["status"], job["error"], job["output"]) == ("FAILED", "no", {"rest": 1})
    assert (await run(gateway))["output"] == {"fine": True}


async def test_cancel_cancels_the_handler_and_the_next_job_runs(gateway: GatewayServer) -> None:
    started, cleaned = asyncio.Event(), asyncio.Event()

    async def handler(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        if payload == "quick":
            return {"after": cleaned.is_set()}
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)  # tells its engine
            cleaned.set()
            raise
        return {}

    gateway.add_local_worker(handler)
    job = await submit(gateway, "slow")
    await asyncio.wait_for(started.wait(), 60)
    await gateway.queue.cancel(job.id)
    assert job.state is RunPodState.CANCELLED
    assert (await run(gateway, "quick"))["output"] == {"after": True}


async def test_stopping_the_server_cancels_the_handler() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        return {}

    async with GatewayServer() as gateway:
        gateway.add_local_worker(handler)
        await submit(gateway, 1)
        await asyncio.wait_for(started.wait(), 60)
    assert cancelled.is_set()


class Unready:
    """A handler whose engine cannot be started until there are no errors left."""

    def __init__(self, *errors: ComfyRemoteError) -> None:
        self.errors = list(errors)
        self.tried = 0
        self.jobs: list[object] = []

    async def ready(self) -> None:
        self.tried += 1
        if self.errors:
            raise self.errors[0]

    async def __call__(self, job_id: str, payload: object, report: object) -> dict[str, object]:
        self.jobs.append(payload)
        return {}


async def test_no_job_is_taken_while_the_engine_cannot_start(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "seconds", lambda *_: 0.01)
    handler = Unready(EngineCrashed("It ended."))
    gateway.add_local_worker(handler)
    jobs = [await submit(gateway, n) for n in range(6)]
    tried = handler.tried
    await until(lambda: handler.tried > tried + 3)
    assert {job.state for job in jobs} == {RunPodState.IN_QUEUE}
    assert not gateway.queue.health().workers.idle
    handler.errors.clear()
    for job in jobs:
        await gateway.queue.wait_until_final(job.id, 60)
    assert {job.state for job in jobs} == {RunPodState.COMPLETED}
    assert handler.jobs == list(range(6))


async def test_a_wrong_setting_ends_the_worker_and_says_so(gateway: GatewayServer) -> None:
    gateway.add_local_worker(Unready(ConfigurationError("COMFYUI_DIR is no folder.")))
    job = await submit(gateway, 1)
    with pytest.raises(ConfigurationError, match="COMFYUI_DIR"):
        await asyncio.wait_for(gateway.wait_until_failed(), 60)
    with pytest.raises(ConfigurationError, match="COMFYUI_DIR"):
        await gateway.wait_until_ready(60)
    assert job.state is RunPodState.IN_QUEUE


async def test_jobs_go_to_the_worker_whose_engine_has_their_nodes(gateway: GatewayServer) -> None:
    class Engine:
        """A handler and its engine, which cannot be asked at first."""

        def __init__(self, *nodes: str) -> None:
            self.nodes = list(nodes)
            self.asked = 0

        async def __call__(self, job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
            return {}

        async def has(self) -> Report:
            self.asked += 1
            if self.asked == 1:
                raise EngineCrashed("It says nothing yet.")
            return Report(nodes=self.nodes)

    having, lacking = Engine("Rare"), Engine("Common")
    tasks = []
    for name, engine in (("lacking", lacking), ("having", having)):
        worker = LocalWorker(
            gateway.endpoint, engine, worker_id=name, ask_engine=engine.has, ask_again_after=0.01
        )
        tasks.append(asyncio.create_task(worker.run()))
    while having.asked < 3 or lacking.asked < 3:
        await asyncio.sleep(0.01)
    for _ in range(4):
        done = await run(gateway, {"workflow": {"1": {"class_type": "Rare"}}})
        assert (done["status"], done["workerId"]) == ("COMPLETED", "having")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_job_whose_input_is_being_read_when_the_gateway_stops_was_not_started(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow(sha256: str) -> bytes:
        reading.set()
        await asyncio.sleep(60)
        raise AssertionError(sha256)

    async def handler(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        raise AssertionError(job_id)

    reading = asyncio.Event()
    monkeypatch.setattr(gateway.queue.live, "has_memory_for", lambda content: False)
    monkeypatch.setattr(gateway.files, "read", slow)
    job = await submit(gateway, "large")
    gateway.add_local_worker(handler)
    await asyncio.wait_for(reading.wait(), 60)
    await gateway.queue.committed()  # its start, too
    await asyncio.sleep(0)
    await gateway.stop()
    assert (job.state, job.attempt) == (RunPodState.IN_QUEUE, 0)
