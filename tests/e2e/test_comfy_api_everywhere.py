"""The example of comfy-sdk's own README, unchanged, on every kind of target; and our command on
servers of the API, theirs and ours.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from comfy_api_kit import served
from comfy_api_proxy.app import make_app
from comfy_sdk_kit import inverting, picture, readme_example
from commands import Cli
from PIL import Image
from serve_kit import Command

from comfy_remote.gateway import GatewayServer
from comfy_remote.jobs.record import Record
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler


@pytest.fixture
def readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that the README's example names."""
    folder = tmp_path / "readme"
    folder.mkdir()
    (folder / "workflow_api.json").write_text(json.dumps(inverting("named by the example.png")))
    (folder / "photo.png").write_bytes(picture(0x2211))
    monkeypatch.chdir(folder)
    return folder


async def _example_works(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the example as a script of its own would be run; its picture is in the folder then."""
    monkeypatch.setenv("COMFY_BASE_URL", url)
    example = readme_example()
    assert "client.run(wf)" in example and "to_file" in example
    await asyncio.to_thread(exec, compile(example, "README.md", "exec"), {})
    (saved,) = folder.glob("inverted_*.png")
    assert Image.open(saved).convert("RGB").getpixel((0, 0)) == (255 - 0x11, 255 - 0x22, 255 - 7)


async def test_the_readmes_example_on_a_comfyui_by_our_command(
    gated_url: str, tmp_path: Path, readme: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole command; the engine is the sandbox."""
    home = {"COMFY_REMOTE_HOME": str(tmp_path / "home")}
    front = Command("api", "--on", gated_url, "--port", "0", **home)
    try:
        await asyncio.to_thread(front.says, "Ctrl-C stops it.")
        found = re.search(r"COMFY_BASE_URL=(\S+)", front.text)
        assert found, front.text
        await _example_works(found[1], readme, monkeypatch)
    finally:
        front.kill()
    with Record(tmp_path / "home") as record:
        (entry,) = record.newest(10)
    assert entry.state.value == "succeeded" and entry.source.startswith("api ")


async def test_the_readmes_example_on_a_runpod_gateway(
    gated_url: str, tmp_path: Path, readme: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with GatewayServer(endpoint_id="desk") as gateway:
        gateway.add_local_worker(JobHandler(Engine.named(gated_url)))
        monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", gateway.url)
        monkeypatch.setenv("RUNPOD_API_KEY", "not needed here")
        async with served("runpod:desk", tmp_path / "front") as front:
            await _example_works(front.url, readme, monkeypatch)


@pytest.mark.comfyui
async def test_the_readmes_example_on_a_real_comfyui(
    comfyui_url: str, tmp_path: Path, readme: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(comfyui_url, tmp_path / "front") as front:
        await _example_works(front.url, readme, monkeypatch)


@asynccontextmanager
async def _their_proxy(engine: str) -> AsyncIterator[str]:
    runner = web.AppRunner(make_app(engine))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _command_works(url: str, folder: Path) -> None:
    """`comfy-remote run --on comfy:URL` sends a picture along, and fetches one."""
    photo = folder / "photo.png"
    photo.write_bytes(picture(0x4433))
    (folder / "workflow.json").write_text(json.dumps(inverting("photo.png")))
    cli = Cli(folder)
    try:
        done = await asyncio.to_thread(
            cli, "run", "workflow.json", "--on", f"comfy:{url}", "-o", "out", "--json"
        )
    finally:
        cli.close()
    assert done.returncode == 0, done.stderr
    (saved,) = (folder / "out").glob("*.png")
    assert Image.open(saved).convert("RGB").getpixel((0, 0)) == (255 - 0x33, 255 - 0x44, 255 - 7)


async def test_our_command_on_their_proxy(gated_url: str, tmp_path: Path) -> None:
    async with _their_proxy(gated_url) as url:
        await _command_works(url, tmp_path)


async def test_our_command_on_our_server(gated_url: str, tmp_path: Path) -> None:
    async with served(gated_url, tmp_path / "front") as front:
        await _command_works(front.url, tmp_path)
