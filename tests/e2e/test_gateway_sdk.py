"""The real RunPod SDK on both sides of the gateway: its worker in production mode, its clients."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from helpers import until as holds
from pydantic import SecretStr

from comfy_remote.errors import EngineCrashed
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.wire.runpod import error_from_runpod

runpod = pytest.importorskip("runpod")

TOKEN = SecretStr("a-token-for-this-test")
COMMAND = [sys.executable, str(Path(__file__).with_name("gateway_sdk_handler.py"))]
START = 60.0


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayServer]:
    limits = GatewayLimits(poll_wait=5.0)
    async with GatewayServer(endpoint_id="desk", token=TOKEN, limits=limits) as server:
        yield server


@pytest.fixture
async def ready(gateway: GatewayServer) -> GatewayServer:
    gateway.add_sdk_worker(COMMAND)
    assert await gateway.wait_until_ready(START)
    return gateway


@pytest.fixture
async def client(gateway: GatewayServer) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}
    async with aiohttp.ClientSession(gateway.endpoint_url + "/", headers=headers) as session:
        yield session


async def submit(client: aiohttp.ClientSession, **orders: object) -> str:
    async with client.post("run", json={"input": orders}) as answer:
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["id"])


async def status(client: aiohttp.ClientSession, job_id: str) -> dict:
    async with client.get(f"status/{job_id}") as answer:
        return await answer.json()


async def until(
    client: aiohttp.ClientSession,
    job_id: str,
    ready: Callable[[dict[str, Any]], object],
    timeout: float = 90.0,
) -> dict:
    deadline = asyncio.get_running_loop().time() + timeout
    while asyncio.get_running_loop().time() < deadline:
        seen = await status(client, job_id)
        if ready(seen):
            return seen
        await asyncio.sleep(0.02)
    raise AssertionError(f"still {seen} after {timeout} s")


def final(seen: dict) -> bool:
    return seen["status"] not in ("IN_QUEUE", "IN_PROGRESS")


def has_progress(seen: dict) -> bool:
    return seen["status"] == "IN_PROGRESS" and "output" in seen


async def test_results_errors_and_large_results(
    ready: GatewayServer, client: aiohttp.ClientSession
) -> None:
    seen = await until(client, await submit(client, do="echo", value="½ 猫"), final)
    assert (seen["status"], seen["output"]["echo"]) == ("COMPLETED", "½ 猫")

    seen = await until(client, await submit(client, do="fail"), final)
    assert (seen["status"], seen["error"]) == ("FAILED", "asked to fail")

    seen = await until(client, await submit(client, do="raise"), final)
    error = error_from_runpod(seen["error"])
    assert seen["status"] == "FAILED"
    assert "asked to raise" in error.message
    assert "gateway_sdk_handler.py" in str(error.details["traceback"])

    seen = await until(client, await submit(client, do="large", bytes=11 * 2**20), final)
    assert error_from_runpod(seen["error"]).code == "output_too_large"

    seen = await until(client, await submit(client, do="large", bytes=9 * 2**20), final)
    assert len(seen["output"]["data"]) == 9 * 2**20


async def test_progress_is_shown_and_cancel_reaches_the_handler(
    ready: GatewayServer, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    job_id = await submit(client, do="sleep", notes=str(notes))
    seen = await until(client, job_id, has_progress)
    async with client.post(f"cancel/{job_id}") as answer:
        assert (await answer.json())["status"] == "CANCELLED"
    await holds(lambda: notes.exists() and notes.read_text() == "cancelled")
    # The worker lives on, and takes the next job.
    after = await until(client, await submit(client, do="echo", value=1), final)
    assert after["output"]["pid"] == seen["output"]["pid"]


async def test_a_cancel_right_after_the_job_was_taken_is_not_lost(
    ready: GatewayServer, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    job_id = await submit(client, do="sleep", notes=str(notes))
    await until(client, job_id, lambda seen: seen["status"] == "IN_PROGRESS")
    async with client.post(f"cancel/{job_id}") as answer:
        assert (await answer.json())["status"] == "CANCELLED"
    after = await until(client, await submit(client, do="echo", value=1), final)
    assert after["status"] == "COMPLETED"


async def test_a_worker_that_dies_fails_its_job_and_is_replaced(
    ready: GatewayServer, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    seen = await until(client, await submit(client, do="die", notes=str(notes)), final)
    assert seen["status"] == "FAILED"
    assert isinstance(error_from_runpod(seen["error"]), EngineCrashed)
    assert "status 7" in seen["error"]
    assert seen["attempt"] == 2
    after = await until(client, await submit(client, do="echo", value=1), final)
    assert after["output"]["echo"] == 1
    assert notes.read_text() == "ran\nran\n", "it is started once more, and no more"


@pytest.mark.skipif(sys.platform == "win32", reason="looks for processes in POSIX's way")
async def test_nothing_is_left_running(
    gateway: GatewayServer, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    gateway.add_sdk_worker(COMMAND)
    assert await gateway.wait_until_ready(START)
    job_id = await submit(client, do="sleep", notes=str(tmp_path / "notes"))
    pid = (await until(client, job_id, has_progress))["output"]["pid"]
    group = os.getpgid(pid)
    assert group != os.getpgid(0)
    began = asyncio.get_running_loop().time()
    await gateway.stop()
    assert asyncio.get_running_loop().time() - began < 6.0, "the SDK ended when it was asked to"
    assert (tmp_path / "notes").read_text() == "cancelled"
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


async def test_the_worker_sees_no_key_of_the_account(
    gateway: GatewayServer,
    client: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "planted-account-key")
    script = tmp_path / "show.py"
    script.write_text(
        "import os, pathlib\n"
        f"pathlib.Path({str(tmp_path / 'environment')!r}).write_text(repr(dict(os.environ)))\n"
    )
    gateway.add_sdk_worker([sys.executable, str(script)])
    environment_file = tmp_path / "environment"
    await holds(lambda: environment_file.exists() and environment_file.read_text())
    environment = environment_file.read_text()
    assert "planted-account-key" not in environment
    assert f"{gateway.worker_endpoint_url}/files" in environment


async def test_the_sdks_clients(gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.add_sdk_worker(COMMAND)
    assert await gateway.wait_until_ready(START)
    monkeypatch.setattr(runpod, "endpoint_url_base", gateway.url)
    key = TOKEN.get_secret_value()

    def synchronously() -> None:
        endpoint = runpod.Endpoint("desk", api_key=key)
        job = endpoint.run({"do": "echo", "value": 1})
        assert job.output(timeout=90)["echo"] == 1
        assert job.status() == "COMPLETED"
        assert endpoint.run_sync({"do": "echo", "value": 2}, timeout=90)["echo"] == 2
        assert endpoint.health()["jobs"]["completed"] == 2
        # All that it gives of a job that failed is its output.
        said = endpoint.run_sync({"do": "large", "bytes": 21 * 2**20}, timeout=90)
        assert said["status"] == "error"
        assert "BUCKET_ENDPOINT_URL" in said["error_message"]
        job = endpoint.run({"do": "large", "bytes": 11 * 2**20})
        assert "BUCKET_ENDPOINT_URL" in job.output(timeout=90)["error_message"]
        assert endpoint.purge_queue() == {"removed": 0, "status": "completed"}
        with pytest.raises(RuntimeError, match="401"):
            runpod.Endpoint("desk", api_key="wrong").health()

    await asyncio.to_thread(synchronously)

    async with aiohttp.ClientSession() as session:
        endpoint = runpod.AsyncioEndpoint("desk", session, api_key=key)
        job = await endpoint.run({"do": "echo", "value": 3})
        assert (await job.output(timeout=90))["echo"] == 3
        workers = (await endpoint.health())["workers"]
        assert (workers["idle"], workers["running"]) == (1, 0)


async def test_the_sdks_generators_stream(
    gateway: GatewayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.add_sdk_worker(COMMAND, environment={"TEST_HANDLER": "chunks"})
    assert await gateway.wait_until_ready(START)
    monkeypatch.setattr(runpod, "endpoint_url_base", gateway.url)

    def synchronously() -> None:
        job = runpod.Endpoint("desk", api_key=TOKEN.get_secret_value()).run({"count": 3})
        assert list(job.stream()) == [{"chunk": n} for n in range(3)]
        assert job.output() == [{"chunk": n} for n in range(3)]

    await asyncio.to_thread(synchronously)
