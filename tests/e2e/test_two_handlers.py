"""Two workers in one process, as ``serve --gpus`` has them: what they share, what they do not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import JsonValue

from comfy_remote.worker.engines import Engines
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings


@dataclass
class Worker:
    handler: JobHandler
    started: asyncio.Event

    async def run(self, job_id: str, payload: JsonValue) -> dict[str, Any]:
        return await self.handler(job_id, payload, self._report)

    async def _report(self, snapshot: dict[str, JsonValue]) -> None:
        if snapshot.get("node_class") == "SandboxSlow":
            self.started.set()


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[list[Worker]]:
    settings = WorkerSettings(folder=tmp_path / "worker", result_limit=20_000)
    engines = await Engines.choose(["sandbox", "sandbox"], folder=tmp_path, environ=os.environ)
    with engines:
        found = [Worker(one.handler(settings), asyncio.Event()) for one in engines]
        await asyncio.gather(*(one.handler.ready() for one in found))
        yield found


def picture() -> bytes:
    stream = io.BytesIO()
    Image.frombytes("RGB", (200, 200), os.urandom(200 * 200 * 3)).save(stream, "PNG")
    return stream.getvalue()


def passed_on(files: list[JsonValue]) -> dict[str, JsonValue]:
    return {
        "workflow": {
            "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
            "2": {
                "class_type": "SaveImage",
                "inputs": {"images": ["1", 0], "filename_prefix": "out"},
            },
        },
        "files": files,
        "format": "comfy-remote/1",
    }


def slow(seconds: float) -> dict[str, JsonValue]:
    size = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
    steps = {"image": ["1", 0], "steps": 10, "seconds_per_step": seconds / 10, "preview": False}
    return {
        "workflow": {
            "1": {"class_type": "EmptyImage", "inputs": size},
            "2": {"class_type": "SandboxSlow", "inputs": steps},
            "3": {
                "class_type": "SaveImage",
                "inputs": {"images": ["2", 0], "filename_prefix": "slow"},
            },
        },
        "format": "comfy-remote/1",
    }


async def test_an_input_that_one_has_is_there_for_the_other(workers: list[Worker]) -> None:
    first, second = workers
    content = picture()
    sha256 = hashlib.sha256(content).hexdigest()
    sent: dict[str, JsonValue] = {
        "name": "in.png",
        "data": base64.b64encode(content).decode(),
        "sha256": sha256,
    }
    assert "error" not in await first.run("a", passed_on([sent]))
    named: dict[str, JsonValue] = {"name": "in.png", "sha256": sha256}
    answer = await second.run("b", passed_on([named]))
    assert "error" not in answer
    assert answer["worker"] == "engine2"


async def test_an_output_that_one_kept_can_be_fetched_from_the_other(workers: list[Worker]) -> None:
    first, second = workers
    content = picture()
    sent: dict[str, JsonValue] = {"name": "in.png", "data": base64.b64encode(content).decode()}
    (output,) = (await first.run("a", passed_on([sent])))["outputs"]
    part = await second.run(
        "b", {"action": "fetch", "kept": output["kept"], "offset": 0, "length": 10**6}
    )
    data = base64.b64decode(part["data"])
    assert hashlib.sha256(data).hexdigest() == output["sha256"]


async def test_a_cancel_on_one_leaves_the_others_job_alone(workers: list[Worker]) -> None:
    first, second = workers
    cancelled = asyncio.create_task(first.run("a", slow(60.0)))
    running = asyncio.create_task(second.run("b", slow(2.0)))
    await asyncio.gather(first.started.wait(), second.started.wait())
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert cancelled.cancelled()
    await asyncio.wait_for(first.handler.ready(), 60)
    answer = await running
    assert "error" not in answer
    assert answer["warnings"] == []
    assert "error" not in await first.run("c", slow(0.1))
