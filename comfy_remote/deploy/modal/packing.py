"""What a workflow needs besides ComfyUI: the models and node packs that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ...errors import WorkflowInvalid
from ...ready.lock import Lock, LockedComfyUI
from ...types import JsonValue
from ...wire.repo_list import parse_repo_list
from ...worker.nodes.install_custom_nodes import ListError, parse_list
from ...workflow.models import Model, find_models
from ...workflow.packs import CORE, NodePack, find_packs
from ...workflow.prompt import Prompt
from ...workflow.repo_list import find_repo_list, without_repo_list
from ...workflow.schema import Schemas
from ..locked import is_own_pack, model_lines, packs_for_image

__all__ = ["Packing", "pack"]


@dataclass(frozen=True, slots=True)
class Packing:
    """What to install, and what a person has to add.

    Attributes:
        models: Lines of a repo_list.
        custom_nodes: ``NAME@VERSION`` of the Comfy Registry, ``NAME@COMMIT``,
            ``https://github.com/OWNER/NAME@COMMIT``.
        notes: What it needs without saying where to get it, a sentence each.
        locked: Those of the lock, which go before all but what a person has asked for.
        comfyui: The lock's release of ComfyUI, if it names one.
    """

    models: tuple[str, ...]
    custom_nodes: tuple[str, ...]
    notes: tuple[str, ...]
    locked: tuple[str, ...] = ()
    comfyui: str | None = None


def pack(
    prompt: Prompt,
    workflow: Mapping[str, JsonValue] | None,
    schemas: Schemas,
    *,
    volume: str,
    lock: Lock | None = None,
) -> Packing:
    """What a workflow names, and its lock.

    Args:
        workflow: UI format, if there is one: only that says where models and packs come from.
        schemas: Of the ComfyUI that it was read by.
        volume: The volume that the models go to, for advice.
        lock: What it takes to run it, exactly: it knows more than the workflow says.
    """
    lock = lock or Lock()
    image, locked = packs_for_image(lock), model_lines(lock)
    listed = _listed(prompt, workflow)
    prompt = without_repo_list(prompt)
    lines, notes = [*listed, *locked.values()], list(image.notes)
    known = " ".join(listed)
    for model in find_models(prompt, workflow):
        if (model.folder, model.name.replace("\\", "/")) in locked:
            continue
        if (line := _line(model)) is not None:
            lines.append(line)
        elif _file_of(model) not in known:
            notes.append(_no_address(model, volume))
    nodes = []
    known_classes = {name for one in lock.packs for name in one.classes}
    for one in find_packs(prompt, schemas=schemas, workflow=workflow):
        if one.name == CORE or is_own_pack(one.name, one.classes):
            continue
        if {*one.classes} <= known_classes:
            continue
        if (line := _pinned(one)) is not None:
            nodes.append(line)
        else:
            notes.append(_no_commit(one))
    if lock.comfyui.release is None and lock.comfyui != LockedComfyUI():
        notes.append("The lock names no release of ComfyUI, which is what the project takes.")
    return Packing(
        tuple(dict.fromkeys(lines)),
        tuple(dict.fromkeys(nodes)),
        tuple(notes),
        locked=tuple(map(str, image.packs)),
        comfyui=lock.comfyui.release,
    )


def _listed(prompt: Prompt, workflow: Mapping[str, JsonValue] | None) -> list[str]:
    """The lines of a node titled ``repo_list``, without comments."""
    text = find_repo_list(prompt, workflow)
    numbers = {line.number for line in parse_repo_list(text)}
    return [line.strip() for number, line in enumerate(text.splitlines(), 1) if number in numbers]


def _line(model: Model) -> str | None:
    source = model.source
    if source is None:
        return None
    known = source.hash if (source.hash_type or "").upper() == "SHA256" else None
    sha256 = f" sha256={known}" if known else ""
    line = f'{source.folder} {source.url} name="{source.name}"{sha256}'
    try:
        return line if len(parse_repo_list(line)) == 1 else None
    except WorkflowInvalid:
        return None  # somebody's workflow may have anything there


def _file_of(model: Model) -> str:
    return model.name.replace("\\", "/").rpartition("/")[2]


def _no_address(model: Model, volume: str) -> str:
    folder = model.folder or "FOLDER"
    name = model.name.replace("\\", "/")
    return (
        f"The workflow does not say where to get {name}. Add a line to models in "
        f"modal_config.json (`{folder} https://…`), or put the file there: modal volume put "
        f'{volume} "{_file_of(model)}" "/{folder}/{name}"'
    )


def _pinned(one: NodePack) -> str | None:
    """Its line for the installer, if the workflow says enough."""
    source = f"https://github.com/{one.name}" if "/" in (one.name or "") else one.name
    line = f"{source}@{one.version}"
    try:
        return line if parse_list(line) else None
    except ListError:
        return None  # somebody's workflow may have anything there


def _no_commit(one: NodePack) -> str:
    what = f"the node pack {one.name}" if one.name else "an unnamed node pack"
    version = f" (saved with {one.version})" if one.version else ""
    return (
        f"{', '.join(_some(one.classes))} {'is' if len(one.classes) == 1 else 'are'} of {what}"
        f"{version}. Add it to custom_nodes in modal_config.json: "
        "NAME@VERSION of the Comfy Registry (https://registry.comfy.org), or "
        "https://github.com/OWNER/NAME@COMMIT."
    )


def _some(classes: tuple[str, ...]) -> Iterator[str]:
    yield from classes[:5]
    if len(classes) > 5:
        yield f"{len(classes) - 5} more"
