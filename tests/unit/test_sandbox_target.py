"""The sandbox as a target: started in a process of its own, and never left by accident."""

from __future__ import annotations

import asyncio
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from comfy_remote.events import Finished, JobState
from comfy_remote.targets.base import RunRequest
from comfy_remote.targets.sandbox.target import SandboxTarget, launch_sandbox
from comfy_remote.workflow.prompt import Prompt


async def test_a_module_in_the_users_folder_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heapq.py").write_text("raise SystemExit('not the heapq of Python')")
    monkeypatch.chdir(tmp_path)
    async with SandboxTarget() as target:
        assert (await target.health()).ready == 1


async def test_a_start_that_is_cancelled_leaves_no_process() -> None:
    launched: list[subprocess.Popen[bytes]] = []

    def remembered() -> subprocess.Popen[bytes]:
        launched.append(launch_sandbox())
        return launched[-1]

    start = asyncio.ensure_future(SandboxTarget(launch=remembered).__aenter__())
    while not launched:
        await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert launched[0].returncode is not None


async def test_one_that_ended_by_itself_is_started_again() -> None:
    prompt: Prompt = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 1},
        },
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    launched: list[subprocess.Popen[bytes]] = []

    def first_ends_soon() -> subprocess.Popen[bytes]:
        launched.append(launch_sandbox(1800.0 if launched else 0.3))
        return launched[-1]

    async with SandboxTarget(launch=first_ends_soon) as target:
        await asyncio.to_thread(launched[0].wait, 20)
        ref = await target.submit(RunRequest(str(uuid.uuid4()), prompt))
        events = [event async for event in target.follow(ref, prompt)]
        assert isinstance(events[-1], Finished)
        assert events[-1].state is JobState.SUCCEEDED


@pytest.mark.parametrize("fetched", [True, False])
async def test_it_stays_only_for_outputs_that_are_not_here(fetched: bool) -> None:
    """As where the command ends with 8: an error, and nothing left to fetch."""
    prompt: Prompt = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 1},
        },
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    target = SandboxTarget()
    with pytest.raises(KeyError):
        async with target:
            ref = await target.submit(RunRequest(str(uuid.uuid4()), prompt))
            events = [event async for event in target.follow(ref, prompt)]
            finished = events[-1]
            assert isinstance(finished, Finished)
            assert len(finished.outputs) == 1
            if fetched:
                await target.release(finished.outputs)
            url = target._engine.url
            raise KeyError
    process = target._process
    assert process is not None
    assert (process.poll() is not None) == fetched
    if not fetched:
        async with SandboxTarget(url) as again:
            assert (await again.health()).queued == 0
        await asyncio.to_thread(process.wait, 20)


async def test_jobs_side_by_side_have_their_own_outputs_only() -> None:
    """They write into one folder, and the end of each is reported later than it came."""

    def prompt(number: int) -> Prompt:
        size = {"width": 8 + number, "height": 8, "batch_size": 1, "color": 1}
        return {
            "1": {"class_type": "EmptyImage", "inputs": size},
            "2": {
                "class_type": "SaveImage",
                "inputs": {"images": ["1", 0], "filename_prefix": "x"},
            },
        }

    async def made(number: int) -> list[str]:
        ref = await target.submit(RunRequest(str(uuid.uuid4()), prompt(number)))
        async for event in target.follow(ref, prompt(number)):
            if isinstance(event, Finished):
                return [output.filename for output in event.outputs]
        return []

    async with SandboxTarget() as target:
        found = await asyncio.gather(*map(made, range(12)))
    assert [len(names) for names in found] == [1] * 12
    assert len({name for names in found for name in names}) == 12


async def test_what_a_job_wrote_before_its_start_was_heard_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """News of a quick job's start may come after its end: the engine's own clock counts."""
    size = {"width": 8, "height": 8, "batch_size": 1, "color": 1}
    saves = {"folder_name": "late", "filename_prefix": "image", "mode": "overwrite"}
    prompt: Prompt = {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "SaveImageDataSetToFolder", "inputs": {"images": ["1", 0], **saves}},
    }
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    async with SandboxTarget() as target:
        ref = await target.submit(RunRequest(str(uuid.uuid4()), prompt))
        events = [event async for event in target.follow(ref, prompt)]
    assert isinstance(events[-1], Finished)
    assert [output.filename for output in events[-1].outputs] == ["image_00000.png"]
