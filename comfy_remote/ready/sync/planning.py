"""What a sync would do: a target asked, the files here looked for, each model's way chosen."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...config.folders import home
from ...config.settings import Configuration
from ...config.target_settings import TargetSettings
from ...errors import ConfigurationError
from ...targets.base import DescribesByJob, Target
from ...targets.kinds import Billing, billing_of
from ...wire.installed import ModelFile
from ..local import LocalComfyUI
from ..lock import Lock, LockedModel
from ..plan import Plan, Standing, There, compare
from ..there import all_there
from .brought import BroughtRecord
from .here import files_here
from .packs import PackStep, pack_steps_of
from .steps import SyncPlan, Way, steps_of
from .stores import BucketStore, VolumeStore, bucket_store, volume_store
from .ways import by_hand_at, ways_to

__all__ = ["Sources", "plan_sync", "sources_of"]


@dataclass(frozen=True, slots=True)
class Sources:
    """What a sync has besides the target.

    Attributes:
        comfyui: The ComfyUI on this machine whose models may be sent; ``None`` if there is none.
        home: The user's data folder.
        billing: How the target costs money; ``None`` for one that does not.
        volume: The network volume of the target, if it is set.
        bucket: The user's bucket, if there is one.
    """

    comfyui: LocalComfyUI | None
    home: Path
    billing: Billing | None = None
    volume: VolumeStore | None = None
    bucket: BucketStore | None = None


def sources_of(
    configuration: Configuration,
    target: str | None,
    comfyui: LocalComfyUI | None,
    *,
    volume: str | None = None,
    models: bool = True,
    environ: Mapping[str, str] = os.environ,
) -> Sources:
    """What a sync to a target has, as its settings say. Blocking.

    Args:
        target: Its name or address; ``None`` for the usual one.
        volume: Its network volume, instead of the one that is set.
        models: Whether there are models to bring: node packs need no volume, nor its keys.

    Raises:
        ConfigurationError: A volume or a bucket is set wrongly.
    """
    name, folder = configuration.choose(target), home()
    settings = configuration.settings_of(name) or TargetSettings(name)
    record = BroughtRecord(folder)
    volume = (settings.volume if volume is None else volume) if models else None
    return Sources(
        comfyui,
        folder,
        billing_of(settings, environ),
        None if volume is None else volume_store(volume, record, environ),
        bucket_store(settings.bucket, record, environ),
    )


async def plan_sync(lock: Lock, target: Target, sources: Sources) -> SyncPlan:
    """Compare a target with a lock, and choose the way of each node pack and model.

    Args:
        target: Open.

    Raises:
        ConfigurationError: It is a route.
        ComfyRemoteError: It could not be asked.
    """
    record = BroughtRecord(sources.home)
    there = await _there(lock, target, sources)
    plan = compare(lock, there)
    if sources.volume is not None and (lacking := _lacking(plan)):
        there = await _with_volume(there, lacking, sources.volume, record)
        plan = compare(lock, there)
    here = await files_here(sources.comfyui, _lacking(plan))
    ways = await ways_to(
        target,
        there,
        volume=sources.volume.volume.title if sources.volume is not None else "",
        bucket=sources.bucket.title if sources.bucket is not None else "",
    )
    by_hand = by_hand_at(target)
    packs = pack_steps_of(plan, ways, by_hand=by_hand, ours=there.ours)
    made = SyncPlan(
        plan,
        tuple(steps_of(plan, ways, here)),
        await asyncio.to_thread(record.speeds, target.name),
        packs=tuple(packs),
        by_hand=by_hand if ways.install and _any_by_hand(packs, there) else None,
    )
    return replace(made, notes=tuple(_notes(made, plan, sources)))


def _any_by_hand(packs: Sequence[PackStep], there: There) -> bool:
    """Whether some have to be installed in another way, or may have to be: a worker that is not
    ours does not say what it has.
    """
    silent = there.packs is None
    return any(
        (one.way is Way.IMPOSSIBLE and one.wanted is not None)
        or (silent and one.item.standing is Standing.UNKNOWN)
        for one in packs
    )


def _lacking(plan: Plan) -> list[LockedModel]:
    """The models that the target has not."""
    missing = plan.of(Standing.MISSING)
    return [one.needed for one in missing if isinstance(one.needed, LockedModel)]


async def _there(lock: Lock, target: Target, sources: Sources) -> There:
    if sources.volume is not None and isinstance(target, DescribesByJob):
        before = await target.described_before()
        if before.nodes is None:
            # Its volume says what is on it: no worker is started, which there may not be yet.
            return There(target.name, models={})
    there, *others = await all_there(target, lock, everything=True)
    if others:
        members = ", ".join(one.name for one in (there, *others))
        raise ConfigurationError(
            f"{target.name} is a route, and each of its targets has models of its own: {members}.",
            advice="Name one of them.",
        )
    return there


async def _with_volume(
    there: There, lacking: Sequence[LockedModel], volume: VolumeStore, record: BroughtRecord
) -> There:
    """With the models that are on the volume by now: its worker may have been asked long ago.

    The SHA-256 of one is that of what was sent from here under its name, if the size is the same.
    """
    known = [one for one in lacking if one.folder is not None]
    sizes = await volume.sizes(known)
    sent = {
        (one.model, one.size): one.sha256
        for one in reversed(await asyncio.to_thread(record.all, there.name))
        if one.way == Way.VOLUME.value and one.destination == volume.volume.title
    }
    models = {folder: list(files) for folder, files in (there.models or {}).items()}
    for one in known:
        size = sizes[one.path]
        if size is not None and one.folder is not None:
            file = ModelFile(name=one.name, size=size, sha256=sent.get((one.path, size)))
            models.setdefault(one.folder, []).append(file)
    return replace(there, models=models)


def _notes(made: SyncPlan, plan: Plan, sources: Sources) -> list[str]:
    notes = []
    ways = {one.way for one in made.all_steps}
    by_worker = ways & {Way.FETCH, Way.LINK, Way.BUCKET, Way.SEND, Way.INSTALL}
    if by_worker and sources.billing == "by run":
        notes.append(
            f"A worker of {plan.target} does that, and is billed as for a run while it takes."
        )
    elif by_worker and sources.billing == "by hour":
        notes.append(f"{plan.target} is billed by the hour meanwhile, as always.")
    if Way.BUCKET in ways:
        notes.append("What is sent through the bucket is removed from it once it has been fetched.")
    if Way.VOLUME in ways:
        notes.append(
            "A network volume costs the same however full it is. Nothing says how much of it is "
            "free, so it may turn out to be too small."
        )
    if Way.INSTALL in ways:
        notes.append(
            "Node packs and their requirements are installed beside what is there and tried, which "
            "may take minutes: ComfyUI has to start with them and know their nodes. Otherwise "
            "nothing changes."
        )
    sent = [one for one in made.steps if one.way.brings]
    if any(one.here is not None and one.model.sha256 is None for one in sent):
        notes.append(
            "The lock has no SHA-256 for some models: the files on this machine are sent as they "
            "are."
        )
    return notes
