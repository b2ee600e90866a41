"""Comfy API v2 beside a gateway, on its own queue, as `comfy-remote serve` has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from gated_sandbox import Gate
from helpers import free_port
from pydantic import SecretStr
from serve_kit import picture

from comfy_remote.api.beside_gateway import gateway_front
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.gateway.local_worker import LocalFiles
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings

TOKEN = SecretStr("a-token-for-this-test")
FINAL = ("succeeded", "failed", "canceled", "expired")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


class Served:
    """A gateway with the API, asked with its token."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.origin = url.removesuffix("/v2")
        self._session = session

    async def ask(self, path: str, body: object = None, key: str | None = None) -> tuple[int, Any]:
        method = "GET" if body is None else "POST"
        token = TOKEN.get_secret_value() if key is None else key
        headers = {"Authorization": f"Bearer {token}"}
        async with self._session.request(
            method, self.origin + path, json=body, headers=headers
        ) as answer:
            if answer.content_type == "application/json":
                return answer.status, await answer.json()
            return answer.status, await answer.read()

    async def until(self, job_id: str, *states: str) -> dict[str, Any]:
        async def reached() -> dict[str, Any]:
            while True:
                _, job = await self.ask(f"/api/v2/jobs/{job_id}")
                if job["status"] in states:
                    return dict(job)
                await asyncio.sleep(0.02)

        return await asyncio.wait_for(reached(), 60)


@asynccontextmanager
async def serving(folder: Path, engine_url: str, port: int = 0) -> AsyncIterator[Served]:
    gateway = GatewayServer(
        endpoint_id="desk",
        port=port,
        token=TOKEN,
        limits=GatewayLimits(poll_wait=5.0, free_bytes=0),
        folder=folder / "gateway",
    )
    front = gateway_front(gateway, TOKEN)
    engine = Engine.named(engine_url)
    async with AsyncExitStack() as running:
        running.callback(engine.stop)
        await running.enter_async_context(gateway)
        running.push_async_callback(front.close)
        files = LocalFiles(gateway.endpoint)
        settings = WorkerSettings(folder=folder / "worker")
        gateway.add_local_worker(JobHandler(engine, settings, store=files, inputs=files))
        session = await running.enter_async_context(aiohttp.ClientSession())
        yield Served(gateway.url, session)


async def test_a_job_runs_on_the_gateways_own_queue(
    tmp_path: Path, home: Path, sandbox_url: str
) -> None:
    async with serving(tmp_path, sandbox_url) as served:
        # What the gateway serves besides stays as it is, and nothing was opened for the API.
        assert (await served.ask("/"))[1].startswith(b"<!doctype html>")
        assert (await served.ask("/v2/desk/health"))[0] == 200
        assert not (home / "api").exists()
        status, refused = await served.ask("/api/v2/jobs", {"workflow": picture()}, key="another")
        assert (status, refused["error"]["code"]) == (401, "unauthorized")
        assert not (home / "api").exists()

        status, job = await served.ask("/api/v2/jobs", {"workflow": picture()})
        assert status == 201, job
        ended = await served.until(job["id"], *FINAL)
        assert ended["status"] == "succeeded", ended
        [output] = ended["outputs"]
        assert output["url"].startswith(f"{served.origin}/api/v2/assets/")
        _, content = await served.ask(output["url"].removeprefix(served.origin))
        assert (content[:4], len(content)) == (b"\x89PNG", output["size_bytes"])
        _, health = await served.ask("/v2/desk/health")
        assert health["jobs"]["completed"] == 1
        status, refused = await served.ask("/api/v2/nothing")
        assert (status, refused["error"]["code"]) == (404, "not_found")


async def test_a_job_outlives_the_process_that_served_it(tmp_path: Path, gated_url: str) -> None:
    gate, port = Gate(tmp_path), free_port()
    async with serving(tmp_path, gated_url, port) as served:
        _, job = await served.ask("/api/v2/jobs", {"workflow": gate.prompt})
        await served.until(job["id"], "running")
    gate.open()
    async with serving(tmp_path, gated_url, port) as served:
        ended = await served.until(job["id"], *FINAL)
        assert ended["status"] == "succeeded", ended
        assert len(ended["outputs"]) == 1
