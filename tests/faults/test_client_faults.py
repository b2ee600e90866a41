"""Clients that cancel, run side by side, or are killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers import until
from lanes import (
    Lane,
    assert_picture,
    fetch,
    files_in,
    new_mark,
    picture,
    resume_newest,
    slow_picture,
)
from proxy import Drop, Stall

from comfy_remote import Client, Record
from comfy_remote.errors import (
    JobCancelled,
    OutputLost,
    SubmissionUnknown,
)
from comfy_remote.events import Finished, JobState, Progress, Started

pytestmark = pytest.mark.usefixtures("home")


async def test_cancelled_while_running(lane: Lane, out: Path) -> None:
    mark = new_mark()
    async with Client(lane.target()) as client:
        job = await client.submit(slow_picture(mark, steps=200), timeout=120)
        events = []
        async for event in job:
            events.append(event)
            if isinstance(event, Progress) and event.step:
                await job.cancel()
        assert isinstance(events[-1], Finished)
        assert events[-1].state is JobState.CANCELLED
        with pytest.raises(JobCancelled):
            await job.save_outputs(out)
    assert files_in(out) == []
    await until(lambda: lane.engine.busy() == 0)
    assert lane.engine.runs(mark) == 1


async def test_cancelled_in_the_queue(lane: Lane, out: Path) -> None:
    first, second = new_mark(), new_mark()
    running = asyncio.create_task(fetch(lane.target(), slow_picture(first, steps=3000), out))
    await until(lambda: lane.engine.runs(first) == 1)
    async with Client(lane.target()) as client:
        job = await client.submit(slow_picture(second), timeout=120)
        await job.cancel()
        assert (await job.wait()).state is JobState.CANCELLED
        assert (lane.engine.busy(), running.done()) == (1, False)
    assert (lane.engine.runs(first), lane.engine.runs(second)) == (1, 0)
    lane.engine.interrupt()
    with pytest.raises(JobCancelled):
        await running


async def test_cancelled_though_the_request_fails_at_first(lane: Lane, out: Path) -> None:
    lane.proxy.plan("/cancel/|/interrupt|/queue", Drop(), method="POST", times=2)
    mark = new_mark()
    async with Client(lane.target()) as client:
        job = await client.submit(slow_picture(mark, steps=200), timeout=120)
        async for event in job:
            if isinstance(event, Started):
                await job.cancel()
    assert job.state is JobState.CANCELLED
    await until(lambda: lane.engine.busy() == 0)


async def test_two_clients_at_once(lane: Lane, tmp_path: Path) -> None:
    marks = [new_mark() for _ in range(4)]
    folders = [tmp_path / "clients" / mark for mark in marks]
    prompts = [slow_picture(mark, steps=2) for mark in marks]
    saved = await asyncio.gather(
        *(fetch(lane.target(), p, f) for p, f in zip(prompts, folders, strict=True))
    )
    for mark, folder, mine in zip(marks, folders, saved, strict=True):
        assert_picture(mine, folder)
        assert mine[0].filename.startswith(mark)
        assert lane.engine.runs(mark) == 1


CLIENT = """
import asyncio, json, sys
from pathlib import Path
from comfy_remote import Client
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.config.settings import Configuration
from comfy_remote.targets.opening import open_target

async def main():
    address, base_url, prompt, folder = sys.argv[1:]
    settings = TargetSettings(target=address, base_url=base_url or None)
    target = open_target("here", Configuration(None, {"here": settings}))
    async with Client(target) as client:
        job = await client.submit(json.loads(prompt), folder=Path(folder))
        async for event in job:
            print(type(event).__name__, getattr(event, "step", None), flush=True)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def client_process(
    lane: Lane, prompt: Any, out: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A client in a process of its own."""
    base_url = f"{lane.proxy.url}/v2" if lane.gateway else ""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CLIENT,
        *(lane.address, base_url, json.dumps(prompt), str(out)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_the_client_is_killed_in_mid_job(lane: Lane, out: Path) -> None:
    mark = new_mark()
    async with client_process(lane, slow_picture(mark, steps=20), out) as process:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if line.startswith(b"Progress") and b"None" not in line:
                break
        process.kill()
        await process.wait()
    assert files_in(out) == []
    await resume_newest(out)
    assert lane.engine.runs(mark) == 1


async def test_the_client_is_killed_before_the_answer(lane: Lane, out: Path) -> None:
    """The engine has the job, the record only that it was about to be sent."""
    mark = new_mark()
    lane.proxy.plan(lane.submit, Stall(forwarded=True))
    async with client_process(lane, picture(mark), out) as process:
        await until(lambda: lane.engine.runs(mark) == 1)
        process.kill()
        await process.wait()
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        (entry,) = record.newest()
    assert entry.ref is None
    async with Client(lane.target()) as client:
        if lane.name == "comfyui":
            job = await client.resume(entry)
            assert_picture(await job.save_outputs(out), out)
        else:
            with pytest.raises(SubmissionUnknown) as caught:
                await client.resume(entry)
            assert caught.value.advice
    assert lane.engine.runs(mark) == 1


async def test_the_client_is_killed_before_it_sends(lane: Lane, out: Path) -> None:
    mark = new_mark()
    lane.proxy.plan(lane.submit, Stall())
    async with client_process(lane, picture(mark), out) as process:
        await lane.proxy.saw(lane.submit)
        process.kill()
        await process.wait()
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        (entry,) = record.newest()
    kind = OutputLost if lane.name == "comfyui" else SubmissionUnknown
    async with Client(lane.target()) as client:
        with pytest.raises(kind) as caught:
            await client.resume(entry)
    assert "again" in caught.value.advice
    assert lane.engine.runs(mark) == 0
