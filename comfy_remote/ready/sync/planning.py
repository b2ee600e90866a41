"""What a sync would do: a target asked, the files here looked for, each model's way chosen."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigurationError
from ...targets.base import Target
from ...targets.kinds import Billing
from ..local import LocalComfyUI
from ..lock import Lock, LockedModel
from ..plan import Plan, Standing, compare
from ..there import all_there
from .brought import BroughtRecord
from .here import files_here
from .steps import SyncPlan, Way, steps_of
from .ways import ways_to

__all__ = ["Sources", "plan_sync"]


@dataclass(frozen=True, slots=True)
class Sources:
    """What a sync has besides the target.

    Attributes:
        comfyui: The ComfyUI on this machine whose models may be sent; ``None`` if there is none.
        home: The user's data folder.
        billing: How the target costs money; ``None`` for one that does not.
    """

    comfyui: LocalComfyUI | None
    home: Path
    billing: Billing | None = None


async def plan_sync(lock: Lock, target: Target, sources: Sources) -> SyncPlan:
    """Compare a target with a lock, and choose the way of each model.

    Args:
        target: Open.

    Raises:
        ConfigurationError: It is a route.
        ComfyRemoteError: It could not be asked.
    """
    there, *others = await all_there(target, lock, everything=True)
    if others:
        members = ", ".join(one.name for one in (there, *others))
        raise ConfigurationError(
            f"{target.name} is a route, and each of its targets has models of its own: {members}.",
            advice="Name one of them.",
        )
    plan = compare(lock, there)
    lacking = [
        one.needed for one in plan.of(Standing.MISSING) if isinstance(one.needed, LockedModel)
    ]
    here = await files_here(sources.comfyui, lacking)
    ways = await ways_to(target, there)
    steps = steps_of(plan, ways, here)
    record = BroughtRecord(sources.home)
    speeds = await asyncio.to_thread(record.speeds, target.name)
    made = SyncPlan(plan, tuple(steps), speeds)
    return SyncPlan(plan, tuple(steps), speeds, tuple(_notes(made, plan, sources)))


def _notes(made: SyncPlan, plan: Plan, sources: Sources) -> list[str]:
    notes = []
    ways = {one.way for one in made.steps}
    by_worker = ways & {Way.FETCH, Way.LINK, Way.BUCKET, Way.SEND}
    if by_worker and sources.billing == "by run":
        notes.append(
            f"A worker of {plan.target} does that, and costs what it costs in a run for as long as "
            "that takes."
        )
    elif by_worker and sources.billing == "by hour":
        notes.append(f"{plan.target} costs by the hour meanwhile, as always.")
    if Way.BUCKET in ways:
        notes.append("What is sent by the bucket is removed from it once it has been fetched.")
    if Way.VOLUME in ways:
        notes.append(
            "A network volume costs the same however full it is. Nothing says how much of it is "
            "free, so it may turn out to be too small."
        )
    if any(one.here is not None and one.model.sha256 is None for one in made.to_do):
        notes.append("The lock has no SHA-256 for some models: the files of this machine count.")
    return notes
