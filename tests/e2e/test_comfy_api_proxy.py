"""Comfy's own proxy for a self-hosted ComfyUI, as a target: real jobs through all parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from comfy_api_proxy.app import make_app
from gated_sandbox import Gate
from PIL import Image

from comfy_remote import Client
from comfy_remote.config.settings import Configuration
from comfy_remote.errors import WorkflowInvalid, node_problems
from comfy_remote.events import (
    DidItRun,
    Event,
    Finished,
    JobState,
    Preview,
    Progress,
    Started,
)
from comfy_remote.jobs.job import Job
from comfy_remote.jobs.record import Record
from comfy_remote.targets.comfy_api.target import ComfyApiTarget
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.opening import open_target

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
JOB = "11111111-2222-4333-8444-555555555555"


@asynccontextmanager
async def proxy_of(engine: str, *middlewares: Any) -> AsyncIterator[str]:
    """Their proxy in front of an engine, in this process; its URL."""
    runner = web.AppRunner(make_app(engine, middlewares=list(middlewares)), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    with Record(tmp_path / "home") as made:
        yield made


@pytest.fixture(params=["sandbox", pytest.param("comfyui", marks=pytest.mark.comfyui)])
def engine(request: pytest.FixtureRequest) -> str:
    """The sandbox, and a real ComfyUI."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


def client_of(url: str, record: Record) -> Client:
    return Client(ComfyApiTarget(url, name="proxy"), record=record, on_interrupt=None)


def inverting(prefix: str = "inverted") -> Any:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    }


def plain(color: int = 0, prefix: str = "plain") -> Any:
    inputs = {"width": 16, "height": 16, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": inputs},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


class Seen:
    """A job's events, as they come."""

    def __init__(self, job: Job) -> None:
        self.events: list[Event] = []
        self._arrived = asyncio.Condition()
        self._task = asyncio.ensure_future(self._read(job))

    async def _read(self, job: Job) -> None:
        async for event in job:
            async with self._arrived:
                self.events.append(event)  # type: ignore[arg-type]
                self._arrived.notify_all()

    def of(self, kind: type[Any]) -> list[Any]:
        return [one for one in self.events if isinstance(one, kind)]

    async def until(self, kind: type[Any]) -> None:
        """Wait for an event of that kind."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.of(kind) or self._task.done())
        assert self.of(kind)

    async def end(self) -> Finished:
        await self._task
        (end,) = self.of(Finished)
        assert isinstance(end, Finished)
        return end


async def test_a_job_with_an_input_file(engine: str, record: Record, tmp_path: Path) -> None:
    picture = tmp_path / "in.png"
    Image.new("RGB", (16, 16), (0, 255, 0)).save(picture)
    uploads: list[str] = []

    @web.middleware
    async def noting(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "POST" and request.path == "/api/v2/assets":
            uploads.append(request.path)
        return await handler(request)

    async with proxy_of(engine, noting) as url:
        for number in range(2):
            async with client_of(url, record) as client:
                job = await client.submit(inverting(), inputs=[picture])
                (saved,) = await job.save_outputs(tmp_path / f"out{number}")
                assert (saved.node_id, saved.kind) == ("3", "image")
                with Image.open(saved.path) as made:
                    assert made.getpixel((0, 0)) == (255, 0, 255)
                assert record.get(job.id).state is JobState.SUCCEEDED
    assert len(uploads) == 1  # the second time, its bytes were there


async def test_previews_come_while_a_job_runs(record: Record, sandbox_url: str) -> None:
    inputs = {"image": ["1", 0], "steps": 10_000, "seed": 1, "preview": True}
    prompt = plain()
    prompt["3"] = {"class_type": "SandboxSlow", "inputs": {**inputs, "seconds_per_step": 0.05}}
    prompt["2"]["inputs"]["images"] = ["3", 0]
    async with proxy_of(sandbox_url) as url, client_of(url, record) as client:
        job = await client.submit(prompt)
        seen = Seen(job)
        await seen.until(Preview)
        await job.cancel()
        end = await seen.end()
    assert (end.state, end.did_it_run) == (JobState.CANCELLED, DidItRun.STOPPED)
    assert len(seen.of(Started)) == 1
    preview = seen.of(Preview)[0]
    assert (preview.node_id, preview.data[:2]) == ("3", b"\xff\xd8")


async def test_a_job_that_runs_is_seen_and_cancelled(
    record: Record, gated_url: str, tmp_path: Path
) -> None:
    gate = Gate(tmp_path, "cancelled")
    async with proxy_of(gated_url) as url, client_of(url, record) as client:
        job = await client.submit(gate.prompt)
        seen = Seen(job)
        await seen.until(Progress)
        assert seen.of(Progress)[-1].node_class == "Gated"
        await job.cancel()
        end = await seen.end()
    assert (end.state, end.did_it_run) == (JobState.CANCELLED, DidItRun.STOPPED)


async def test_a_job_that_waits_is_withdrawn(
    record: Record, gated_url: str, tmp_path: Path
) -> None:
    gate = Gate(tmp_path, "before")
    async with proxy_of(gated_url) as url, client_of(url, record) as client:
        before = Seen(await client.submit(gate.prompt))
        await before.until(Started)
        behind = await client.submit(plain())
        seen = Seen(behind)
        await behind.cancel()
        end = await seen.end()
        gate.open()
        assert (await before.end()).state is JobState.SUCCEEDED
    assert (end.state, end.did_it_run) == (JobState.CANCELLED, DidItRun.WITHDRAWN)


async def test_a_lost_answer_is_found_by_the_jobs_label_and_nothing_runs_twice(
    record: Record, sandbox_url: str, tmp_path: Path
) -> None:
    posted = 0

    @web.middleware
    async def losing(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal posted
        answer = await handler(request)
        if request.method == "POST" and request.path == "/api/v2/jobs" and answer.status == 201:
            posted += 1
            assert request.transport is not None
            request.transport.abort()
        return answer

    async with proxy_of(sandbox_url, losing) as url:
        async with client_of(url, record) as client:
            job = await client.submit(plain(prefix="lost"), job_id=JOB)
            (saved,) = await job.save_outputs(tmp_path / "out")
            assert saved.path.name == "lost_00001_.png"
            assert await client.target.find(JOB) == job.ref
        async with aiohttp.ClientSession(url) as http, http.get("/api/v2/jobs") as answer:
            labels = [one["metadata"] for one in (await answer.json())["jobs"]]
    assert labels == [f"comfy_remote_job={JOB}"]
    assert posted == 1


async def test_a_job_is_resumed_from_the_record_by_another_client(
    record: Record, gated_url: str, tmp_path: Path
) -> None:
    gate = Gate(tmp_path, "resumed")
    async with proxy_of(gated_url) as url:
        async with client_of(url, record) as client:
            await client.submit(gate.prompt, job_id=JOB)
        gate.open()
        async with client_of(url, record) as client:
            job = await client.resume(JOB)
            (saved,) = await job.save_outputs(tmp_path / "out")
    assert saved.path.is_file()


async def test_fast_jobs_that_the_proxy_loses_sight_of_are_not_given_up(
    record: Record, sandbox_url: str
) -> None:
    async with proxy_of(sandbox_url) as url, client_of(url, record) as client:

        async def ended(number: int) -> JobState:
            return (await Seen(await client.submit(plain(number, "fast"))).end()).state

        states = await asyncio.gather(*map(ended, range(24)))
    assert states == [JobState.SUCCEEDED] * 24


async def test_a_refused_workflow_has_its_nodes_marked(engine: str, record: Record) -> None:
    prompt = plain()
    prompt["1"]["inputs"]["width"] = "wide"
    async with proxy_of(engine) as url, client_of(url, record) as client:
        with pytest.raises(WorkflowInvalid) as caught:
            await client.submit(prompt)
    problems = list(node_problems(caught.value))
    assert [(node, kind) for node, kind, _ in problems] == [("1", "EmptyImage")]
    assert "width" in problems[0][2]


async def test_an_address_alone_turns_out_to_be_the_one_or_the_other(
    engine: str, record: Record
) -> None:
    configuration = Configuration(None, {})
    async with proxy_of(engine) as url:
        for _ in range(2):  # asked, then remembered
            async with open_target(url, configuration) as target:
                assert isinstance(target, ComfyApiTarget)
                await target.health()
            async with open_target(engine, configuration) as target:
                assert isinstance(target, ComfyUITarget)
                await target.health()
