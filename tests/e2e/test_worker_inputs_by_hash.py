"""Inputs that the worker keeps: client → gateway → the real RunPod SDK → an engine."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import real_comfyui
from PIL import Image
from pydantic import SecretStr
from record_sql import sql

from comfy_remote import Client
from comfy_remote.events import Event, Finished, JobState, Log, Queued, Started
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.jobs.job import Job
from comfy_remote.jobs.record import Record
from comfy_remote.net.http import HttpClient
from comfy_remote.targets.runpod.target import RunPodTarget

pytest.importorskip("runpod")

TOKEN = SecretStr("a-token-for-this-test")
INVERT: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
    "2": {"class_type": "ImageScale", "inputs": {
        "image": ["1", 0], "upscale_method": "nearest-exact", "width": 8, "height": 8,
        "crop": "disabled",
    }},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "inv"}},
}  # fmt: skip
BUSY: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {
        "class_type": "SandboxSlow",
        "inputs": {"image": ["1", 0], "steps": 30, "seconds_per_step": 0.1, "seed": 0},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "s"}},
}


@dataclass
class Endpoint:
    gateway: GatewayServer
    folder: Path
    bodies: list[bytes] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return self.gateway.endpoint_url.rpartition("/")[0]

    def target(self) -> RunPodTarget:
        return RunPodTarget("ep", TOKEN, base_url=self.base_url)

    def forget(self) -> None:
        """As if another worker, without a volume, took the next job."""
        shutil.rmtree(self.folder / "worker/inputs")

    async def run(self, record: Record, picture: Path) -> tuple[Job, list[Event]]:
        async with Client(self.target(), record=record) as client:
            job = await client.submit(INVERT, inputs=[picture])
            events: list[Event] = [event async for event in job]
            [output] = await job.outputs()
            assert output.image().size == (8, 8)
            return job, events


@asynccontextmanager
async def endpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, engine: str = "sandbox"
) -> AsyncIterator[Endpoint]:
    environment = {
        "COMFY_REMOTE_WORKER_DIR": str(folder / "worker"),
        "COMFYUI_ARGS": f"--cpu --disable-all-custom-nodes --base-directory '{folder}'",
    }
    entry = [sys.executable, "-m", "comfy_remote.worker.runpod_entry", "--engine", engine]
    limits = GatewayLimits(poll_wait=5.0)
    # As at RunPod: what a gateway does with large files is in test_gateway_large_inputs.
    monkeypatch.setattr("comfy_remote.gateway.client_routes.FILES_HEADER", "X-Not-Ours")
    async with GatewayServer(endpoint_id="ep", token=TOKEN, limits=limits) as gateway:
        gateway.add_sdk_worker(entry, environment=environment)
        assert await gateway.wait_until_ready(110.0)
        made = Endpoint(gateway, folder)
        submit = HttpClient.submit

        async def watched(self: HttpClient, path: str, body: bytes, headers: Any) -> Any:
            made.bodies.append(body)
            made.keys.append(headers["Idempotency-Key"])
            return await submit(self, path, body, headers)

        monkeypatch.setattr(HttpClient, "submit", watched)
        yield made


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """5 MB, which no compression makes smaller."""
    pixels = np.random.default_rng(3).integers(0, 256, (1290, 1290, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    path = tmp_path / "in.png"
    path.write_bytes(buffer.getvalue())
    assert path.stat().st_size > 4_900_000
    return path


@pytest.fixture(params=["sandbox", pytest.param("comfyui", marks=pytest.mark.comfyui)])
async def server(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Endpoint]:
    engine = request.param
    if engine == "comfyui":
        found = real_comfyui()
        engine = str(found)
    async with endpoint(tmp_path, monkeypatch, engine) as made:
        yield made


async def test_a_repeat_sends_no_bytes_and_a_miss_sends_them_within_the_same_job(
    server: Endpoint, tmp_path: Path, picture: Path
) -> None:
    with Record(tmp_path / "home") as record:
        await server.run(record, picture)
        await server.run(record, picture)
        sizes = [len(body) for body in server.bodies]
        assert sizes[0] > 6_000_000
        assert sizes[1] < 100_000
        assert len(sizes) == 2

        server.forget()
        job, events = await server.run(record, picture)
        assert [len(body) > 6_000_000 for body in server.bodies[2:]] == [False, True]
        assert server.keys[2:] == [f"{job.id}:by-hash", job.id]
        # One job, as one sees it: it begins once, it ends once, and says what has happened.
        assert sum(isinstance(event, Started) for event in events) == 1
        assert [type(event) for event in events].index(Started) <= 1
        assert [isinstance(event, Finished) for event in events].index(True) == len(events) - 1
        assert any(isinstance(e, Log) and "sent again" in e.message for e in events)
        assert not any(isinstance(e, Queued) for e in events[1:])
        entry = record.get(job.id)
        assert (entry.state, entry.error) == (JobState.SUCCEEDED, None)
        assert len(record.newest()) == 3

        await server.run(record, picture)
        assert len(server.bodies[-1]) < 100_000


@pytest.fixture
async def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Endpoint]:
    async with endpoint(tmp_path, monkeypatch) as made:
        yield made


async def test_a_client_that_is_killed_after_a_hash_is_resumed_with_the_bytes(
    sandbox: Endpoint, tmp_path: Path, picture: Path
) -> None:
    workflow = tmp_path / "workflow.json"
    workflow.write_text(json.dumps(INVERT))
    home = tmp_path / "home"
    environ = {
        **os.environ,
        "COMFY_REMOTE_HOME": str(home),
        "RUNPOD_API_KEY": TOKEN.get_secret_value(),
        "RUNPOD_ENDPOINT_BASE_URL": sandbox.base_url,
    }

    async def command(*arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfy_remote", *arguments),
            cwd=tmp_path,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    run = ("run", "workflow.json", "--on", "runpod:ep", "--input", "in.png", "--output", "out")
    first = await command(*run)
    said = await first.communicate()
    assert first.returncode == 0, said
    sandbox.forget()
    with Record(home) as record:
        async with Client(sandbox.target(), record=record) as client:
            busy = await client.submit(BUSY)  # so that the next job waits
            second = await command(*run)
            deadline = asyncio.get_running_loop().time() + 60.0
            while (entry := record.newest(1)[0]).id == busy.id or entry.ref is None:
                assert second.returncode is None, await second.communicate()
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.02)
            second.kill()
            await second.wait()
            assert entry.state is not JobState.SUCCEEDED
            await busy.wait()
        [request] = sql(record.path, "SELECT request FROM jobs WHERE id = ?", entry.id)
        assert json.loads(request["request"])["known_inputs"]
    third = await command("jobs", "resume", entry.id)
    said = await third.communicate()
    assert third.returncode == 0, said
    with Record(home) as record:
        ended = record.get(entry.id)
        assert ended.state is JobState.SUCCEEDED
        assert ended.ref != entry.ref
        assert len(ended.outputs) == 1
        assert Image.open(ended.outputs[0].path).size == (8, 8)
        assert sql(record.path, "SELECT * FROM jobs WHERE request IS NOT NULL") == []


async def test_two_who_follow_one_job_send_it_once_more_only_once(
    sandbox: Endpoint, tmp_path: Path, picture: Path
) -> None:
    with Record(tmp_path / "home") as record, Record(tmp_path / "home") as other:
        await sandbox.run(record, picture)
        sandbox.forget()
        async with Client(sandbox.target(), record=record) as client:
            job = await client.submit(INVERT, inputs=[picture])

            async def resumed() -> Finished:
                async with Client(sandbox.target(), record=other) as another:
                    return await (await another.resume(other.get(job.id))).wait()

            ends = await asyncio.gather(job.wait(), resumed())
        assert [end.state for end in ends] == [JobState.SUCCEEDED] * 2
        assert ends[0].outputs == ends[1].outputs
        assert len(sandbox.bodies) == 3
