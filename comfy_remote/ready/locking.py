"""From workflows to their lock: what they need, what is installed, where models can be had."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from ..config.folders import home
from ..config.settings import Configuration
from ..errors import ConfigurationError
from ..jobs.forecast import prepared_for_check
from ..schemas.finding import Found, from_registry, given_schemas, target_schemas
from ..schemas.registry import Registry
from ..targets.opening import open_target
from ..worker.models.settings import ModelSettings
from ..workflow.change.prepare import Changes
from ..workflow.load import LoadedWorkflow
from ..workflow.schema import Schemas
from .addresses import with_addresses
from .hashing import OnBytes
from .local import find_local
from .lock import LockedComfyUI
from .making import Made, make_lock, unresolved_classes
from .needs import Needs
from .plan import There
from .snapshots import Snapshot, newest_snapshot, read_snapshot
from .there import all_there, local_there

__all__ = ["LockPlan", "lock_workflows"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class LockPlan:
    """How workflows are to be locked.

    Attributes:
        on: The target whose installation is locked; ``None`` for a ComfyUI on this machine.
        comfyui: That ComfyUI's folder; ``None`` for the one that is found.
        models: Further folders that are laid out like ``models``.
        snapshot: A snapshot to take ComfyUI and the packs from.
        compute_hashes: Whether models whose SHA-256 is not noted are read.
        offline: Whether nobody is asked: not the registry, nor where models are published.
        schemas: As for `given_schemas`.
    """

    on: str | None = None
    comfyui: Path | None = None
    models: tuple[Path, ...] = ()
    snapshot: Path | None = None
    compute_hashes: bool = True
    offline: bool = False
    schemas: Path | str | None = None


async def lock_workflows(
    loaded: Sequence[LoadedWorkflow],
    names: Sequence[str],
    plan: LockPlan,
    *,
    say: Say,
    on_bytes: OnBytes | None = None,
) -> Made:
    """The lock of some workflows.

    Args:
        names: What the workflows are called in it: of a path, its last part is taken.
        say: Called with a sentence for each thing that is read or asked.
        on_bytes: Called while models are read.

    Raises:
        WorkflowInvalid: One is not usable.
        ConfigurationError: The folder that is named is not a ComfyUI; the target is a route.
        ComfyRemoteError: The target cannot be asked.
    """
    shown = [PurePath(name).name or name for name in names]
    if plan.on is not None:
        made = await _of_target(loaded, shown, plan, say)
    else:
        made = await _of_here(loaded, shown, plan, say, on_bytes)
    if plan.offline or not made.lock.models:
        return made
    addressed = await with_addresses(made.lock, ModelSettings.from_environ())
    return replace(made, lock=addressed.lock, notes=(*made.notes, *addressed.notes))


async def _of_target(
    loaded: Sequence[LoadedWorkflow], names: Sequence[str], plan: LockPlan, say: Say
) -> Made:
    configuration = Configuration.load()
    chosen = configuration.choose(plan.on)
    async with open_target(chosen, configuration) as target:
        if plan.schemas is not None:
            found = Found(await given_schemas(plan.schemas))
        else:
            found = await target_schemas(target, configuration.address_of(chosen))
        needs = await _needs(loaded, names, found, plan, say)
        there = await all_there(target, needs)
    if len(there) != 1:
        members = ", ".join(one.name for one in there)
        raise ConfigurationError(
            f"{target.name} is a route, and its targets may differ: {members}.",
            advice="Name one of them.",
        )
    return await _made(needs, plan, there[0], None)


async def _of_here(
    loaded: Sequence[LoadedWorkflow],
    names: Sequence[str],
    plan: LockPlan,
    say: Say,
    on_bytes: OnBytes | None,
) -> Made:
    if plan.schemas is not None:
        found = Found(await given_schemas(plan.schemas), final=True)
    else:
        found = Found(await asyncio.to_thread(Schemas.bundled))
    needs = await _needs(loaded, names, found, plan, say)
    named = plan.snapshot
    snapshot = await asyncio.to_thread(read_snapshot, named) if named is not None else None
    here = await asyncio.to_thread(find_local, plan.comfyui)
    if here is None:
        say("No ComfyUI was found on this machine.")
        return await _made(needs, plan, *_of_snapshot(snapshot))
    by = f" ({here.found_by})" if here.found_by else ""
    say(f"Reading the ComfyUI in {here.base}{by}.")
    here = replace(here, more_models=plan.models)
    newest = snapshot or await asyncio.to_thread(newest_snapshot, here)
    there = await local_there(
        here, needs, newest, compute_hashes=plan.compute_hashes, on_bytes=on_bytes
    )
    comfyui = await asyncio.to_thread(here.comfyui)
    if snapshot is not None:
        there, comfyui = replace(there, packs=snapshot.packs), snapshot.comfyui
    elif comfyui.version is None and newest is not None and newest.comfyui.version:
        comfyui = newest.comfyui
    made = await _made(needs, plan, there, comfyui)
    return replace(made, notes=(*here.problems, *made.notes))


def _of_snapshot(snapshot: Snapshot | None) -> tuple[There | None, LockedComfyUI | None]:
    if snapshot is None:
        return None, None
    return There("the snapshot", packs=snapshot.packs), snapshot.comfyui


async def _needs(
    loaded: Sequence[LoadedWorkflow],
    names: Sequence[str],
    found: Found,
    plan: LockPlan,
    say: Say,
) -> Needs:
    """What they need, read by these schemas and what the registry knows besides."""
    needs = Needs()
    notes: dict[str, None] = {}
    for one, name in zip(loaded, names, strict=True):
        whole = found if plan.offline else await from_registry(found, one)
        notes.update(dict.fromkeys(whole.notes))
        prepared = await asyncio.to_thread(prepared_for_check, one, Changes(), whole.schemas)
        needs.add(name, prepared.prompt, one.workflow, whole.schemas)
    for note in notes:
        say(note)
    return needs


async def _made(
    needs: Needs, plan: LockPlan, there: There | None, comfyui: LockedComfyUI | None
) -> Made:
    """The lock; the Comfy Registry is asked for the packs that nobody names."""
    left = unresolved_classes(needs, there)
    registry = None if plan.offline or not left else Registry.of(home())
    if registry is None:
        return make_lock(needs, there, comfyui=comfyui)
    asked = await registry.packs_of(left)
    made = make_lock(needs, there, comfyui=comfyui, registry=asked.packs)
    if not asked.problem:
        return made
    host = registry.address.partition("://")[2]
    note = f"The Comfy Registry ({host}) could not be asked for packs: {asked.problem}."
    return replace(made, notes=(*made.notes, note))
