"""What a client asks a worker that is no workflow: client, gateway, worker, a real engine."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers import real_comfyui
from model_server import sha256
from pydantic import JsonValue, SecretStr

from comfy_remote.errors import OutputLost
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.targets.runpod.kind import EndpointOptions
from comfy_remote.targets.runpod.target import EndpointTimes, RunPodTarget
from comfy_remote.wire.actions import DescribeAnswer, HealthAnswer, unpack_nodes
from comfy_remote.wire.installed import Installed
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.model_actions import models_of
from comfy_remote.worker.settings import WorkerSettings

TOKEN = SecretStr("a-token-for-this-test")


def picture(side: int = 2000) -> dict[str, Any]:
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": side, "height": side, "batch_size": 1, "color": 255},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "s"}},
    }


@pytest.fixture(params=["sandbox", pytest.param("comfyui", marks=pytest.mark.comfyui)])
async def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GatewayServer]:
    name = request.param
    environ = dict(os.environ)
    if name == "comfyui":
        name = os.environ.get("COMFYUI_DIR", "")
        if not name:
            pytest.skip("skipped: no ComfyUI")
        environ["COMFYUI_ARGS"] = (
            f"--cpu --disable-all-custom-nodes --base-directory '{tmp_path / 'comfy'}'"
        )
        (tmp_path / "comfy").mkdir()
    engine = Engine.named(name, environ)
    settings = WorkerSettings(
        result_limit=None, folder=tmp_path / "worker", worker="w1", job_timeout=100.0
    )
    async with GatewayServer(
        endpoint_id="ep", token=TOKEN, limits=GatewayLimits(poll_wait=5.0)
    ) as server:
        try:
            engine.start()
            server.add_local_worker(WatchedHandler(JobHandler(engine, settings, environ=environ)))
            yield server
        finally:
            engine.stop()


class WatchedHandler:
    """A handler, and what it was asked."""

    def __init__(self, handler: JobHandler) -> None:
        self._handler = handler
        self.payloads: list[Any] = []

    async def __call__(self, job_id: str, payload: JsonValue, report: Any) -> dict[str, JsonValue]:
        self.payloads.append(payload)
        return await self._handler(job_id, payload, report)


def target(
    gateway: GatewayServer, memory: Path | None = None, describe: float = 45.0
) -> RunPodTarget:
    return RunPodTarget(
        "ep",
        TOKEN,
        base_url=gateway.endpoint_url.rpartition("/")[0],
        options=EndpointOptions(memory=memory),
        times=EndpointTimes(describe=describe),
    )


async def test_a_worker_describes_itself_and_is_remembered(
    gateway: GatewayServer, tmp_path: Path
) -> None:
    memory = tmp_path / "memory"
    async with target(gateway, memory=memory) as made:
        # ComfyUI 0.3.64 makes the folder input/3d when it is first asked, and lists it then.
        await made.act({"action": "describe"})
        answer = DescribeAnswer.model_validate(await made.act({"action": "describe"}))
        assert answer.nodes is not None
        nodes = unpack_nodes(answer.nodes)
        assert "LoadImage" in nodes
        assert (answer.worker, answer.device is not None) == ("w1", True)
        assert answer.engine
        assert answer.versions["comfy-remote"]
        again = DescribeAnswer.model_validate(
            await made.act({"action": "describe", "known": answer.nodes_hash})
        )
        assert (again.nodes, again.nodes_hash) == (None, answer.nodes_hash)

        assert answer.installed is not None
        assert answer.installed.torch == answer.versions.get("pytorch")
        assert set(answer.installed.models) == set(answer.models)

        health = HealthAnswer.model_validate(await made.act({"action": "health"}))
        assert health.engine == answer.engine
        assert health.disk_free

        found = await made.describe()
        assert found.nodes == nodes
        assert (found.engine, found.device) == (answer.engine, answer.device)
        assert found.installed == answer.installed
        kept = list(memory.iterdir())
        assert kept
        if os.name == "posix":
            assert {file.stat().st_mode & 0o777 for file in kept} == {0o600}

        asked = gateway.queue.health().jobs
        assert (await made.describe()).nodes == nodes
    async with target(gateway, memory=memory) as other:
        assert (await other.describe()).nodes == nodes
    assert gateway.queue.health().jobs == asked, "nobody was asked again"


_PACK = """
class Thing:
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return (1,)


NODE_CLASS_MAPPINGS = {"ThingOfAPack": Thing}
"""


@pytest.mark.comfyui
async def test_a_comfyui_says_what_computes_its_results(tmp_path: Path) -> None:
    """Packs with version and content, models with size and hash, torch and arguments."""
    base, content = tmp_path / "comfy", b"weights" * 1000
    pack = base / "custom_nodes" / "a-pack"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text(_PACK)
    (pack / "pyproject.toml").write_text('[project]\nname = "a-pack"\nversion = "2.0.1"\n')
    (base / "models" / "loras").mkdir(parents=True)
    (base / "models" / "loras" / "a.safetensors").write_bytes(content)
    arguments = f"--cpu --base-directory '{base}' --reserve-vram 1.5"
    environ = {**os.environ, "COMFYUI_ARGS": arguments}
    engine = Engine.named(str(real_comfyui()), environ)
    settings = WorkerSettings(folder=tmp_path / "worker")
    handler = JobHandler(engine, settings, models=models_of(engine, settings), environ=environ)

    async def described() -> Installed:
        answer = DescribeAnswer.model_validate(
            await handler("1", {"action": "describe", "format": "comfy-remote/1"}, quiet)
        )
        assert answer.installed is not None
        return answer.installed

    async def quiet(_: object) -> None:
        """Nobody looks."""

    try:
        first = await described()
        assert first.torch
        assert first.torch[0].isdigit()
        assert first.arguments == ["--cpu", "--reserve-vram", "1.5"]
        [found] = [one for one in first.packs if one.name == "a-pack"]
        assert (found.registry_id, found.version) == ("a-pack", "2.0.1")
        assert found.content is not None
        [model] = first.models["loras"]
        assert (model.name, model.size) == ("a.safetensors", len(content))
        deadline = time.monotonic() + 90
        while (await described()).models["loras"][0].sha256 is None:
            assert time.monotonic() < deadline
            await asyncio.sleep(2.5)  # without a job
        assert (await described()).models["loras"][0].sha256 == sha256(content)
    finally:
        await handler.close()
        engine.stop()


async def test_what_a_worker_takes_too_long_to_say_is_known_later(gateway: GatewayServer) -> None:
    async with target(gateway, describe=0.01) as made:
        assert (await made.describe()).nodes is None
        deadline = time.monotonic() + 60
        while (await made.describe()).nodes is None:
            assert time.monotonic() < deadline


async def test_outputs_that_do_not_fit_are_taken_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine.named("sandbox")
    settings = WorkerSettings(result_limit=1500, folder=tmp_path / "worker")
    record = Record(tmp_path / "home")
    async with GatewayServer(
        endpoint_id="ep", token=TOKEN, limits=GatewayLimits(poll_wait=5.0)
    ) as server:
        try:
            handler = WatchedHandler(JobHandler(engine, settings))
            server.add_local_worker(handler)
            async with Client(target(server), record=record) as client:
                job = await client.submit(picture())
                finished = await job.wait()
                [announced] = finished.outputs
                assert announced.source is not None
                assert announced.source.kept
                [output] = await job.outputs()
                assert hashlib.sha256(output.bytes()).hexdigest() == announced.sha256
                assert output.bytes().startswith(b"\x89PNG")
                fetches = [p for p in handler.payloads if p.get("action") == "fetch"]
                assert len(fetches) == 1

                # Broken off in the middle, it goes on from there.
                rest = [chunk async for chunk in client.target.read(announced, 100)]
                assert b"".join(rest) == output.bytes()[100:]

                for path in (tmp_path / "worker" / "outputs").iterdir():
                    path.unlink()
                with pytest.raises(OutputLost, match="no longer has that output"):
                    _ = [chunk async for chunk in client.target.read(announced)]
            # Others cannot ask for parts: theirs fails with the sizes and the setting.
            result = await handler("j", {"workflow": picture()}, _nothing)
            assert "s_00001_.png" in str(result["error"])
            assert "BUCKET_ENDPOINT_URL" in str(result["error"])
        finally:
            engine.stop()
            record.close()


async def _nothing(snapshot: dict[str, JsonValue]) -> None:
    return None
