"""Calling a workflow on an endpoint: our client, the gateway, the real RunPod SDK, an engine."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import COMFYUI_PYTHON
from pack import install_pack
from pydantic import SecretStr

from comfy_remote.calls.target import call
from comfy_remote.events import Started
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.media.values import DecodedValue
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.workflow.prompt import Prompt

pytest.importorskip("runpod")

TOKEN = SecretStr("a-token-for-this-test")
ENTRY = [sys.executable, "-m", "comfy_remote.worker.runpod_entry", "--engine"]
START = 110.0


@dataclass
class Endpoint:
    """An endpoint with one worker.

    Attributes:
        client: Of it.
        folder: Where its engine has its folders; ``None`` for the sandbox, which has its own.
    """

    client: Client
    folder: Path | None


@asynccontextmanager
async def endpoint(
    engine: str, home: Path, folder: Path | None, **environment: str
) -> AsyncIterator[Endpoint]:
    limits = GatewayLimits(poll_wait=5.0)
    async with GatewayServer(endpoint_id="ep", token=TOKEN, limits=limits) as gateway:
        gateway.add_sdk_worker([*ENTRY, engine], environment=environment)
        assert await gateway.wait_until_ready(START)
        with Record(home) as record:
            target = RunPodTarget("ep", TOKEN, base_url=gateway.url)
            async with Client(target, record=record) as client:
                yield Endpoint(client, folder)


@pytest.fixture(params=["sandbox", pytest.param("comfyui", marks=pytest.mark.comfyui)])
async def there(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Endpoint]:
    """An endpoint on each kind of engine."""
    home = tmp_path / "home"
    if request.param == "sandbox":
        async with endpoint("sandbox", home, None) as made:
            yield made
        return
    comfyui = os.environ.get("COMFYUI_DIR")
    if not comfyui:
        pytest.skip("skipped: no ComfyUI")
    base = tmp_path / "comfyui"
    install_pack(base)
    environment = {
        "COMFYUI_ARGS": f"--cpu --base-directory '{base}'",
        "COMFYUI_PYTHON": COMFYUI_PYTHON,
        "COMFY_REMOTE_HOME": str(base / "home"),
    }
    async with endpoint(comfyui, home, base, **environment) as made:
        yield made


def node(class_type: str, **inputs: Any) -> Any:
    return {"class_type": class_type, "inputs": inputs}


def inverting() -> Prompt:
    return {
        "1": node("ComfyRemoteInput", key="image"),
        "2": node("ImageInvert", image=["1", 0]),
        "3": node("ComfyRemoteOutput", value=["2", 0], key="result"),
        "4": node("ComfyRemoteInput", key="number"),
        "5": node("ComfyRemoteOutput", value=["4", 0], key="number"),
    }


def picture(seed: int, side: int = 24) -> Any:
    return np.random.default_rng(seed).random((1, side, side, 3), dtype=np.float32)


async def inverted(client: Client, image: Any, number: int = 0) -> None:
    results = await call(client, inverting(), {"image": image, "number": number})
    assert (results["result"].type, results["number"].value) == ("IMAGE", [number])
    (value,) = results["result"].value  # type: ignore[misc]
    assert np.array_equal(value, np.float32(1) - image)


async def test_values_go_to_a_worker_and_come_back(there: Endpoint) -> None:
    client = there.client
    await inverted(client, picture(1))
    # All of it comes from the engine's cache now, and the files were cleaned up.
    await inverted(client, picture(1))
    # Several wait in the queue at the same time.
    await asyncio.gather(*(inverted(client, picture(n), n) for n in range(2, 7)))
    images = DecodedValue("IMAGE", True, [picture(1), picture(2, 16)])
    results = await call(client, inverting(), {"image": images, "number": 1})
    assert [value.shape for value in results["result"].value] == [  # type: ignore[attr-defined]
        (1, 24, 24, 3),
        (1, 16, 16, 3),
    ]
    # The worker's own: nothing of a job stays in its engine's folders.
    if there.folder is not None:
        left = [
            path
            for kind in ("input", "temp", "output")
            for path in (there.folder / kind).rglob("*.safetensors")
        ]
        assert left == []


async def test_a_result_larger_than_an_answer_may_be_comes_back_all_the_same(
    there: Endpoint,
) -> None:
    prompt: Prompt = {
        "1": node("EmptyImage", width=1280, height=1024, batch_size=2, color=0x336699),
        "2": node("ComfyRemoteOutput", value=["1", 0], key="result"),
    }
    results = await call(there.client, prompt, {})
    (value,) = results["result"].value  # type: ignore[misc]
    assert value.nbytes > 30_000_000
    assert np.array_equal(np.unique(value), np.float32([0x33, 0x66, 0x99]) / np.float32(255))


async def test_a_cancelled_call_stops_on_the_worker(tmp_path: Path) -> None:
    async with endpoint("sandbox", tmp_path / "home", None) as there:
        prompt: Prompt = {
            "1": node("ComfyRemoteInput", key="image"),
            "2": node(
                "SandboxSlow", image=["1", 0], steps=3000, seconds_per_step=0.2, preview=False
            ),
            "3": node("ComfyRemoteOutput", value=["2", 0], key="result"),
        }
        started = asyncio.Event()
        task = asyncio.create_task(
            call(
                there.client,
                prompt,
                {"image": picture(1)},
                on_event=lambda event: started.set() if isinstance(event, Started) else None,
            )
        )
        await asyncio.wait_for(started.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The worker is free for the next one, long before the slow one would have ended.
        await asyncio.wait_for(inverted(there.client, picture(2)), 60)
