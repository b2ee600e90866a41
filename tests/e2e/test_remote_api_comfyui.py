"""Remote API in a real ComfyUI: a service's results, a target's, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lane_page import page
from owner import confirm
from pack import PackServer, comfyui_with_pack
from service_kit import Service, workflow

from comfy_remote.errors import ExecutionFailed, JobCancelled, WorkflowInvalid
from comfy_remote.events import Progress
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.job import Job
from comfy_remote.jobs.record import Record

pytestmark = pytest.mark.comfyui
KEY = "a-key-that-is-nowhere-written"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackServer]:
    base = tmp_path_factory.mktemp("comfyui")
    environment = {
        "COMFY_REMOTE_TOKEN_127_0_0_1": KEY,
    }
    with comfyui_with_pack(base, environment=environment) as running:
        yield running


@pytest.fixture
async def client(server: PackServer, tmp_path: Path) -> AsyncIterator[Client]:
    with Record(tmp_path / "own" / "home") as record:
        async with Client(server.url, record=record) as client:
            yield client


@pytest.fixture
def service(tmp_path: Path, sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    return Service(tmp_path, sandbox_url)


def _calling(url: str, color: int = 0x804020, **inputs: Any) -> Any:
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 16, "height": 8, "batch_size": 2, "color": color},
        },
        "2": {"class_type": "ComfyRemoteNode", "inputs": {"url": url, **inputs}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }


async def _pixels(job: Job) -> list[Any]:
    return [np.asarray(output.image()) for output in await job.outputs()]


@pytest.mark.parametrize(
    "inputs",
    [
        {"input_0": ["1", 0], "keys": "image"},
        {"image": ["1", 0]},
        {"input_0_$remote_inputs_ag$": ["1", 0], "keys": "image"},
        {"remote_inputs.input_0": ["1", 0], "keys": " image "},
        {"input_7": ["1", 0], "keys": ",,,,,,,image", "output_type": "IMAGE"},
        {"input_40": ["1", 0], "keys": "," * 40 + "image"},
    ],
)
async def test_a_service_changes_a_picture(
    client: Client, server: PackServer, service: Service, inputs: dict[str, Any]
) -> None:
    async with service.running() as running:
        confirm(server.home, running.url)
        prompt = _calling(running.url, output_key="picture", poll_interval=0.1, **inputs)
        pictures = await _pixels(await client.submit(prompt))
    assert len(pictures) == 2
    # Inverted in float32, cut off to 8 bits as SaveImage does it.
    assert pictures[0][0, 0].tolist() == [126, 191, 223]


async def test_its_key_is_the_environments_and_nowhere_else(
    client: Client, service: Service, server: PackServer
) -> None:
    from pydantic import SecretStr

    async with service.running(SecretStr(KEY)) as running:
        confirm(server.home, running.url)
        prompt = _calling(
            running.url, 1, keys="image", input_0=["1", 0], output_key="picture", poll_interval=0.1
        )
        outputs = await (await client.submit(prompt)).outputs()
    assert server.log is not None
    written = server.log.read_bytes() + b"".join(output.bytes() for output in outputs)
    assert KEY.encode() not in written


async def test_a_workflow_on_the_same_comfyui_would_wait_for_ever(
    client: Client, server: PackServer
) -> None:
    confirm(server.home, server.url)
    prompt = _calling(server.url, 3, workflow=json.dumps(workflow()), output_key="picture")
    job = await client.submit(prompt, timeout=60)
    with pytest.raises(ExecutionFailed, match="is this ComfyUI"):
        await job.outputs()


async def test_progress_and_interrupt_reach_the_service(
    client: Client, server: PackServer, service: Service
) -> None:
    async with service.running() as running:
        confirm(server.home, running.url)
        prompt = _calling(
            running.url,
            2,
            keys="image,steps",
            input_0=["1", 0],
            steps=["4", 0],
            output_key="slowly",
            poll_interval=0.1,
        )
        prompt["4"] = {"class_type": "PrimitiveInt", "inputs": {"value": 900}}
        job = await client.submit(prompt)
        seen = []
        async for event in job:
            if isinstance(event, Progress) and event.node_id == "2" and event.step:
                seen.append((event.step, event.steps))
                if len(seen) == 2:
                    await job.cancel()
        assert seen[0] < seen[1]
        assert job.finished is not None
        assert isinstance(job.finished.error, JobCancelled)
        with Record(service.folder / "home") as record:
            for _ in range(50):
                (entry,) = record.newest()
                if entry.state.final:
                    break
                await asyncio.sleep(0.2)
        assert entry.state.value == "cancelled"


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"output_key": "picture", "output_type": "MASK"}, "MASK"),
        ({"output_key": "nothing"}, "picture, said, slowly"),
        ({}, "several results"),
        ({"keys": "imagge", "output_key": "picture"}, "imagge"),
        ({"url": "http://169.254.169.254/latest"}, "cannot be the address of a service"),
        ({"url": "http://example.com/"}, "not https"),
        ({"url": "sandbox"}, "not a service"),
        ({"url": "http://127.0.0.1:9/"}, "could not be reached"),
    ],
)
async def test_what_goes_wrong_is_told(
    client: Client, server: PackServer, service: Service, inputs: dict[str, Any], words: str
) -> None:
    async with service.running() as running:
        named = ("http://169.254.169.254", "http://example.com", "http://127.0.0.1:9")
        confirm(server.home, running.url, *named)
        given = {"url": running.url, "keys": "image", **inputs}
        prompt = _calling(input_0=["1", 0], poll_interval=0.1, color=3, **given)
        with pytest.raises(ExecutionFailed, match=words):
            await (await client.submit(prompt)).outputs()


async def test_nothing_is_sent_to_an_address_that_nobody_has_confirmed(
    client: Client, server: PackServer, service: Service
) -> None:
    async with service.running() as running:
        address = f"http://localhost:{running.url.rstrip('/').rpartition(':')[2]}"
        with pytest.raises(WorkflowInvalid, match="is not confirmed"):
            await client.submit(_calling(address, 7, input_0=["1", 0], keys="image"))
        # Linked, it is known only when the node runs.
        prompt = _calling(address, 8, input_0=["1", 0], keys="image")
        prompt["2"]["inputs"]["url"] = ["4", 0]
        prompt["4"] = {"class_type": "PrimitiveString", "inputs": {"value": address}}
        async with page(server.url) as shown:
            answer = await shown.queue(prompt)
            entry = await shown.ended(answer.body["prompt_id"])
            asked = await shown.heard("comfy_remote.confirm")
    assert asked["address"] == address
    assert asked["nodes"] == [{"node_id": "2", "title": "Remote API", "address": address}]
    (error,) = [data for kind, data in entry["status"]["messages"] if kind == "execution_error"]
    assert "an address that you have not confirmed" in error["exception_message"]
    with Record(service.folder / "home") as record:
        assert record.newest() == []


async def test_a_workflow_runs_on_a_target(
    client: Client, sandbox_url: str, server: PackServer
) -> None:
    folder = server.directory / "user/default/workflows"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "invert.json").write_text(json.dumps(workflow()))
    confirm(server.home, sandbox_url)
    for given in ("invert.json", json.dumps(workflow())):
        prompt = _calling(
            sandbox_url, 4, keys="image", input_0=["1", 0], output_key="picture", workflow=given
        )
        pictures = await _pixels(await client.submit(prompt))
        assert pictures[0][0, 0].tolist() == [0xFF, 0xFF, 0xFB]


@pytest.mark.parametrize(
    ("kind", "making", "saving", "slot"),
    [
        (
            "LATENT",
            {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64}},
            {"class_type": "SaveLatent", "inputs": {"filename_prefix": "x"}},
            "samples",
        ),
        (
            "AUDIO",
            {"class_type": "EmptyAudio", "inputs": {"duration": 1.0}},
            {"class_type": "SaveAudio", "inputs": {"filename_prefix": "x"}},
            "audio",
        ),
        (
            "VIDEO",
            {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
            {
                "class_type": "SaveVideo",
                "inputs": {"filename_prefix": "x", "format": "mp4", "codec": "h264"},
            },
            "video",
        ),
    ],
)
async def test_other_types_come_back_as_they_went(
    client: Client,
    server: PackServer,
    service: Service,
    kind: str,
    making: dict[str, Any],
    saving: dict[str, Any],
    slot: str,
) -> None:
    if kind == "LATENT":
        making["inputs"]["batch_size"] = 1
    if kind == "AUDIO":
        making["inputs"].update(sample_rate=44100, channels=2)
    async with service.running() as running:
        confirm(server.home, running.url)
        prompt = _calling(
            running.url,
            5,
            input_0=["1", 0],
            input_1=["4", 0],
            keys="image, words",
            output_key="said",
            output_type=kind,
            poll_interval=0.1,
        )
        prompt["4"] = making
        prompt["3"] = {**saving, "inputs": {**saving["inputs"], slot: ["2", 0]}}
        (output,) = await (await client.submit(prompt)).outputs()
    assert output.size > 100
