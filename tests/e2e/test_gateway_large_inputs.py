"""Inputs and outputs of any size through a gateway: client, gateway, worker, engine."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import real_comfyui, until
from joined_kit import Cluster, cluster
from PIL import Image
from pydantic import SecretStr

from comfy_remote import Client
from comfy_remote.errors import InputFileMissing, OutOfMemory
from comfy_remote.events import Event, Finished, JobState, Log
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.gateway.local_worker import LocalFiles
from comfy_remote.jobs.record import Record
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings

__all__ = ["cluster"]

TOKEN = SecretStr("a-token-for-this-test")
SIZE = 24_000_000
LIMITS = GatewayLimits(poll_wait=5.0, free_bytes=0)

FILM: dict[str, Any] = {"filename": "film.bin", "subfolder": "", "list_under": "files"}
WORKFLOW: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    "3": {
        "class_type": "SandboxFile",
        "inputs": {**FILM, "size": SIZE, "listed_filename": "", "listed_subfolder": ""},
    },
}
FAILS: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
    "2": {
        "class_type": "SandboxFail",
        "inputs": {"image": ["1", 0], "message": "no memory", "mode": "out_of_memory"},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A PNG of 24 MB: what follows the picture is not read."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(buffer, "PNG")
    path = tmp_path / "in.png"
    path.write_bytes(buffer.getvalue() + os.urandom(SIZE - buffer.tell()))
    return path


def target(gateway: GatewayServer) -> RunPodTarget:
    return RunPodTarget("ep", TOKEN, base_url=gateway.url)


@asynccontextmanager
async def local_worker(
    gateway: GatewayServer, folder: Path, choice: str = "sandbox"
) -> AsyncIterator[None]:
    """As `comfy-remote serve` has one."""
    engine = Engine.named(choice)
    try:
        files = LocalFiles(gateway.endpoint)
        settings = WorkerSettings(folder=folder / "worker")
        gateway.add_local_worker(JobHandler(engine, settings, store=files, inputs=files))
        yield
    finally:
        engine.stop()


@asynccontextmanager
async def sdk_worker(
    gateway: GatewayServer, folder: Path, choice: str = "sandbox"
) -> AsyncIterator[None]:
    pytest.importorskip("runpod")
    command = [sys.executable, "-m", "comfy_remote.worker.runpod_entry", "--engine", choice]
    gateway.add_sdk_worker(command, environment={"COMFY_REMOTE_WORKER_DIR": str(folder / "worker")})
    yield


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with Record(tmp_path / "home") as made:
        yield made


def a_gateway(folder: Path | None = None, **limits: Any) -> GatewayServer:
    limited = replace(LIMITS, **limits)
    return GatewayServer(endpoint_id="ep", token=TOKEN, limits=limited, folder=folder)


@asynccontextmanager
async def running(
    folder: Path,
    record: Record,
    worker: Callable[..., Any] = local_worker,
    *,
    choice: str = "sandbox",
    stored: Path | None = None,
    **limits: Any,
) -> AsyncIterator[tuple[GatewayServer, Client]]:
    async with (
        a_gateway(stored, **limits) as gateway,
        worker(gateway, folder, choice),
        Client(target(gateway), record=record) as client,
    ):
        yield gateway, client


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("worker", [local_worker, sdk_worker])
async def test_an_input_and_an_output_of_24_mb(
    worker: Callable[..., Any], tmp_path: Path, picture: Path, record: Record
) -> None:
    told: list[tuple[int, int]] = []
    async with running(tmp_path, record, worker) as (gateway, client):
        report = await client.check(WORKFLOW, inputs=picture)
        assert "request_too_large" not in [problem.code for problem in report.problems]
        job = await client.submit(WORKFLOW, inputs=picture, on_sent=lambda *sent: told.append(sent))
        shown, film = await job.outputs()
        kept = gateway.files.path(sha256_of(picture)).read_bytes()
    assert told[-1] == (SIZE, SIZE)
    assert kept == picture.read_bytes()
    assert shown.image().getpixel((3, 3)) == (255, 0, 0)
    assert film.size == len(film.bytes()) == SIZE
    assert film.sha256 == hashlib.sha256(film.bytes()).hexdigest()


async def test_an_input_goes_with_its_job_and_comes_again_within_the_next(
    tmp_path: Path, picture: Path, record: Record
) -> None:
    """The worker's cache is gone as well: as if another worker took the next job."""
    sha256 = sha256_of(picture)
    async with running(tmp_path, record, upload_retention=1.0) as (gateway, client):
        first = await client.submit(WORKFLOW, inputs=picture)
        assert (await first.wait()).state is JobState.SUCCEEDED
        await until(lambda: gateway.files.size(sha256) is None)
        (tmp_path / "worker" / "inputs" / sha256).unlink()

        job = await client.submit(WORKFLOW, inputs=picture)
        events: list[Event] = [event async for event in job]
    assert job.state is JobState.SUCCEEDED
    assert any(isinstance(e, Log) and "sent again" in e.message for e in events)


async def test_a_failed_job_can_be_retried_with_its_input(
    tmp_path: Path, picture: Path, record: Record
) -> None:
    async with running(tmp_path, record, upload_retention=0.1) as (gateway, client):
        job = await client.submit(FAILS, inputs=picture)
        assert isinstance((await job.wait()).error, OutOfMemory)
        (tmp_path / "worker" / "inputs" / sha256_of(picture)).unlink()
        await asyncio.sleep(0.2)
        await gateway.files.look_after()
        await gateway.endpoint.retry(job.ref.remote_id)
        again = [event async for event in client.target.follow(job.ref, FAILS)][-1]
    assert isinstance(again, Finished)
    assert isinstance(again.error, OutOfMemory)  # and not for lack of its input


async def test_an_input_that_waits_survives_a_restart(
    tmp_path: Path, picture: Path, record: Record
) -> None:
    folder = tmp_path / "gateway"
    async with (
        a_gateway(folder, upload_retention=0.1) as gateway,
        Client(target(gateway), record=record) as client,
    ):
        sent = await client.submit(WORKFLOW, inputs=picture)
    async with running(tmp_path, record, stored=folder, upload_retention=0.1) as (gateway, client):
        outputs = await (await client.resume(sent.id)).outputs()
    assert [output.size for output in outputs][1:] == [SIZE]


async def test_an_input_that_has_gone_before_its_job_came_is_named(
    tmp_path: Path, picture: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If more than an hour passed between the two. Nothing runs then."""
    async with running(tmp_path, record) as (gateway, client):
        add = gateway.queue.add

        async def late(*args: Any, **kwargs: Any) -> Any:
            gateway.files.path(sha256_of(picture)).unlink()
            return await add(*args, **kwargs)

        monkeypatch.setattr(gateway.queue, "add", late)
        end = await (await client.submit(WORKFLOW, inputs=picture)).wait()
    assert isinstance(end.error, InputFileMissing)
    assert "in.png" in str(end.error)


def test_a_joined_worker_gets_what_was_sent_before_the_gateway_was_killed(
    cluster: Cluster, picture: Path, tmp_path: Path
) -> None:
    """Nothing is sent a second time, and the output comes whole as well."""
    head = cluster.serve()
    workflow, out = tmp_path / "workflow.json", tmp_path / "out"
    workflow.write_text(json.dumps(WORKFLOW))
    run = cluster.command(
        *("run", str(workflow), "--on", "runpod:local", "--input", str(picture)),
        *("-o", str(out), "--json"),
        RUNPOD_ENDPOINT_BASE_URL=f"http://127.0.0.1:{cluster.port}/v2",
    )
    run.says('"queued"')
    head.kill()
    stored = [path for path in (tmp_path / "head").rglob(sha256_of(picture)) if path.is_file()]
    assert [path.stat().st_size for path in stored] == [SIZE]
    modified = stored[0].stat().st_mtime_ns
    cluster.serve()
    assert stored[0].stat().st_mtime_ns == modified
    cluster.worker("attic").says("Connected to the gateway as attic.")
    assert run.ended(120) == 0, run.text
    sizes = {path.name: path.stat().st_size for path in out.iterdir() if path.is_file()}
    assert sizes["film.bin"] == SIZE
    assert len(sizes) == 2


@pytest.mark.comfyui
async def test_a_comfyui_gets_an_input_that_its_own_upload_would_refuse(
    tmp_path: Path, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the 100 MB that ComfyUI's upload takes; the pack is not installed there."""
    picture = tmp_path / "in.png"
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (255, 0, 0)).save(buffer, "PNG")
    with picture.open("wb") as file:
        file.write(buffer.getvalue())
        file.truncate(120_000_000)
    arguments = f"--cpu --disable-all-custom-nodes --base-directory '{tmp_path / 'comfyui'}'"
    monkeypatch.setenv("COMFYUI_ARGS", arguments)
    async with running(tmp_path, record, choice=str(real_comfyui())) as (_, client):
        workflow = {key: WORKFLOW[key] for key in ("1", "2")}
        [output] = await (await client.submit(workflow, inputs=picture)).outputs()
    assert output.image().getpixel((3, 3)) == (255, 0, 0)
