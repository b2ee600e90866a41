"""Faults of a worker: its engine dies at each phase, its disks are full, its bucket fails."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import JsonValue, SecretStr
from yarl import URL

from comfy_remote.errors import OutputError
from comfy_remote.net import bucket
from comfy_remote.net.bucket import Bucket, BucketSettings
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.launch import PACKAGE_PARENT, own_module
from comfy_remote.wire.answer import Answer
from comfy_remote.wire.runpod import error_from_runpod
from comfy_remote.worker import run as worker_run
from comfy_remote.worker.choice import EngineChoice, guarded
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings

KILL = signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM


async def silent(snapshot: dict[str, JsonValue]) -> None:
    return None


def sandbox_in(folder: Path) -> Engine:
    """A sandbox that has its files in that folder."""
    command = guarded(
        sys.executable, *own_module("sandbox"), "--port", "0", "--directory", str(folder)
    )
    return Engine(lambda: EngineChoice("the sandbox", command=command, cwd=PACKAGE_PARENT))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = sandbox_in(tmp_path / "engine")
    yield made
    made.stop()


def picture(seconds: float = 0.0) -> dict[str, Any]:
    slow = {"image": ["1", 0], "steps": 10, "seconds_per_step": seconds / 10, "preview": False}
    return {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=7),
        "2": node("SandboxSlow", **slow, seed=0),
        "3": node("SaveImage", images=["2", 0], filename_prefix="a"),
    }


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


async def run(handler: JobHandler, prompt: dict[str, Any]) -> dict[str, JsonValue]:
    return await handler("job", {"format": "comfy-remote/1", "workflow": prompt}, silent)


@pytest.mark.parametrize("phase", ["idle", "submit", "run", "collect"])
async def test_the_engine_is_killed_in_each_phase(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """The job has its output all the same, and the worker its engine."""
    handler = JobHandler(engine, WorkerSettings(folder=tmp_path / "worker"))
    await handler.ready()
    killed: list[int] = []

    def kill_once() -> None:
        if not killed and engine.pid is not None:
            killed.append(engine.pid)
            os.kill(engine.pid, KILL)

    if phase == "idle":
        kill_once()
    hooked: tuple[Any, str] | None = {
        "submit": (ComfyUITarget, "submit"),
        "run": (ComfyUITarget, "history_entry"),
        "collect": (worker_run, "collect_outputs"),
    }.get(phase)
    if hooked is not None:
        before = getattr(*hooked)

        async def first(*given: Any) -> Any:
            kill_once()
            return await before(*given)

        monkeypatch.setattr(*hooked, first)
    answer = Answer.model_validate(await run(handler, picture(0.5)))
    assert [output.node_id for output in answer.outputs] == ["3"]
    assert killed
    await handler.ready()
    assert engine.pid not in (None, *killed)
    if phase in ("submit", "run"):  # what is to be collected may already be here
        assert "run again, once" in answer.warnings[0]
    await handler.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def large_file(size: int) -> dict[str, Any]:
    named = {"filename": "large.bin", "subfolder": "", "size": size, "list_under": "files"}
    return {"1": node("SandboxFile", **named, listed_filename="", listed_subfolder="")}


async def test_the_engines_disk_is_full(small_disk: Path, tmp_path: Path) -> None:
    engine = sandbox_in(small_disk / "engine")
    handler = JobHandler(engine, WorkerSettings(folder=tmp_path / "worker"))
    try:
        error = error_from_runpod((await run(handler, large_file(6_000_000)))["error"])
        assert error.code == "execution_failed"
        assert "No space left" in error.message
        for path in small_disk.rglob("large.bin"):
            path.unlink()
        assert Answer.model_validate(await run(handler, picture())).outputs
    finally:
        engine.stop()


async def test_the_workers_own_disk_is_full(
    engine: Engine, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_FREE_SPACE", "0")
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    handler = JobHandler(engine, WorkerSettings(folder=tmp_path / "worker"))
    error = error_from_runpod((await run(handler, large_file(6_000_000)))["error"])
    assert error.code == "local_storage"
    assert Answer.model_validate(await run(handler, picture())).outputs
    await handler.close()
    assert list(small_disk.iterdir()) == []


class Storage:
    """An S3 service that answers 503 to some of the parts of an upload.

    Attributes:
        objects: What was completed, by key.
        aborted: Keys of uploads that were given up.
    """

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.objects: dict[str, bytes] = {}
        self.aborted: list[str] = []
        self._parts: dict[int, bytes] = {}

    async def answer(self, request: web.Request) -> web.Response:
        body, key = await request.read(), request.path
        if request.method == "POST" and "uploads" in request.query:
            name = "InitiateMultipartUploadResult"
            said = f"<{name}><UploadId>u</UploadId></{name}>"
            return web.Response(text=said, content_type="application/xml")
        if request.method == "PUT":
            number = int(request.query["partNumber"])
            if number == 2 and self.failures:
                self.failures -= 1
                said = "<Error><Code>SlowDown</Code><Message>Later.</Message></Error>"
                return web.Response(status=503, text=said, content_type="application/xml")
            self._parts[number] = body
            return web.Response(headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
        if request.method == "POST":
            self.objects[key] = b"".join(self._parts[number] for number in sorted(self._parts))
            said = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
            return web.Response(text=said, content_type="application/xml")
        self.aborted.append(key)
        return web.Response(status=204)


@asynccontextmanager
async def stored_in(storage: Storage) -> AsyncIterator[Bucket]:
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", storage.answer)
    async with TestServer(app) as server:
        address = URL(str(server.make_url("/")).rstrip("/"))
        yield Bucket(
            BucketSettings(
                address, "pics", "auto", access_key_id="id", secret_access_key=SecretStr("secret")
            )
        )


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("boto3")
    monkeypatch.setattr(bucket, "PART_SIZE", 5 * 2**20)
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(11_000_000))
    return path


async def test_storage_fails_within_an_upload_for_a_moment(large: Path) -> None:
    storage = Storage(failures=1)
    async with stored_in(storage) as made:
        await made.put(large, "job/large.bin")
    assert storage.objects == {"/pics/job/large.bin": large.read_bytes()}
    assert storage.aborted == []


async def test_storage_that_goes_on_failing_leaves_no_half_object(large: Path) -> None:
    storage = Storage(failures=1000)
    async with stored_in(storage) as made:
        with pytest.raises(OutputError, match="SlowDown"):
            await made.put(large, "job/large.bin")
    assert storage.objects == {}
    assert storage.aborted == ["/pics/job/large.bin"]


async def test_an_output_whose_storage_fails_is_not_lost(
    engine: Engine, large: Path, tmp_path: Path
) -> None:
    """The worker keeps it itself, and says so."""
    storage = Storage(failures=1000)
    async with stored_in(storage) as made:
        settings = WorkerSettings(
            folder=tmp_path / "worker", bucket=made._settings, result_limit=1_000_000
        )
        answer = Answer.model_validate(
            await run(JobHandler(engine, settings), large_file(11_000_000))
        )
    [output] = answer.outputs
    assert (output.kept is not None, output.size, output.data) == (True, 11_000_000, None)
    assert any("SlowDown" in warning for warning in answer.warnings)
