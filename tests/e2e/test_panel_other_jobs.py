"""Jobs that something else than the page has started, stopped and run again from the panel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from owner import confirm
from pack import PackServer, sandbox_with_pack

from comfy_remote.events import JobState
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.sandbox.server import SandboxServer
from comfy_remote.workflow.prompt import Prompt


def slow(steps: int) -> Prompt:
    picture: dict[str, Any] = {"width": 8, "height": 8, "batch_size": 1, "color": 5}
    wait = {
        "image": ["1", 0],
        "steps": steps,
        "seconds_per_step": 0.05,
        "preview": False,
        "seed": 1,
    }
    return {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {"class_type": "SandboxSlow", "inputs": wait},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "p"}},
    }


@pytest.fixture
async def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    home = tmp_path / "home"
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    async with SandboxServer() as server:
        confirm(home, server.url)
        yield server.url


async def post(server: PackServer, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server.url}{path}", json=body) as answer,
    ):
        return answer.status, await answer.json()


async def recent(server: PackServer) -> list[dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{server.url}/remote/jobs/recent") as answer,
    ):
        return list((await answer.json())["jobs"])


async def test_a_terminal_s_job_is_listed_and_cancelled(target: str, tmp_path: Path) -> None:
    with sandbox_with_pack(tmp_path) as server, Record(tmp_path / "home") as record:
        async with Client(target, record=record, on_interrupt=None) as client:
            job = await client.submit(slow(2000), source="poster.json", folder=tmp_path / "there")
            [listed] = await recent(server)
            assert (listed["prompt_id"], listed["name"]) == (job.id, "poster.json")
            assert listed["ended"] is None
            answer = await post(server, "/remote/jobs/cancel", {"client_id": "tab"})
            assert answer == (200, {"cancelled": [job.id], "failed": []})
            assert (await job.wait()).state is JobState.CANCELLED
        [listed] = await recent(server)
        assert listed["state"] == "cancelled"


async def test_a_terminal_s_job_is_run_again_into_comfyui_s_folder(
    target: str, tmp_path: Path
) -> None:
    with sandbox_with_pack(tmp_path) as server, Record(tmp_path / "home") as record:
        async with Client(target, record=record, on_interrupt=None) as client:
            folder = tmp_path / "there"
            job = await client.submit(slow(2), source="poster.json", folder=folder)
            await job.save_outputs(folder)
            status, answer = await post(server, f"/remote/jobs/{job.id}/again", {"client_id": "t"})
            assert status == 200
            again = await client.resume(answer["prompt_id"])
            assert (await again.wait()).state is JobState.SUCCEEDED
        for _ in range(200):
            newest, first = await recent(server)
            if newest["outputs"]:
                break
        assert (newest["prompt_id"], newest["attempt"]) == (again.id, 2)
        assert (first["attempt"], first["outputs"]) == (1, 1)
        assert [path.name for path in (server.directory / "output").iterdir()] == ["p_00001_.png"]


async def test_one_that_goes_on_is_not_run_again(target: str, tmp_path: Path) -> None:
    with sandbox_with_pack(tmp_path) as server, Record(tmp_path / "home") as record:
        async with Client(target, record=record, on_interrupt="cancel") as client:
            job = await client.submit(slow(2000), folder=tmp_path / "there")
            status, answer = await post(server, f"/remote/jobs/{job.id}/again", {})
            assert (status, answer["error"]["code"]) == (400, "configuration")
            await job.cancel()
            await job.wait()
