"""The lane in a real ComfyUI: killed and started again, with several users, on the network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import free_port, real_comfyui
from lane_page import page
from pack import PackServer, comfyui_with_pack
from test_lane import cancel, picture, slow

from comfy_remote.sandbox.server import SandboxServer


@pytest.fixture
async def target() -> AsyncIterator[SandboxServer]:
    async with SandboxServer() as running:
        yield running


def _comfyui(
    base: Path, *arguments: str, known_arguments: Sequence[str] = (), **options: Any
) -> Any:
    """Args:
    known_arguments: For versions that have them; others are skipped.
    """
    found = real_comfyui()
    declared = (found / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    for argument in known_arguments:
        if f'"{argument}"' not in declared:
            pytest.skip(f"skipped: this ComfyUI has no {argument}")
    arguments = (*arguments, *known_arguments)
    return comfyui_with_pack(base, *arguments, **options)


def _kill(server: PackServer) -> None:
    assert server.process is not None
    server.process.kill()
    server.process.wait()


async def test_a_comfyui_that_was_killed_takes_its_jobs_up_again(
    tmp_path: Path, target: SandboxServer
) -> None:
    port = free_port()
    with _comfyui(tmp_path, port=port) as server:
        async with page(server.url) as shown:
            runs = (await shown.queue(slow(20, steps=200), target.url)).body
            waits = (await shown.queue(slow(0.2), target.url)).body
            await shown.heard("progress", runs["prompt_id"])
            _kill(server)
    # Another ComfyUI of the same user leaves them alone.
    with _comfyui(tmp_path) as other:
        async with page(other.url) as shown:
            await asyncio.sleep(1.0)
            assert await shown.unfinished() == []
    with _comfyui(tmp_path, port=port) as server:
        async with page(server.url, shown.client_id) as again:
            ids = [runs["prompt_id"], waits["prompt_id"]]
            entries = [await again.ended(prompt_id) for prompt_id in ids]
            for entry, sent in zip(entries, (runs, waits), strict=True):
                assert entry["status"]["status_str"] == "success"
                assert entry["prompt"][0] == sent["number"]
                (saved,) = entry["outputs"]["3"]["images"]
                assert (server.directory / "output" / saved["filename"]).is_file()
            assert await again.unfinished() == []
    async with page(target.url) as there:
        assert sorted(await there.get("/history")) == sorted(ids)


async def test_with_several_users_and_on_the_network(tmp_path: Path, target: SandboxServer) -> None:
    with _comfyui(tmp_path, "--multi-user", "--listen", "0.0.0.0") as server:
        async with page(server.url) as one, page(server.url, user_agent="other") as two:
            remote = (await one.queue(picture(), target.url)).body["prompt_id"]
            local = (await two.queue(picture())).body["prompt_id"]
            assert (await one.ended(remote))["status"]["status_str"] == "success"
            assert (await two.ended(local))["status"]["status_str"] == "success"
            assert two.of(remote) == []
            assert one.of(local) == []
            headers = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
            body = {"prompt": picture(), "extra_data": {"comfy_remote": {"target": target.url}}}
            async with one.session.post(
                f"{server.url}/prompt", json=body, headers=headers
            ) as response:
                assert response.status == 403
            # At an address of the network, ComfyUI itself asks nobody.
            lan = {"Host": "192.168.1.20:8188", "Content-Type": "text/plain"}
            for prompt, origin, status in (
                (body, "http://evil.example", 403),
                ({"prompt": picture("here")}, "http://evil.example", 200),
                (body, "http://192.168.1.20:8188", 200),
            ):
                async with one.session.post(
                    f"{server.url}/prompt",
                    data=json.dumps(prompt),
                    headers={**lan, "Origin": origin},
                ) as response:
                    assert response.status == status, origin
                    answer = await response.json(content_type=None)
                if origin != "http://evil.example":
                    own = answer["prompt_id"]
                    await one.ended(own)
    async with page(target.url) as there:
        assert list(await there.get("/history")) == [remote, own]


async def test_outputs_are_assets_where_comfyui_keeps_them(
    tmp_path: Path, target: SandboxServer
) -> None:
    with _comfyui(tmp_path, known_arguments=["--enable-assets"]) as server:
        async with page(server.url) as shown:
            entries = []
            for where in (None, target.url):
                prompt_id = (await shown.queue(picture(), where)).body["prompt_id"]
                (entry,) = (await shown.ended(prompt_id))["outputs"]["3"]["images"]
                entries.append(entry)
            assert set(entries[0]) == set(entries[1])
            if "id" in entries[0]:  # not every version does so
                asset = await shown.get(f"/assets/{entries[1]['id']}")
                assert asset["name"] == entries[1]["filename"]


def _busy() -> dict[str, Any]:
    """Keeps a ComfyUI busy for some seconds, in several nodes, and then saves."""
    prompt = picture("busy")
    prompt["1"]["inputs"].update(width=400, height=400)
    image = ["1", 0]
    for number in range(10, 16):
        inputs = {"image": image, "blur_radius": 31, "sigma": 5.0}
        prompt[str(number)] = {"class_type": "ImageBlur", "inputs": inputs}
        image = [str(number), 0]
    prompt["2"]["inputs"]["image"] = image
    return prompt


async def test_a_cancelled_remote_job_never_stops_a_local_prompt(
    tmp_path: Path, target: SandboxServer
) -> None:
    ways = ("interrupt", "delete", "job", "jobs", "no id")
    with _comfyui(tmp_path) as server:
        async with page(server.url) as mine, page(server.url, user_agent="another") as theirs:
            for way in ways:
                local = (await theirs.queue(_busy())).body["prompt_id"]
                remote = (await mine.queue(slow(30, steps=300), target.url)).body["prompt_id"]
                await mine.heard("progress", remote)
                await theirs.heard("executing", local, node="10")
                if way == "no id":
                    assert (await mine.post("/interrupt")).status == 200
                else:
                    assert (await cancel(mine, way, remote)).status == 200
                entry = await mine.ended(remote)
                assert entry["status"]["messages"][-1][0] == "execution_interrupted", way
                assert local in await theirs.running(), "it must still run, to show anything"
                assert (await theirs.ended(local))["status"]["status_str"] == "success", way
            # As ever: who has no remote job interrupts what runs here.
            local = (await theirs.queue(_busy())).body["prompt_id"]
            await theirs.heard("executing", local, node="10")
            await theirs.post("/interrupt")
            assert (await theirs.ended(local))["status"]["status_str"] == "error"
