"""Whether a job ran, on a real ComfyUI: withdrawn from its queue, interrupted, refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_remote import Client
from comfy_remote.errors import WorkflowInvalid
from comfy_remote.events import DidItRun
from comfy_remote.jobs.record import Record


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    with Record(tmp_path / "home") as made:
        yield made


def prompt(size: int, seed: int) -> dict[str, Any]:
    """A picture scaled so often that it takes seconds, also on a fast machine."""
    nodes: dict[str, Any] = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": seed},
        },
        "save": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    for number in range(2, 2 + size):
        nodes[str(number)] = {
            "class_type": "ImageScale",
            "inputs": {
                "image": [str(number - 1), 0],
                "upscale_method": "lanczos",
                "width": 3000 + number % 2,
                "height": 3000,
                "crop": "disabled",
            },
        }
        nodes["save"]["inputs"]["images"] = [str(number), 0]
    return nodes


async def test_on_a_real_comfyui(comfyui_url: str, record: Record) -> None:
    async with Client(comfyui_url, record=record) as client:
        running = await client.submit(prompt(40, 1))
        waiting = await client.submit(prompt(40, 2))
        await waiting.cancel()
        assert (await waiting.wait()).did_it_run is DidItRun.WITHDRAWN
        while (await running.look()).value == "queued":
            await asyncio.sleep(0.1)
        await running.cancel()
        assert (await running.wait()).did_it_run is DidItRun.STOPPED
        refused = prompt(0, 3)
        refused["save"]["class_type"] = "NoSuchNode"
        with pytest.raises(WorkflowInvalid) as caught:
            await client.submit(refused)
    assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED
    assert record.get(waiting.id).did_it_run is DidItRun.WITHDRAWN
    assert record.get(running.id).did_it_run is DidItRun.STOPPED
