"""What the key of a run is on a target, or why it has none."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import asdict
from typing import TYPE_CHECKING

from ...aio import within
from ...errors import ComfyRemoteError
from ...schedule.cache_key import Asked, Doubt, Runner, Verdict, early_doubts, judged, model_folders
from ...targets.base import ConfirmsWhatRan, TellsWhatRuns

if TYPE_CHECKING:
    from ...targets.base import Capabilities, RunRequest, Target
    from ...types import JsonValue

__all__ = ["PATIENCE", "asked_of", "judged_with", "verdict_on"]

PATIENCE = 10.0
"""Seconds for a target to say what it would run a prompt with."""


def asked_of(request: RunRequest) -> Asked:
    """What of a request decides about its outputs; complete, as `Client.completed` gives it."""
    embedded: dict[str, JsonValue] = {
        "workflow": None if request.workflow is None else dict(request.workflow),
        "extra_data": dict(request.extra_data),
    }
    return Asked(
        request.prompt,
        {file.name: file.sha256 for file in request.files},
        embedded,
        {"repo_list": request.repo_list, "models": [asdict(one) for one in request.models]},
    )


async def verdict_on(
    target: Target,
    request: RunRequest,
    packs: Collection[str] = (),
    *,
    patience: float = PATIENCE,
) -> Verdict:
    """The key of a request on a target, or why it has none. Raises nothing of a target's.

    The target is asked only if nothing else is in the way, and nothing is started for it.

    Args:
        packs: Those that the owner vouches for.
    """
    asked = asked_of(request)
    if doubts := early_doubts(asked, packs):
        return Verdict(None, doubts)
    if not isinstance(target, TellsWhatRuns):
        return Verdict(None, (Doubt(f"{target.name} does not say what computes its results."),))
    classes = {node["class_type"] for node in asked.prompt.values()}
    try:
        said = await within(target.what_runs(classes, model_folders(asked.prompt)), patience)
    except asyncio.TimeoutError:
        why = f"{target.name} did not say within {patience:g} s what computes its results."
        return Verdict(None, (Doubt(why),))
    except ComfyRemoteError as error:
        why = f"{target.name} could not be asked what computes its results: {error.message}"
        return Verdict(None, (Doubt(why),))
    return judged_with(target, request, said, packs)


def judged_with(
    target: Target, request: RunRequest, said: Capabilities, packs: Collection[str] = ()
) -> Verdict:
    """The key of a request that is run, or was, with what a target says."""
    confirmed = isinstance(target, ConfirmsWhatRan)
    runner = Runner(said.engine, said.device, said.nodes, said.installed, confirmed)
    return judged(asked_of(request), runner, packs)
