"""Jobs about the worker itself: ``describe``, ``health``, ``fetch``."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from ..targets.comfyui.target import ComfyUITarget, device_of, engine_of
from ..targets.engine_facts import imports_packs, installed_of, python_of
from ..version import __version__
from ..wire.actions import (
    DescribeAnswer,
    DescribeRequest,
    FetchAnswer,
    FetchRequest,
    HealthAnswer,
    pack_nodes,
    parse_input,
)
from .engine import Engine
from .model_actions import models_listed
from .models.library import ModelLibrary
from .models.plan import free_bytes
from .node_actions import why_no_nodes
from .nodes.fetching import ways_to_nodes
from .packs import custom_node_folders, installed_packs, packs_in, with_brought
from .settings import WorkerSettings
from .storage import KeptFiles

__all__ = ["EngineFacts", "describe", "fetch_part", "health"]


async def describe(
    target: ComfyUITarget,
    payload: JsonValue,
    settings: WorkerSettings,
    library: ModelLibrary,
    *,
    engine: Engine,
) -> DescribeAnswer:
    """What the engine has installed, and whether the worker may fetch models for a workflow.

    Args:
        engine: If it was started here, its folders can be looked into.

    Raises:
        TargetError: The engine cannot be asked.
    """
    request = parse_input(DescribeRequest, payload)
    nodes = (await target.describe()).nodes or {}
    stats = await target.system()
    document = await asyncio.to_thread(lambda: json.dumps(nodes, ensure_ascii=False).encode())
    nodes_hash = hashlib.sha256(document).hexdigest()
    new = request.known != nodes_hash
    device = _first_device(stats)
    listed, names = await models_listed(target), _packs(nodes)
    volume, folders = settings.models.volume, list[Path]()
    if engine.pid is not None:
        folders = await asyncio.to_thread(custom_node_folders, stats, volume)
    imported = {*names, *await asyncio.to_thread(packs_in, folders)}
    imported = imported if imports_packs(stats) else set()
    packs = await asyncio.to_thread(
        installed_packs, imported, folders, unchanged_since=engine.started
    )
    no_nodes = await asyncio.to_thread(why_no_nodes, engine)
    installed, choice = installed_of(stats), engine.choice
    installed.libraries |= choice.node_packages if choice is not None else {}
    packs = with_brought(packs, choice.node_packs if choice is not None else {})
    versions = _versions(stats)
    return DescribeAnswer(
        nodes_hash=nodes_hash,
        nodes=await asyncio.to_thread(pack_nodes, document) if new else None,
        models=listed,
        packs=names,
        device=device_of(stats),
        vram_total=_bytes(device, "vram_total"),
        vram_free=_bytes(device, "vram_free"),
        engine=engine_of(stats),
        versions=versions,
        worker=settings.worker,
        fetches_models=settings.models.download is True,
        takes_models=library.takes,
        takes_nodes=frozenset() if no_nodes else await asyncio.to_thread(ways_to_nodes),
        no_nodes=no_nodes,
        node_set=choice.node_set if choice is not None else None,
        installed=installed.model_copy(
            update={
                "packs": packs,
                "models": await library.details(listed),
            }
        ),
    )


async def health(target: ComfyUITarget, folder: Path, worker: str | None) -> HealthAnswer:
    """The state of the worker and its engine."""
    stats = await target.system()
    system = stats.get("system")
    return HealthAnswer(
        engine=engine_of(stats),
        ram_free=_bytes(system if isinstance(system, dict) else {}, "ram_free"),
        vram_free=_bytes(_first_device(stats), "vram_free"),
        disk_free=free_bytes(folder),
        worker=worker,
    )


async def fetch_part(kept: KeptFiles, payload: JsonValue) -> FetchAnswer:
    """A part of an output that is stored here.

    Raises:
        OutputLost: It is not here.
    """
    request = parse_input(FetchRequest, payload)
    data, size = await asyncio.to_thread(kept.part, request.kept, request.offset, request.length)
    return FetchAnswer(data=base64.b64encode(data).decode("ascii"), size=size)


def _packs(nodes: Mapping[str, JsonValue]) -> list[str]:
    found = set()
    for node in nodes.values():
        module = node.get("python_module") if isinstance(node, dict) else None
        if isinstance(module, str) and module.startswith("custom_nodes."):
            found.add(module.removeprefix("custom_nodes."))  # a folder may have a dot in its name
    return sorted(found)


def _versions(stats: Mapping[str, JsonValue]) -> dict[str, str]:
    system = stats.get("system")
    system = system if isinstance(system, dict) else {}
    found = {
        "comfyui": system.get("comfyui_version"),
        "pytorch": system.get("pytorch_version"),
        "python": python_of(stats) or platform.python_version(),
    }
    said = {name: version for name, version in found.items() if isinstance(version, str)}
    return {"comfy-remote": __version__, **said}


def _first_device(stats: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    match stats.get("devices"):
        case [dict(device), *_]:
            return device
        case _:
            return {}


def _bytes(facts: Mapping[str, JsonValue], name: str) -> int | None:
    value = facts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class EngineFacts:
    """``/system_stats`` of the process that runs now.

    Versions and folders stay what they are while a process lives. Of an engine that somebody
    else starts, and may start again, nothing is remembered.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pid: int | None = None
        self._stats: dict[str, JsonValue] = {}

    async def stats(self, target: ComfyUITarget) -> dict[str, JsonValue]:
        """The document, asked once a process."""
        if self._pid is None or self._pid != self._engine.pid:
            self._stats = await target.system()
            self._pid = self._engine.pid
        return self._stats
