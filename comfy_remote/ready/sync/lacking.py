"""What a sync would do for workflows that are open somewhere: quick, since what the target has is
neither read nor asked about.

A lock says all of what is needed. Here, a model's SHA-256 is computed, and sites are asked where it
can be had, only if the target lacks it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

from ...schemas.registry import Registry
from ...targets.base import Target
from ...worker.models.hashes import ModelHashes
from ...worker.models.settings import ModelSettings
from ..addresses import with_addresses
from ..hashing import hash_models
from ..lock import Lock, LockedModel, LockedPack
from ..making import make_lock, unresolved_classes
from ..needs import Needs
from ..plan import Plan, Standing, There
from ..snapshots import newest_snapshot
from ..there import local_there
from .here import files_here
from .planning import Sources, plan_sync
from .steps import SyncPlan

__all__ = ["OnStage", "Planned", "Stage", "plan_lacking"]


class Stage(str, Enum):
    """What is being done for a plan."""

    HERE = "here"
    """The ComfyUI on this machine is looked through."""
    TARGET = "target"
    """The target is asked what it has."""
    READING = "reading"
    """Models that it lacks are read for their SHA-256; with bytes."""
    SITES = "sites"
    """Civitai, Hugging Face, the user's bucket and the Comfy Registry are asked."""


OnStage: TypeAlias = Callable[[Stage, int, int], None]
"""Called with the stage, the bytes that were read and all that are to be read (0 without)."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan that was made.

    Attributes:
        lock: What is needed: to plan it again later.
        own: The models (`LockedModel.path`) that are on this machine: what they are is known here,
            and not from a workflow alone.
    """

    lock: Lock
    plan: SyncPlan
    own: frozenset[str] = frozenset()


async def plan_lacking(
    needs: Needs, target: Target, sources: Sources, on_stage: OnStage
) -> Planned:
    """Plan to bring what workflows need to a target.

    Args:
        target: Open.

    Raises:
        ConfigurationError: It is a route.
        ComfyRemoteError: It could not be asked.
    """
    on_stage(Stage.HERE, 0, 0)
    comfyui = sources.comfyui
    here: There | None = None
    if comfyui is not None:
        newest = await asyncio.to_thread(newest_snapshot, comfyui)
        here = await local_there(comfyui, needs, newest, compute_hashes=False)
    lock = make_lock(needs, here).lock
    on_stage(Stage.TARGET, 0, 0)
    plan = await plan_sync(lock, target, sources)
    completed, notes = await _completed(lock, needs, here, plan.plan, sources, on_stage)
    if completed != lock:
        on_stage(Stage.TARGET, 0, 0)
        plan = await plan_sync(completed, target, sources)
    models = (here.models if here is not None else None) or {}
    own = frozenset(f"{folder}/{one.name}" for folder, files in models.items() for one in files)
    return Planned(completed, replace(plan, notes=(*plan.notes, *notes)), own)


async def _completed(
    lock: Lock,
    needs: Needs,
    here: There | None,
    plan: Plan,
    sources: Sources,
    on_stage: OnStage,
) -> tuple[Lock, Sequence[str]]:
    """The lock with all that can be found out of what the target lacks."""
    missing = [one.needed for one in plan.of(Standing.MISSING)]
    models = [one for one in missing if isinstance(one, LockedModel)]
    classes = {
        name for one in missing if isinstance(one, LockedPack) for name in one.classes
    } & set(unresolved_classes(needs, here))
    models = await _read(models, sources, on_stage)
    if models or classes:
        on_stage(Stage.SITES, 0, 0)
    notes: list[str] = []
    if classes and (registry := Registry.of(sources.home)) is not None:
        asked = await registry.packs_of(sorted(classes))
        lock = make_lock(needs, here, registry=asked.packs).lock
        if asked.problem:
            notes.append(f"The Comfy Registry could not be asked for packs: {asked.problem}.")
    if models:
        found = await with_addresses(Lock(models=tuple(models)), ModelSettings.from_environ())
        notes += found.notes
        models = list(found.lock.models)
    known = {one.path: one for one in models}
    whole = tuple(known.get(one.path, one) for one in lock.models)
    return lock.model_copy(update={"models": whole}), notes


async def _read(
    models: Sequence[LockedModel], sources: Sources, on_stage: OnStage
) -> list[LockedModel]:
    """The models with the SHA-256 of their files here."""
    unknown = [one for one in models if one.sha256 is None]
    files = await files_here(sources.comfyui, unknown)
    left = [one.file for one in files.values() if one.sha256 is None]
    if not left:
        return [*models]
    read = await hash_models(
        left, ModelHashes(), lambda done, total: on_stage(Stage.READING, done, total)
    )
    by_path = {path: read.get(one.file) for path, one in files.items()}
    return [
        one.model_copy(update={"sha256": found, "unknown": None})
        if (found := by_path.get(one.path)) is not None
        else one
        for one in models
    ]
