"""Our client of Comfy API v2 on our server of it: what both say of the API fits together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from api_kit import Front, front
from PIL import Image

from comfy_remote import Client
from comfy_remote.errors import WorkflowInvalid, node_problems
from comfy_remote.events import (
    DidItRun,
    Finished,
    JobState,
    OutputReady,
    Preview,
    Progress,
    Started,
)
from comfy_remote.jobs.record import Record
from comfy_remote.sandbox.server import SandboxServer
from comfy_remote.targets.comfy_api.target import ComfyApiTarget
from comfy_remote.targets.comfyui.target import ComfyUITarget

EMPTY = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
PROMPT: Any = {
    "1": {"class_type": "EmptyImage", "inputs": EMPTY},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
}
JOB = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Front]:
    """A front on a sandbox."""
    async with (
        SandboxServer() as engine,
        front(tmp_path / "front", ComfyUITarget(engine.url)) as made,
    ):
        yield made


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with Record(tmp_path / "ours") as made:
        yield made


def client_of(served: Front, record: Record) -> Client:
    url = served.url.removesuffix("/api/v2")
    return Client(ComfyApiTarget(url, name="front"), record=record, on_interrupt=None)


def slow(steps: int, seconds: float) -> dict[str, Any]:
    inputs = {"image": ["1", 0], "steps": steps, "seconds_per_step": seconds, "seed": 1}
    return {
        "1": PROMPT["1"],
        "3": {"class_type": "SandboxSlow", "inputs": {**inputs, "preview": True}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "a"}},
    }


async def test_a_job_with_an_input_file(served: Front, record: Record, tmp_path: Path) -> None:
    picture = tmp_path / "in.png"
    Image.new("RGB", (16, 16), (0, 255, 0)).save(picture)
    prompt: Any = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "b/c"}},
    }
    for number in range(2):
        async with client_of(served, record) as client:
            job = await client.submit(prompt, inputs=[picture])
            (saved,) = await job.save_outputs(tmp_path / f"out{number}")
            (announced,) = job.finished.outputs  # type: ignore[union-attr]
        with Image.open(saved.path) as made:
            assert made.getpixel((0, 0)) == (255, 0, 255)
        assert (announced.node_id, announced.size) == ("3", saved.size)
        assert announced.blake3 is not None


async def test_progress_previews_and_a_cancel(served: Front, record: Record) -> None:
    seen: list[Any] = []
    steps: list[Progress] = []
    asked = False
    async with client_of(served, record) as client:
        job = await client.submit(slow(10_000, 0.02))
        async for event in job:
            seen.append(event)
            if isinstance(event, Progress) and event.steps == 10_000:
                steps.append(event)
            if not asked and steps and any(isinstance(one, Preview) for one in seen):
                asked = True
                await job.cancel()
    end = seen[-1]
    assert isinstance(end, Finished)
    assert (end.state, end.did_it_run) == (JobState.CANCELLED, DidItRun.STOPPED)
    assert sum(isinstance(one, Started) for one in seen) == 1
    assert steps[0].node_id == "3"


async def test_each_output_is_said_once(served: Front, record: Record) -> None:
    async with client_of(served, record) as client:
        events = [event async for event in await client.submit(slow(3, 0.0))]
    end = events[-1]
    assert isinstance(end, Finished)
    assert (end.state, len(end.outputs), end.problems) == (JobState.SUCCEEDED, 1, ())
    assert sum(isinstance(one, OutputReady) for one in events) == 1


async def test_a_refused_workflow_has_its_nodes_marked(served: Front, record: Record) -> None:
    prompt = {**PROMPT, "1": {"class_type": "EmptyImage", "inputs": {**EMPTY, "width": "wide"}}}
    async with client_of(served, record) as client:
        with pytest.raises(WorkflowInvalid) as caught:
            await client.submit(prompt)
    assert {node for node, _, _ in node_problems(caught.value)} == {"1"}
    assert DidItRun.of(caught.value) is DidItRun.NEVER_ACCEPTED


async def test_a_job_is_found_by_its_label_and_resumed(
    served: Front, record: Record, tmp_path: Path
) -> None:
    async with client_of(served, record) as client:
        job = await client.submit(PROMPT, job_id=JOB)
        assert await client.target.find(JOB) == job.ref
        (saved,) = await (await client.resume(JOB)).save_outputs(tmp_path / "out")
        assert saved.path.is_file()
        assert await client.target.recall(job.ref.remote_id) is not None  # type: ignore[attr-defined]
