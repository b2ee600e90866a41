"""A damaged file among a RunPod job's outputs: it costs none of the others."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image
from pydantic import JsonValue, SecretStr
from scripted_server import Answer, ScriptedServer
from test_runpod_target import ACCEPTED, KEY, RUN, STATUS, TIMES

from comfy_remote import Client
from comfy_remote.errors import OutputCorrupt
from comfy_remote.jobs.job import Job
from comfy_remote.targets.runpod.kind import EndpointOptions
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.workflow.prompt import Prompt

PROMPT: Prompt = {
    "1": {"class_type": "EmptyImage", "inputs": {}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "good"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "bad"}},
}


def picture() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    return data.getvalue()


GOOD, BAD = picture(), picture()[:40]


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


class Endpoint:
    """An endpoint whose job has ended, and storage beside it."""

    def __init__(self, server: ScriptedServer, storage: ScriptedServer, client: Client) -> None:
        self.server, self.storage, self.client = server, storage, client

    async def job(self, output: JsonValue) -> Job:
        status = {"id": "abc-e1", "status": "COMPLETED", "output": output}
        self.server.on(RUN, ACCEPTED)
        self.server.on(STATUS, Answer(status))
        return await self.client.submit(PROMPT)


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with ScriptedServer() as server, ScriptedServer() as storage:
        target = RunPodTarget(
            "ep",
            SecretStr(KEY),
            base_url=f"{server.url}/v2",
            options=EndpointOptions(storage_hosts=[f"127.0.0.1:{storage.port}"]),
            times=TIMES,
        )
        async with Client(target) as client:
            yield Endpoint(server, storage, client)


def inline(name: str, content: bytes) -> dict[str, JsonValue]:
    return {"filename": name, "type": "base64", "data": base64_of(content)}


async def saved(job: Job, folder: Path) -> dict[str, bytes]:
    return {one.path.name: one.path.read_bytes() for one in await job.save_outputs(folder)}


BOTH = {"good_00001_.png": GOOD, "bad_00001_.png": BAD}


async def test_one_inside_the_answer_is_written_and_said(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    images: list[JsonValue] = [inline(name, content) for name, content in BOTH.items()]
    job = await endpoint.job({"images": images})
    assert await saved(job, tmp_path) == BOTH
    [problem] = job.problems
    assert (problem.node_id, problem.filename) == ("3", "bad_00001_.png")
    assert problem.reason == "bad_00001_.png is cut off or damaged (40 bytes arrived)."


async def test_one_whose_hash_is_as_announced_is_written(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    outputs: list[JsonValue] = [
        {
            "node_id": node_id,
            "kind": "image",
            "filename": name,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "data": base64_of(content),
        }
        for node_id, (name, content) in zip(("2", "3"), BOTH.items(), strict=True)
    ]
    job = await endpoint.job({"format": "comfy-remote/1", "status": "success", "outputs": outputs})
    assert await saved(job, tmp_path) == BOTH


async def test_one_from_storage_is_written_if_it_comes_twice_the_same(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    address = f"{endpoint.storage.url}/bad.png"
    images: list[JsonValue] = [
        inline("good_00001_.png", GOOD),
        {"filename": "bad_00001_.png", "type": "s3_url", "data": address},
    ]
    # Cut off on its way, differently each time: the next try may bring it whole.
    endpoint.storage.on("GET /bad.png", Answer(BAD), Answer(BAD[:30]))
    job = await endpoint.job({"images": images})
    with pytest.raises(OutputCorrupt):
        await job.save_outputs(tmp_path / "first")
    assert [path.name for path in (tmp_path / "first").iterdir()] == ["good_00001_.png"]

    endpoint.storage.on("GET /bad.png", Answer(BAD), Answer(BAD))
    assert await saved(job, tmp_path / "second") == BOTH
    assert [problem.filename for problem in job.problems] == ["bad_00001_.png"]
