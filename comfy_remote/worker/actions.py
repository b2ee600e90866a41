"""Jobs that run no workflow: about the worker itself (``action`` ``describe``, ``health``,
``fetch``) and about its models (``ensure``, ``check``, ``prune``, ``models``).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import platform
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, JsonValue

from ..errors import ComfyRemoteError, ConfigurationError
from ..events import Progress
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
from ..wire.models import ModelsAnswer, ModelsRequest, PlaceAnswer, PlaceRequest
from ..wire.nodes import NodesAnswer, NodesRequest
from ..wire.repo_list import parse_repo_list
from .engine import Engine
from .models.downloads import Say
from .models.library import ModelLibrary
from .models.plan import free_bytes
from .nodes.fetching import ways_to_nodes
from .nodes.requirements import find_uv
from .nodes.sets import NodeSets
from .nodes.steps import said_again
from .packs import custom_node_folders, installed_packs, packs_in, with_brought
from .progress import ProgressReporter, Report
from .settings import WorkerSettings
from .storage import InputStore, KeptFiles

__all__ = [
    "EngineFacts",
    "act_on_models",
    "act_on_nodes",
    "describe",
    "fetch_part",
    "health",
    "models_listed",
    "models_of",
    "nodes_of",
    "place_model",
    "say_to",
    "why_no_nodes",
]


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


async def models_listed(target: ComfyUITarget) -> dict[str, list[str]]:
    """The models that the engine lists, by folder."""
    try:
        return await target.models()
    except ComfyRemoteError:
        return {}  # a ComfyUI from before 2024 has no such route


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


def models_of(engine: Engine, settings: WorkerSettings) -> ModelLibrary:
    """The models of a worker and its engine."""
    name = settings.worker or platform.node() or "another worker"
    return ModelLibrary(settings.models, lambda: engine.models_folder, worker=name)


def nodes_of(
    settings: WorkerSettings, environ: Mapping[str, str] = os.environ, name: str = ""
) -> NodeSets | None:
    """The node packs that jobs bring to a worker.

    Args:
        name: The worker's, where its settings have none.
    """
    if settings.nodes is None:
        return None
    name = settings.worker or name or platform.node() or "another worker"
    return NodeSets(settings.nodes, worker=name, environ=environ)


def why_no_nodes(engine: Engine) -> str:
    """Why jobs can bring no node packs to a started engine; empty if they can. Blocking."""
    choice = engine.choice
    if choice is None or choice.program is None:
        if choice is not None and choice.command:
            return "its engine is the sandbox, which has nodes of its own and imports no packs"
        return "its ComfyUI was started by somebody else, so the worker cannot start it again"
    if engine.nodes is None:
        return "its node packs belong to its image"
    if not engine.nodes.settings.allow:
        return (
            "the worker's owner has not allowed it: a pack is code (ALLOW_NODE_INSTALL=true allows "
            "it)"
        )
    if find_uv() is None:
        return "uv, which installs what packs require, is missing beside it: pip install uv"
    return ""


async def act_on_nodes(engine: Engine, payload: JsonValue, report: Report) -> NodesAnswer:
    """Do what a job about node packs asks for. After a change, the engine is started again.

    Raises:
        WorkflowInvalid: The request is not valid. Nothing was done.
        ConfigurationError: No packs can be installed here, or may not.
        NodesUnavailable: A pack cannot be had, or ComfyUI does not work with it.
        LocalStorageError: The disk is full, or cannot be written to.
    """
    request = NodesRequest.parse(payload)
    await engine.ready()
    why = await asyncio.to_thread(why_no_nodes, engine)
    choice, sets = engine.choice, engine.nodes
    if request.action == "nodes":
        if sets is None or choice is None or choice.program is None:
            return NodesAnswer(notes=[f"No node packs can be brought here: {why}."])
        return await asyncio.to_thread(sets.answer)
    if why or sets is None or choice is None or choice.program is None:
        raise ConfigurationError(
            f"This worker installs no node packs: {why}.",
            advice="The worker's owner can change that, or installs the packs.",
        )

    async with (
        ProgressReporter(report) as reporter,
        said_again(say_to(reporter)) as say,
    ):

        async def start() -> None:
            say("Starting ComfyUI with its node packs")
            await asyncio.to_thread(engine.stop)
            try:
                await engine.ready(as_it_is=True)
            except BaseException:
                await asyncio.to_thread(engine.stop)
                raise

        if request.action == "rollback_nodes":
            built = await sets.roll_back(say, start)
        else:
            built = await sets.build(request.packs, choice.program, say, start)
    return await asyncio.to_thread(sets.answer, built)


async def act_on_models(
    library: ModelLibrary,
    payload: JsonValue,
    report: Report,
    listed: Callable[[], Awaitable[dict[str, list[str]]]],
) -> dict[str, JsonValue]:
    """Do what a job about models asks for; one of the answers in `wire.models`, as JSON.

    Args:
        listed: Asks the engine for the names of its models, by folder: all that is known of them
            where the worker knows no folder for models (an engine at a URL).

    Raises:
        WorkflowInvalid: The request, or a line of its list, cannot be read. Nothing was done.
        ModelUnavailable: A model cannot be had.
        LocalStorageError: The disk is full, or cannot be written to.
        ConfigurationError: This worker has no folder for models.
    """
    request = ModelsRequest.parse(payload)
    lines = parse_repo_list(request.repo_list)
    answer: BaseModel
    async with ProgressReporter(report) as reporter:
        say = say_to(reporter)
        match request.action:
            case "ensure":
                answer = await library.ensure(
                    lines, say, prune_others=request.prune, name=request.list_name
                )
            case "check":
                answer = await library.check(
                    lines, prune_others=request.prune, name=request.list_name
                )
            case "prune":
                answer = await library.prune(
                    lines, say, everything=request.everything, name=request.list_name
                )
            case "models" if library.has_folder:
                answer = await library.models()
            case "models":
                answer = ModelsAnswer.of_names(await listed())
    return answer.model_dump(mode="json")


async def place_model(
    library: ModelLibrary,
    store: InputStore | None,
    job_id: str,
    payload: JsonValue,
    report: Report,
) -> PlaceAnswer:
    """Do what a `PlaceRequest` asks for.

    Args:
        store: Has the model's parts; ``None`` where clients can put none anywhere.

    Raises:
        WorkflowInvalid: The request is not valid. Nothing was done.
        ModelUnavailable: It cannot be had, or may not: says why.
        LocalStorageError: The disk is full, or cannot be written to.
    """
    request = PlaceRequest.parse(payload)

    async def fetch(sha256: str, path: Path) -> bool:
        return store is not None and await store.fetch(job_id, sha256, path)

    async with ProgressReporter(report) as reporter:
        return await library.place(request, fetch, say_to(reporter))


def say_to(reporter: ProgressReporter) -> Say:
    """A `Say` that sends each line as the message of a progress snapshot."""
    return lambda words: reporter.progress(Progress(message=words))


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
