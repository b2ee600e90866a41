"""``comfy-remote models`` → gateway → the real RunPod SDK → the worker's models."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import real_comfyui
from model_server import File, ModelServer, safetensors, sha256
from pydantic import JsonValue, SecretStr

from comfy_remote.cli.models import models as models_command
from comfy_remote.errors import (
    ComfyRemoteError,
    ConfigurationError,
    JobCancelled,
    ModelUnavailable,
)
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.models import ensure_models, list_models
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.wire.repo_list import parse_repo_list
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.model_actions import models_of
from comfy_remote.worker.settings import WorkerSettings

pytest.importorskip("runpod")

TOKEN = SecretStr("a-token-for-this-test")
MODEL = safetensors(200_000)
SECRET = "civitai-planted-token"
PICTURE = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
}


@dataclass
class Worker:
    gateway: GatewayServer
    models: Path
    target: RunPodTarget

    async def command(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """What ``comfy-remote models`` prints, to standard output and error."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "comfy_remote", "models", *arguments, "--on", "runpod:ep"),
            env={
                **os.environ,
                "RUNPOD_API_KEY": TOKEN.get_secret_value(),
                "RUNPOD_ENDPOINT_BASE_URL": self.target._base_url,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, error = await process.communicate()
        assert process.returncode == status, (out, error)
        return out.decode(), error.decode()


@asynccontextmanager
async def worker(models: Path, server: ModelServer, **environment: str) -> AsyncIterator[Worker]:
    entry = [sys.executable, "-m", "comfy_remote.worker.runpod_entry", "--engine", "sandbox"]
    environment = {
        "COMFY_REMOTE_MODELS_DIR": str(models),
        "COMFY_REMOTE_MODEL_HOSTS": server.host,
        "HF_ENDPOINT": server.url,
        "CIVITAI_ENDPOINT": server.url,
        "CIVITAI_TOKEN": SECRET,
        **environment,
    }
    limits = GatewayLimits(poll_wait=5.0)
    async with GatewayServer(endpoint_id="ep", token=TOKEN, limits=limits) as gateway:
        gateway.add_sdk_worker(entry, environment=environment)
        assert await gateway.wait_until_ready(110.0)
        base_url = gateway.endpoint_url.rpartition("/")[0]
        async with RunPodTarget("ep", TOKEN, base_url=base_url) as target:
            yield Worker(gateway, models, target)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        for name in ("a", "b"):
            path = f"/org/repo/resolve/main/{name}.safetensors"
            server.files[path] = File(MODEL, etag=f'"{sha256(MODEL)}"')
        yield server


async def act(worker: Worker, **payload: JsonValue) -> JsonValue:
    return await worker.target.act(payload)


def test_a_word_that_is_no_file_is_not_sent_as_a_line(tmp_path: Path) -> None:
    missing = str(tmp_path / "models.txt")
    done = CliRunner().invoke(models_command, ["ensure", "--on", "sandbox", missing])
    assert isinstance(done.exception, ConfigurationError)
    assert f"{missing} is neither a file nor a model line." in done.exception.message


async def test_the_commands_from_end_to_end(server: ModelServer, tmp_path: Path) -> None:
    listed = tmp_path / "models.txt"
    listed.write_text("# wanted\nckpt hf:org/repo/a.safetensors\nvae hf:org/repo/b.safetensors\n")
    models = tmp_path / "models"
    async with worker(models, server) as running:
        (models / "loras").mkdir(parents=True)
        (models / "loras/theirs.safetensors").write_bytes(MODEL)

        out, error = await running.command("check", str(listed))
        assert out.splitlines() == [
            "fetch   checkpoints/a.safetensors",
            "fetch   vae/b.safetensors",
        ]
        assert "To fetch: 400 kB" in error
        assert not (models / "checkpoints").exists()

        out, _ = await running.command("ensure", str(listed))
        assert out.splitlines() == [
            "checkpoints/a.safetensors (fetched)",
            "vae/b.safetensors (fetched)",
        ]
        assert (models / "checkpoints/a.safetensors").read_bytes() == MODEL

        out, _ = await running.command("list", "--json")
        found = json.loads(out)["models"]
        assert found["loras"][0]["fetched_from"] is None
        assert found["vae"][0]["fetched_from"] == "hf:org/repo/b.safetensors@main"
        out, _ = await running.command("list")
        assert "theirs.safetensors" in out

        # Another list, which does not know of the first.
        other = "ckpt hf:org/repo/a.safetensors"
        out, error = await running.command("ensure", "--prune", other)
        assert out.splitlines() == ["checkpoints/a.safetensors (already there)"]
        assert "vae/b.safetensors stays: another list asked for it today" in error
        out, error = await running.command("prune", "--all")
        assert out == ""
        assert "Nothing was removed." in error
        # The first list itself, edited.
        listed.write_text("ckpt hf:org/repo/a.safetensors\n")
        out, _ = await running.command("check", str(listed))
        assert out.splitlines() == [
            "keep    checkpoints/a.safetensors",
            "remove  vae/b.safetensors",
        ]
        out, _ = await running.command("ensure", str(listed))
        assert (models / "vae/b.safetensors").exists()
        out, _ = await running.command("ensure", "--prune", str(listed))
        assert out.splitlines() == [
            "checkpoints/a.safetensors (already there)",
            "vae/b.safetensors (removed)",
        ]
        assert (models / "loras/theirs.safetensors").exists()

        _, error = await running.command("ensure", "lora hf:org/repo/none.safetensors", status=5)
        assert "There is no hf:org/repo/none.safetensors@main" in error
        _, error = await running.command("prune", status=2)
        assert "--all" in error


async def test_the_dialect_of_the_remote_switch(server: ModelServer, tmp_path: Path) -> None:
    """``{action, repo_list}``, answered with ``{ensured, pruned}`` and ``{would_keep}``."""
    async with worker(tmp_path, server, PRUNE_MODELS="true") as running:
        both = "ckpt hf:org/repo/a.safetensors\nvae hf:org/repo/b.safetensors"
        first = await act(running, action="ensure", repo_list=both, list_name="mine")
        assert isinstance(first, dict)
        assert first["ensured"] == ["checkpoints/a.safetensors", "vae/b.safetensors"]
        one = both.splitlines()[:1]
        other = await act(running, action="ensure", repo_list=one)
        assert isinstance(other, dict)
        assert other["pruned"] == []
        check = await act(running, action="check", repo_list=one, list_name="mine")
        assert isinstance(check, dict)
        assert check["would_keep"] == ["checkpoints/a.safetensors"]
        assert check["would_remove"] == ["vae/b.safetensors"]
        second = await act(running, action="ensure", repo_list=one, list_name="mine")
        assert isinstance(second, dict)
        assert second["pruned"] == ["vae/b.safetensors"]
        with pytest.raises(ComfyRemoteError, match="line 1: what follows"):
            await act(running, action="ensure", repo_list="what is this")


@pytest.mark.parametrize("allowed", [True, False])
async def test_a_run_with_a_repo_list(server: ModelServer, tmp_path: Path, allowed: bool) -> None:
    payload: dict[str, JsonValue] = {
        "action": "run",
        "workflow": PICTURE,
        "repo_list": "ckpt hf:org/repo/a.safetensors",
        "format": "comfy-remote/1",
    }
    environment = {"DOWNLOAD_MODELS": "true"} if allowed else {}
    async with worker(tmp_path, server, **environment) as running:
        if not allowed:
            with pytest.raises(ModelUnavailable, match="is not on this worker") as caught:
                await act(running, **payload)
            assert "DOWNLOAD_MODELS=true" in caught.value.advice
            return
        answer = await act(running, **payload)
        assert isinstance(answer, dict)
        assert answer["status"] == "success"
        assert (tmp_path / "checkpoints/a.safetensors").read_bytes() == MODEL


def part_of(folder: Path) -> int:
    """The bytes that are there of a checkpoint that is being fetched."""
    parts = (folder / "checkpoints").glob(".comfy-remote-*.part")
    return sum(part.stat().st_size for part in parts)


async def test_progress_is_told_and_a_cancelled_download_goes_on_later(
    server: ModelServer, tmp_path: Path
) -> None:
    file = server.files["/org/repo/resolve/main/a.safetensors"]
    file.content, file.slow = safetensors(2_000_000), 0.2
    file.etag = f'"{sha256(file.content)}"'
    said: list[str] = []
    payload: dict[str, JsonValue] = {
        "action": "ensure",
        "repo_list": "ckpt hf:org/repo/a.safetensors",
    }
    async with worker(tmp_path, server) as running:
        task = asyncio.create_task(running.target.act(payload, said.append))
        while not (any(words.endswith("/2.0 MB") for words in said) and part_of(tmp_path)):
            assert not task.done()
            await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert any("Fetching a.safetensors" in words for words in said)
        assert not (tmp_path / "checkpoints/a.safetensors").exists()

        while list((tmp_path / ".comfy-remote/locks").glob("*")):
            await asyncio.sleep(0.05)  # the worker has stopped, too
        (part,) = (tmp_path / "checkpoints").glob(".comfy-remote-*.part")
        here = part.stat().st_size
        assert here > 0
        file.slow = 0.0
        await running.target.act(payload)
        assert (tmp_path / "checkpoints/a.safetensors").read_bytes() == file.content
        assert server.asked[-1].headers["Range"] == f"bytes={here}-"


async def test_a_killed_worker_leaves_what_the_next_one_goes_on_with(
    server: ModelServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if sys.platform == "win32":
        pytest.skip("sends SIGKILL")
    caplog.set_level(logging.INFO)
    file = server.files["/org/repo/resolve/main/a.safetensors"]
    file.content, file.slow = safetensors(2_000_000), 0.2
    file.etag = f'"{sha256(file.content)}"'
    payload: dict[str, JsonValue] = {
        "action": "ensure",
        "repo_list": "ckpt hf:org/repo/a.safetensors",
    }
    async with worker(tmp_path, server) as running:
        task = asyncio.create_task(running.target.act(payload))
        while part_of(tmp_path) <= 100_000:
            assert not task.done()
            await asyncio.sleep(0.05)
        pid = int(re.findall(r"Worker \w+ started \(process (\d+)\)", caplog.text)[-1])
        os.killpg(pid, signal.SIGKILL)
        # The gateway starts the job once more, on the next worker.
        with contextlib.suppress(ComfyRemoteError, JobCancelled):
            await task
        # Two minutes later, as far as the volume can tell.
        for mark in (tmp_path / ".comfy-remote/workers").glob("*.json"):
            os.utime(mark, (1, 1))
        file.slow = 0.0
        await running.target.act(payload)
        assert (tmp_path / "checkpoints/a.safetensors").read_bytes() == file.content
        assert server.asked[-1].headers["Range"] != "bytes=0-0"


async def test_no_secret_reaches_an_answer_an_error_or_a_file(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/api/download/models/1"] = File(MODEL, token="another-token")
    async with worker(tmp_path, server) as running:
        link = "https://civitai.com/api/download/models/1?token=in-the-link"
        for name in ("", " name=a.safetensors"):
            with pytest.raises(ModelUnavailable) as caught:
                await act(running, action="ensure", repo_list=f"lora {link}{name}")
            everything = f"{caught.value} {caught.value.details}"
            assert "CIVITAI_TOKEN" in everything
            assert SECRET not in everything
            assert "in-the-link" not in everything
    assert all(
        SECRET not in path.read_text(errors="replace")
        for path in tmp_path.rglob("*")
        if path.is_file()
    )


@pytest.mark.comfyui
async def test_a_comfyui_lists_its_models_and_fetches_none(comfyui_url: str) -> None:
    async with ComfyUITarget(comfyui_url) as target:
        folders = await target.models()
        assert {"checkpoints", "loras", "vae"} <= set(folders)
        assert (await list_models(target)).models is not None
        with pytest.raises(ConfigurationError, match="only a worker of Comfy Remote"):
            await ensure_models(target, "lora hf:o/r/a.safetensors", lambda _: None)


@pytest.mark.comfyui
async def test_a_comfyui_finds_what_was_fetched_for_the_run(
    server: ModelServer, tmp_path: Path
) -> None:
    folder = real_comfyui()
    environ = {
        **os.environ,
        "COMFYUI_ARGS": f"--cpu --disable-all-custom-nodes --base-directory '{tmp_path}'",
        "COMFY_REMOTE_VOLUME": str(tmp_path / "no-volume"),
        "COMFY_REMOTE_MODEL_HOSTS": server.host,
        "HF_ENDPOINT": server.url,
    }
    engine = Engine.named(str(folder), environ)
    library = models_of(engine, WorkerSettings.from_environ(environ))
    try:
        url = await engine.ready()
        async with ComfyUITarget(url) as target:
            assert "a.safetensors" not in (await target.models())["loras"]
            lines = parse_repo_list("lora hf:org/repo/a.safetensors name=sub/a.safetensors")
            answer = await library.ensure(lines, lambda _: None)
            assert answer.ensured == ["loras/sub/a.safetensors"]
            assert (await target.models())["loras"] == ["sub/a.safetensors"]
    finally:
        await asyncio.to_thread(engine.stop)
