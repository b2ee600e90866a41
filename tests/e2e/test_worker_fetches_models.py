"""Models that a workflow says where to get: client → gateway → the real RunPod SDK → an engine.

The sandbox's nodes need no model; its tests have a prompt that names one all the same, in an input
that the node does not look at. ComfyUI's tests upscale with a model that really is fetched.
"""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import real_comfyui
from model_server import File, ModelServer, safetensors, sha256
from PIL import Image
from pydantic import SecretStr
from safetensors.numpy import save

from comfy_remote import Client
from comfy_remote.errors import ExecutionFailed, WorkflowInvalid
from comfy_remote.events import Progress
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.jobs.record import Record
from comfy_remote.node_pack.refusals import refusal_body
from comfy_remote.targets.runpod.target import RunPodTarget

pytest.importorskip("runpod")

TOKEN = SecretStr("a-token-for-this-test")
MODEL = safetensors(1_500_000)
NAMED: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {
            "width": 8,
            "height": 8,
            "batch_size": 1,
            "color": 0,
            "ckpt_name": "a.safetensors",
        },
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
}
UPSCALED: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "tiny.safetensors"}},
    "3": {
        "class_type": "ImageUpscaleWithModel",
        "inputs": {"upscale_model": ["2", 0], "image": ["1", 0]},
    },
    "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "a"}},
}


def upscaler() -> bytes:
    """A whole model of Real-ESRGAN's compact kind, of a few weights: twice as large, and grey."""
    weights = {
        "body.0.weight": np.zeros((4, 3, 3, 3), np.float32),
        "body.0.bias": np.zeros(4, np.float32),
        "body.1.weight": np.ones(4, np.float32),
        "body.2.weight": np.zeros((4, 4, 3, 3), np.float32),
        "body.2.bias": np.zeros(4, np.float32),
        "body.3.weight": np.ones(4, np.float32),
        "body.4.weight": np.zeros((12, 4, 3, 3), np.float32),
        "body.4.bias": np.full(12, 0.5, np.float32),
    }
    return save(weights)


def saying(server: ModelServer, name: str, directory: str, **more: str) -> dict[str, Any]:
    """A workflow in UI format that says where to get a model."""
    source = {"name": name, "directory": directory, "url": f"{server.url}/{name}", **more}
    unused = {"name": "unused.safetensors", "directory": "loras", "url": f"{server.url}/unused"}
    return {"nodes": [{"id": 1, "type": "X", "properties": {"models": [source, unused]}}]}


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        server.files["/a.safetensors"] = File(MODEL)
        server.files["/tiny.safetensors"] = File(upscaler())
        yield server


@asynccontextmanager
async def client_of(
    folder: Path, server: ModelServer, engine: str = "sandbox", **environment: str
) -> AsyncIterator[Client]:
    """A client of an endpoint whose models are in ``folder/models``."""
    environment = {
        "COMFY_REMOTE_MODEL_HOSTS": server.host,
        "COMFY_REMOTE_VOLUME": str(folder / "no-volume"),
        "COMFYUI_ARGS": f"--cpu --disable-all-custom-nodes --base-directory '{folder}'",
        **({"COMFY_REMOTE_MODELS_DIR": str(folder / "models")} if engine == "sandbox" else {}),
        **environment,
    }
    entry = [sys.executable, "-m", "comfy_remote.worker.runpod_entry", "--engine", engine]
    limits = GatewayLimits(poll_wait=5.0)
    async with GatewayServer(endpoint_id="ep", token=TOKEN, limits=limits) as gateway:
        gateway.add_sdk_worker(entry, environment=environment)
        assert await gateway.wait_until_ready(110.0)
        target = RunPodTarget("ep", TOKEN, base_url=gateway.endpoint_url.rpartition("/")[0])
        with Record(folder / "home") as record:
            async with Client(target, record=record) as client:
                yield client


async def pictures(client: Client, prompt: Any, workflow: Any) -> list[Image.Image]:
    job = await client.submit(prompt, embed=workflow)
    return [Image.open(io.BytesIO(output.bytes())) for output in await job.outputs()]


async def test_what_the_worker_lacks_is_fetched_before_the_run(
    server: ModelServer, tmp_path: Path
) -> None:
    ours = tmp_path / "models/loras/ours.safetensors"
    ours.parent.mkdir(parents=True)
    ours.write_bytes(MODEL)
    server.files["/a.safetensors"].slow = 0.1
    async with client_of(tmp_path, server, DOWNLOAD_MODELS="true") as client:
        workflow = saying(server, "a.safetensors", "checkpoints")
        job = await client.submit(NAMED, embed=workflow)
        said = [event.message async for event in job if isinstance(event, Progress)]
        assert any("Fetching a.safetensors" in words for words in said), said
        assert (await job.outputs())[0].image().size == (8, 8)
        assert (tmp_path / "models/checkpoints/a.safetensors").read_bytes() == MODEL
        # Only what the prompt uses, nothing twice, and nothing is pruned.
        assert await pictures(client, NAMED, workflow)
        assert server.fetched("/a.safetensors") == 1
        assert server.fetched("/unused") == 0
        other = {**NAMED, "1": {**NAMED["1"], "inputs": {**NAMED["1"]["inputs"], "ckpt_name": "b"}}}
        assert await pictures(client, other, saying(server, "b", "checkpoints"))
    assert (tmp_path / "models/checkpoints/a.safetensors").exists()
    assert ours.exists()


async def test_what_may_not_be_fetched_fails_no_job_that_runs_without(
    server: ModelServer, tmp_path: Path
) -> None:
    async with client_of(tmp_path / "base", server) as client:
        workflow = saying(server, "a.safetensors", "checkpoints")
        assert len(await pictures(client, NAMED, workflow)) == 1
    assert server.asked == []
    assert list(tmp_path.rglob("*.safetensors")) == []


@pytest.mark.comfyui
async def test_a_comfyui_upscales_with_a_model_that_is_fetched_for_the_run(
    server: ModelServer, tmp_path: Path
) -> None:
    folder = real_comfyui()
    content = server.files["/tiny.safetensors"].content
    workflow = saying(
        server, "tiny.safetensors", "upscale_models", hash=sha256(content), hash_type="SHA256"
    )
    async with client_of(tmp_path, server, str(folder), DOWNLOAD_MODELS="true") as client:
        [picture] = await pictures(client, UPSCALED, workflow)
        assert picture.size == (16, 16)
    assert (tmp_path / "models/upscale_models/tiny.safetensors").read_bytes() == content


@pytest.mark.comfyui
async def test_a_comfyui_that_refuses_is_explained(server: ModelServer, tmp_path: Path) -> None:
    folder = real_comfyui()
    workflow = saying(server, "tiny.safetensors", "upscale_models")
    async with client_of(tmp_path, server, str(folder)) as client:
        # ComfyUI 0.3.64 does not look at a list that is empty: there, the node fails.
        with pytest.raises((WorkflowInvalid, ExecutionFailed)) as caught:
            await pictures(client, UPSCALED, workflow)
        assert "upscale_models/tiny.safetensors" in caught.value.message
        assert "DOWNLOAD_MODELS=true" in caught.value.advice
        assert caught.value.details["missing_models"] == ["upscale_models/tiny.safetensors"]
        assert "2" in (
            refusal_body(caught.value)["node_errors"] or [caught.value.details["node_id"]]
        )
        # A refusal of something else has no word of it.
        broken = {**UPSCALED, "1": {**UPSCALED["1"], "class_type": "NoSuchNode"}}
        with pytest.raises(WorkflowInvalid) as caught:
            await pictures(client, broken, workflow)
        assert "DOWNLOAD_MODELS" not in str(caught.value)
    assert server.fetched("/tiny.safetensors") == 0
