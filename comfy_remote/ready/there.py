"""What is there: asked of a target, or read from a ComfyUI on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ..errors import ComfyRemoteError
from ..targets.base import (
    Capabilities,
    ChoosesAmong,
    DescribesByJob,
    ListsModels,
    MayTake,
    Target,
    TellsWhatRuns,
)
from ..types import JsonValue, mapping
from ..wire.installed import ModelFile
from ..worker.models.folders import folder_of
from ..worker.models.hashes import ModelHashes
from .hashing import LocalModel, OnBytes, hash_models, known_hash
from .local import LocalComfyUI
from .lock import Lock
from .needs import Needs
from .plan import There
from .snapshots import Snapshot

__all__ = [
    "all_there",
    "local_files",
    "local_there",
    "model_here",
    "target_there",
    "wanted_by",
]

_COMFYUI = "ComfyUI "
_ENDINGS = ("", ".safetensors", ".pt", ".bin")  # of an embedding, which a prompt names without one


def wanted_by(needed: Lock | Needs) -> tuple[set[str], set[str]]:
    """The node classes, and the folders of models, that a target is asked about."""
    if isinstance(needed, Lock):
        classes = {name for pack in needed.packs for name in pack.classes}
        return classes, {one.folder for one in needed.models if one.folder}
    return set(needed.classes), {folder for _, folder in needed.models if folder}


async def all_there(
    target: Target, needed: Lock | Needs, *, everything: bool = False
) -> list[There]:
    """What a target has; of a route, what each member has that can be asked.

    Args:
        target: Open.
        everything: As for `target_there`.
    """
    if not isinstance(target, ChoosesAmong):
        return [await target_there(target, needed, everything=everything)]
    return [await target_there(one, needed, everything=everything) for one in target.among]


async def target_there(target: Target, needed: Lock | Needs, *, everything: bool = False) -> There:
    """What a target has of what is needed, as far as it says.

    A plain ComfyUI says the names of its packs, and names and sizes of its models. A worker of
    ours says all, with versions, commits and hashes; one of an endpoint that sleeps is not started
    for it if it has said so before.

    Args:
        target: Open.
        everything: Whether to ask for all its models, and not for those of the folders that are
            needed; and for what a worker that is awake has now, not what one has said lately.

    Raises:
        ComfyRemoteError: It could not be asked.
    """
    classes, folders = wanted_by(needed)
    names: Mapping[str, list[str]] | None = None
    unknown = isinstance(needed, Lock) and any(one.folder is None for one in needed.models)
    if isinstance(target, ListsModels):
        try:
            names = await target.models()
        except ComfyRemoteError:
            names = None  # a ComfyUI from before 2024 has no such route
        if names is not None and (everything or unknown or isinstance(needed, Needs)):
            folders = set(names)
    if isinstance(target, DescribesByJob):
        said = await (target.describe_again() if everything else target.describe(classes))
    elif isinstance(target, TellsWhatRuns):
        said = await target.what_runs(classes, folders)
    else:
        said = await target.describe(classes)
    if isinstance(target, MayTake):
        said = await target.with_installed(said)
    return _there(target.name, said, classes, names)


def _there(
    name: str,
    said: Capabilities,
    classes: Collection[str],
    names: Mapping[str, list[str]] | None,
) -> There:
    installed = said.installed
    comfyui = None
    if said.engine is not None and said.engine.startswith(_COMFYUI):
        comfyui = said.engine.removeprefix(_COMFYUI)
    models: dict[str, list[ModelFile]] | None = None
    if names is not None or (installed is not None and installed.models):
        models = dict(installed.models) if installed is not None else {}
        # A folder of which only the names are known.
        for folder, listed in (names or {}).items():
            if not models.get(folder):
                models[folder] = [ModelFile(name=one) for one in listed]
    elif installed is not None and said.nodes is not None:
        models = {}  # a worker that has none, or the sandbox
    return There(
        name,
        comfyui=comfyui,
        engine=said.engine,
        packs=installed.packs if installed is not None else None,
        models=models,
        classes=None if said.nodes is None else _modules(said.nodes, classes),
        fetches_models=said.fetches_models,
        takes_models=said.takes_models,
        takes_nodes=said.takes_nodes,
        no_nodes=said.no_nodes,
        ours=frozenset(one.name for one in installed.packs if one.brought)
        if installed
        else frozenset(),
    )


def _modules(nodes: Mapping[str, JsonValue], wanted: Collection[str]) -> dict[str, str]:
    """The folder in ``custom_nodes`` of each class that is there."""
    found = {}
    for name in wanted:
        if name in nodes:
            module = mapping(nodes[name]).get("python_module")
            place, _, rest = module.partition(".") if isinstance(module, str) else ("", "", "")
            found[name] = rest.partition(".")[0] if place == "custom_nodes" else ""
    return found


# On this machine


async def local_there(
    comfyui: LocalComfyUI,
    needs: Needs,
    snapshot: Snapshot | None = None,
    *,
    compute_hashes: bool = True,
    on_bytes: OnBytes | None = None,
) -> There:
    """What a ComfyUI on this machine has of what is needed.

    Args:
        snapshot: Of it: completes what a pack does not say of itself.
        compute_hashes: Whether models whose hash is not noted are read.
        on_bytes: Called while they are.
    """
    packs = await asyncio.to_thread(comfyui.packs)
    if snapshot is not None:
        noted = {one.name.casefold(): one for one in snapshot.packs}
        for number, pack in enumerate(packs):
            known = noted.get(pack.name.casefold())
            if known is not None and not (pack.version or pack.commit):
                missing = known.model_dump(exclude_none=True, exclude={"name", "content"})
                packs[number] = pack.model_copy(update=missing)
    unnamed = [name for name, said in needs.classes.items() if said is None]
    classes = await asyncio.to_thread(comfyui.classes, unnamed)
    files = await asyncio.to_thread(local_files, comfyui, needs.models)
    hashes = ModelHashes()
    known_hashes = await asyncio.to_thread(
        lambda: {one: found for one in files if (found := known_hash(one, hashes)) is not None}
    )
    if compute_hashes:
        left = [one for one in files if one not in known_hashes]
        known_hashes |= await hash_models(left, hashes, on_bytes)
    models: dict[str, list[ModelFile]] = {}
    for one in files:
        file = ModelFile(name=one.name, size=one.size, sha256=known_hashes.get(one))
        models.setdefault(one.folder, []).append(file)
    version = (await asyncio.to_thread(comfyui.comfyui)).version
    return There(
        "the ComfyUI on this machine",
        comfyui=version,
        packs=packs,
        models=models,
        classes=classes,
    )


def local_files(
    comfyui: LocalComfyUI, models: Iterable[tuple[str, str | None]]
) -> list[LocalModel]:
    """The files of models: of each, the one that ComfyUI would find. Blocking.

    Args:
        models: Name and folder of each; ``None`` for a folder that is not known.
    """
    folders = comfyui.models()
    found: dict[tuple[str, str], LocalModel] = {}
    for name, folder in models:
        places = [folder_of(folder)] if folder else sorted(folders)
        for place in places:
            model = model_here(name, place, folders.get(place, ()))
            if model is not None:
                found.setdefault((model.folder, model.name), model)
    return list(found.values())


def model_here(name: str, folder: str, roots: Iterable[Path]) -> LocalModel | None:
    """The file of a model in the first of some folders that has it. Blocking."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or ":" in name:
        return None
    for root in roots:
        for ending in _ENDINGS if folder == "embeddings" else ("",):
            try:
                path = root / f"{name}{ending}"
                if path.is_file():
                    return LocalModel(folder, f"{name}{ending}", root, path.stat().st_size)
            except (OSError, ValueError):
                continue
    return None
