"""Engines, workers and gateways that fail or die."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from helpers import until
from lanes import (
    PAGE,
    EngineCounter,
    Lane,
    assert_picture,
    comfyui_lane,
    content,
    failing,
    fetch,
    file,
    files_in,
    gateway_lane,
    new_mark,
    picture,
    processes_with,
    refused,
    sandbox,
    slow_picture,
)
from proxy import Answer, Drop

from comfy_remote import Client, Record
from comfy_remote.errors import (
    EngineCrashed,
    ExecutionFailed,
    JobExpired,
    OutOfMemory,
    TargetUnreachable,
)
from comfy_remote.events import JobState
from comfy_remote.worker.engine import Engine

pytestmark = pytest.mark.usefixtures("home")


async def test_a_node_fails(lane: Lane, out: Path) -> None:
    mark = new_mark()
    error = await refused(ExecutionFailed, lane, failing(mark, "error", "wrong colour"), out)
    assert "wrong colour" in error.message
    assert (error.details["node_id"], error.details["node_class"]) == ("4", "SandboxFail")
    assert "SandboxFail (node 4)" in error.message
    assert lane.engine.runs(mark) == 1


async def test_a_node_fails_after_others_have_saved(lane: Lane, out: Path) -> None:
    mark = new_mark()
    saves = {"images": ["1", 0], "filename_prefix": "before"}
    prompt = {"5": {"class_type": "SaveImage", "inputs": saves}}
    prompt |= failing(mark, "error", "wrong colour")
    async with Client(lane.target()) as client:
        job = await client.submit(prompt, timeout=120)
        with pytest.raises(ExecutionFailed, match="wrong colour"):
            await job.save_outputs(out)
        (saved,) = await job.save_outputs(out, even_if_failed=True)
    assert (saved.node_id, files_in(out)) == ("5", [saved.path.name])
    assert lane.engine.runs(mark) == 1


async def test_one_of_two_outputs_does_not_exist(lane: Lane, out: Path) -> None:
    mark = new_mark()
    prompt = picture(mark)
    prompt["5"] = file(mark, 10, list_under="3d", listed_filename="nowhere.glb")["1"]
    async with Client(lane.target()) as client:
        job = await client.submit(prompt, timeout=120)
        saved = await job.save_outputs(out)
        (problem,) = job.problems
    assert "2" in [one.node_id for one in saved]
    assert (problem.node_id, problem.filename) == ("5", "nowhere.glb")
    assert lane.engine.runs(mark) == 1


async def test_the_engine_runs_out_of_memory(lane: Lane, out: Path) -> None:
    mark = new_mark()
    error = await refused(OutOfMemory, lane, failing(mark, "out_of_memory"), out)
    assert "smaller" in error.advice
    # A worker frees the memory and tries once more.
    assert lane.engine.runs(mark) == (2 if lane.name == "gateway" else 1)
    assert_picture(await fetch(lane.target(), picture(new_mark()), out), out)


async def test_the_engine_dies(out: Path) -> None:
    with sandbox() as (url, process):
        async with comfyui_lane(url) as lane:
            prompt = failing(new_mark(), "crash")
            error = await refused(TargetUnreachable, lane, prompt, out, patience=0.5)
            assert "resume" in error.advice.lower()
            assert process.wait(180) == 1
            assert lane.proxy.count(lane.submit) == 1


async def test_the_engine_dies_and_starts_again(out: Path) -> None:
    """Its history is gone with it: the job is lost, not waited for."""
    with sandbox() as (url, process):
        async with comfyui_lane(url) as lane:
            mark = new_mark()
            prompt = slow_picture(mark, steps=100)
            job = asyncio.create_task(refused(EngineCrashed, lane, prompt, out))
            await until(lambda: lane.engine.busy() == 1)
            await lane.proxy.saw(lane.poll)  # the client follows it
            process.kill()
            process.wait()
            port = url.rpartition(":")[2]
            with sandbox("--port", port) as (again, _):
                assert again == url
                error = await job
                assert "restarted" in error.message
                assert lane.engine.runs(mark) == 0, "it is not run again unasked"


async def test_the_workers_engine_dies(out: Path) -> None:
    """The worker starts another, and runs the job again, once."""
    engine = Engine.named("sandbox")
    async with gateway_lane(await engine.ready(), engine=engine) as lane:
        first = engine.pid
        error = await refused(EngineCrashed, lane, failing(new_mark(), "crash"), out)
        assert error.details["exit_status"] == 1
        assert "log" in error.advice
        again = out / "again"
        job = asyncio.create_task(fetch(lane.target(), slow_picture(new_mark(), steps=40), again))
        await until(lambda: engine.pid not in (None, first) and engine.alive)
        await lane.proxy.saw(lane.submit, times=2)
        await until(EngineCounter(await engine.ready()).busy)
        killed = engine.pid
        assert killed is not None
        os.kill(killed, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        assert_picture(await job, again)
        assert engine.pid != killed


async def test_the_gateway_stops(sandbox_url: str, out: Path) -> None:
    async with gateway_lane(sandbox_url) as lane:
        assert lane.gateway is not None
        mark = new_mark()
        prompt = slow_picture(mark, steps=200)
        job = asyncio.create_task(refused(TargetUnreachable, lane, prompt, out, patience=0.5))
        await until(lambda: lane.engine.runs(mark) == 1)
        await lane.proxy.saw(lane.poll, times=2)
        await lane.gateway.stop()
        error = await job
        assert "may still be running" in error.message
        await until(lambda: lane.engine.busy() == 0)
        assert lane.engine.runs(mark) == 1


async def test_another_gateway_does_not_know_the_job(sandbox_url: str, out: Path) -> None:
    mark = new_mark()
    async with gateway_lane(sandbox_url) as lane:
        async with Client(lane.target()) as client:
            job = await client.submit(picture(mark), folder=out)
        port = lane.proxy.url
        assert port
    async with gateway_lane(sandbox_url) as other:
        async with Client(other.target()) as client:
            with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
                entry = record.get(job.id)
            again = await client.resume(entry)
            finished = await again.wait()
        assert finished.state is JobState.EXPIRED
        assert isinstance(finished.error, JobExpired)
        assert finished.error.advice


async def test_the_sdks_worker(sandbox_url: str, out: Path) -> None:
    """No answer vanishes; killed in mid-job, its job fails and the next one runs."""
    pytest.importorskip("runpod")
    large, lost, killed = new_mark(), new_mark(), new_mark()
    async with gateway_lane(sandbox_url, sdk=["--engine", sandbox_url]) as lane:
        # A result that RunPod would not take, which the SDK would only log.
        (saved,) = await fetch(lane.target(), file(large, 15_000_000), out / "1")
        assert saved.path.read_bytes() == content(15_000_000)
        await refused(OutOfMemory, lane, failing(new_mark(), "out_of_memory"), out / "2")

        lane.proxy.plan(lane.submit, Drop(True))
        lane.proxy.plan(lane.poll, Answer(502, PAGE), times=3)
        saved = await fetch(lane.target(), slow_picture(lost, steps=3), out / "3")
        assert_picture(saved, out / "3")

        (worker,) = processes_with("comfy_remote.worker.runpod_entry")
        slow = slow_picture(killed, steps=50, pause=0.05)
        job = asyncio.create_task(refused(EngineCrashed, lane, slow, out / "4"))
        await until(lambda: lane.engine.runs(killed) == 1)
        os.kill(worker, signal.SIGKILL)
        error = await job
        assert "may still be running" in error.message
        await until(lambda: lane.engine.busy() == 0)
        assert_picture(await fetch(lane.target(), picture(new_mark()), out / "5"), out / "5")
        assert [lane.engine.runs(mark) for mark in (large, lost, killed)] == [1, 1, 1]
