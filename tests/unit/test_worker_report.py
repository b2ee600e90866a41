"""What a worker says that its engine has."""

from __future__ import annotations

from typing import Any, cast

import pytest

from comfy_remote.sandbox.server import SandboxServer
from comfy_remote.targets.base import Capabilities
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.wire.joined import LONGEST_NAME, MOST_NAMES, Report
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.report import EngineReport


class Up:
    """An engine that runs."""

    async def ready(self) -> str:
        return "http://127.0.0.1:8188"


class Said:
    """A target that says what a test wants."""

    def __init__(self, models: dict[str, list[str]], **capabilities: Any) -> None:
        self._models = models
        said = {"nodes": None, "device": None, "engine": None, **capabilities}
        self._capabilities = Capabilities(**said)

    async def __aenter__(self) -> Said:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def describe(self) -> Capabilities:
        return self._capabilities

    async def models(self) -> dict[str, list[str]]:
        return self._models


async def report_of(said: Said, **words: Any) -> Report:
    def connect(url: str) -> ComfyUITarget:
        return cast("ComfyUITarget", said)

    return await EngineReport(cast("Engine", Up()), connect=connect, **words)()


async def test_a_gpu_its_nodes_and_its_models() -> None:
    said = Said(
        {"checkpoints": ["b.safetensors", "a.safetensors"], "vae": []},
        nodes={"KSampler": {}, "Alpha": {}},
        engine="ComfyUI 0.33.0",
        device="NVIDIA RTX",
        memory_total=24 * 10**9,
    )
    report = await report_of(said, labels=["big", "big"], fetches_models=True)
    assert report == Report(
        engine="ComfyUI 0.33.0",
        device="NVIDIA RTX",
        nodes=["Alpha", "KSampler"],
        models=["checkpoints/a.safetensors", "checkpoints/b.safetensors"],
        memory=24 * 10**9,
        labels=["big"],
        fetches_models=True,
    )


async def test_nodes_that_buy_something_are_named() -> None:
    login = {"input": {"hidden": {"auth_token_comfy_org": "AUTH_TOKEN_COMFY_ORG"}}}
    nodes = {"Free": {}, "Buys": {"api_node": True}, "LogsIn": login}
    assert (await report_of(Said({}, nodes=nodes))).paid == ["Buys", "LogsIn"]


async def test_an_engine_without_models_says_so_and_one_without_the_route_does_not() -> None:
    nodes = {"KSampler": {}}
    assert (await report_of(Said({"vae": []}, nodes=nodes))).models == []
    assert (await report_of(Said({}, nodes=nodes))).models is None
    assert (await report_of(Said({}))).nodes is None


async def test_what_a_report_cannot_hold_is_unknown_and_no_error() -> None:
    many = [f"{number}.pt" for number in range(MOST_NAMES + 1)]
    assert (await report_of(Said({"vae": many}))).models is None
    long = ["x" * LONGEST_NAME, "a.pt"]
    assert (await report_of(Said({"vae": long}))).models == ["vae/a.pt"]


@pytest.mark.parametrize("device", ["cpu", "CPU"])
async def test_the_memory_of_a_computer_is_not_a_gpus(device: str) -> None:
    said = Said({}, device=device, memory_total=64 * 10**9)
    assert (await report_of(said)).memory == 0


async def test_a_real_engine_is_asked() -> None:
    async with SandboxServer() as engine:
        report = await EngineReport(Engine.named(engine.url))()
    assert "SandboxSlow" in (report.nodes or [])
