"""A gateway with a worker in this process whose engine lists the files of a folder."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fake_target import FakeTarget
from model_server import sha256
from models_kit import settings_for
from pydantic import SecretStr
from worker_fakes import EngineTarget, FakeEngine, connect_to

from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.gateway.local_worker import LocalFiles
from comfy_remote.ready.local import LocalComfyUI
from comfy_remote.ready.lock import Lock, LockedModel
from comfy_remote.ready.sync import parts
from comfy_remote.ready.sync.planning import Sources
from comfy_remote.targets.base import Capabilities
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.types import JsonValue
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.models.library import ModelLibrary
from comfy_remote.worker.settings import WorkerSettings

TOKEN = SecretStr("a-token-for-this-test")
LIMITS = GatewayLimits(poll_wait=5.0, free_bytes=0)


class FolderEngine(EngineTarget):
    """Lists the models below a folder, as ComfyUI does."""

    def __init__(self, root: Path, nodes: Mapping[str, JsonValue] | None = None) -> None:
        super().__init__(nodes=nodes or {})
        self.root = root

    async def models(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {"loras": [], "checkpoints": []}
        for path in sorted(self.root.rglob("*.safetensors")):
            folder, _, name = path.relative_to(self.root).as_posix().partition("/")
            found.setdefault(folder, []).append(name)
        return found


@dataclass
class Box:
    """A gateway of somebody's, and its models folder."""

    gateway: GatewayServer
    models: Path
    handler: JobHandler

    def target(self) -> RunPodTarget:
        """A client's."""
        return RunPodTarget("ep", TOKEN, base_url=self.gateway.url)


@asynccontextmanager
async def box(
    folder: Path, nodes: Mapping[str, JsonValue] | None = None, **settings: object
) -> AsyncIterator[Box]:
    """A gateway with a worker that takes models, unless the settings say otherwise.

    Args:
        nodes: What its engine says that it has.
    """
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    changes: Mapping[str, object] = {"accept": True, "hash_models": False, **settings}
    made = settings_for(models, **changes)
    limits = replace(LIMITS)
    async with GatewayServer(endpoint_id="ep", token=TOKEN, limits=limits) as gateway:
        files = LocalFiles(gateway.endpoint)
        handler = JobHandler(
            FakeEngine(),
            WorkerSettings(folder=folder / "worker", models=made),
            models=ModelLibrary(made, worker="box"),
            connect=connect_to(FolderEngine(models, nodes)),
            store=files,
            inputs=files,
        )
        gateway.add_local_worker(handler)
        yield Box(gateway, models, handler)


def comfyui_with(folder: Path, **models: bytes) -> LocalComfyUI:
    """A ComfyUI's folders on this machine: ``loras__style`` is ``loras/style.safetensors``."""
    base = folder / "ComfyUI"
    (base / "models").mkdir(parents=True, exist_ok=True)
    for name, content in models.items():
        path = base / "models" / f"{name.replace('__', '/')}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return LocalComfyUI(base, None, "the test")


def locked(path: str, content: bytes | None, *addresses: dict[str, str]) -> LockedModel:
    """The entry of a lock; without content, what it is is not known."""
    folder, _, name = path.partition("/")
    known: dict[str, JsonValue] = {}
    if content is not None:
        known = {"size": len(content), "sha256": sha256(content)}
    document = {"folder": folder, "name": name, "addresses": list(addresses), **known}
    return LockedModel.model_validate_json(json.dumps(document))


def lock_of(*models: LockedModel) -> Lock:
    return Lock(models=models).sorted()


def sources(folder: Path, comfyui: LocalComfyUI | None = None) -> Sources:
    return Sources(comfyui, folder / "home")


class Gate:
    """Holds up what is sent, on whatever loop, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self._read = parts.read_parts

    async def read(self, path: Path, name: str, **more: int) -> parts.PartedModel:
        self.reached.set()
        while not self.open.is_set():
            await asyncio.sleep(0.01)
        return await self._read(path, name, **more)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Opened at the end at the latest."""
    made = Gate()
    monkeypatch.setattr("comfy_remote.ready.sync.carrying.read_parts", made.read)
    yield made
    made.open.set()


class AskedWorker(FakeTarget):
    """As a worker of ours: it says what it has, now and before, and does what a job asks for.

    Attributes:
        acted: What it was asked to do.
        says: Its words on the way.
    """

    name = "gpu"
    says = "at work"

    def __init__(self) -> None:
        super().__init__()
        self.acted: list[dict[str, Any]] = []

    async def described_before(self) -> Capabilities:
        return await self.describe()

    async def describe_again(self) -> Capabilities:
        return await self.describe()

    async def act(
        self, payload: dict[str, Any], on_message: Callable[[str], None] | None = None
    ) -> JsonValue:
        self.acted.append(payload)
        if on_message is not None:
            on_message(self.says)
        return self.answer(payload)

    def answer(self, payload: dict[str, Any]) -> JsonValue:
        """What it answers to a job."""
        raise NotImplementedError
