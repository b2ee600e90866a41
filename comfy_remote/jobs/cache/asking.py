"""What the key of a run is on a target, or why it has none."""

from __future__ import annotations

import asyncio
import time
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

__all__ = ["PATIENCE", "Answers", "asked_of", "judged_with", "verdict_on"]

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


class Answers:
    """What a target says computes its results, asked once for several runs that begin together."""

    def __init__(self) -> None:
        self._about: tuple[TellsWhatRuns, frozenset[str], frozenset[str]] | None = None
        self._asked = 0.0
        self._said: asyncio.Future[Capabilities] | None = None

    async def of(
        self,
        target: TellsWhatRuns,
        classes: Collection[str],
        folders: Collection[str],
        lately: float,
    ) -> Capabilities:
        """As `TellsWhatRuns.what_runs` gives it, asked no more than so many seconds ago."""
        about = target, frozenset(classes), frozenset(folders)
        said = self._said
        old = lately <= 0 or time.monotonic() - self._asked > lately
        if said is None or old or self._about != about or _has_failed(said):
            self._about, self._asked = about, time.monotonic()
            said = self._said = asyncio.ensure_future(target.what_runs(classes, folders))
            said.add_done_callback(_has_failed)  # so that asyncio does not log an error
        return await asyncio.shield(said)


def _has_failed(said: asyncio.Future[Capabilities]) -> bool:
    return said.done() and (said.cancelled() or said.exception() is not None)


async def verdict_on(
    target: Target,
    request: RunRequest,
    packs: Collection[str] = (),
    *,
    answers: Answers,
    lately: float = 0.0,
    patience: float = PATIENCE,
) -> Verdict:
    """The key of a request on a target, or why it has none. Raises nothing of a target's.

    The target is asked only if nothing else is in the way, and nothing is started for it.

    Args:
        packs: Those that the owner vouches for.
        answers: What the target has said before, and says now.
        lately: Seconds since which an answer will do; 0 to ask now.
    """
    asked = asked_of(request)
    if doubts := early_doubts(asked, packs):
        return Verdict(None, doubts)
    if not isinstance(target, TellsWhatRuns):
        return Verdict(None, (Doubt(f"{target.name} does not say what computes its results."),))
    classes = {node["class_type"] for node in asked.prompt.values()}
    try:
        asking = answers.of(target, classes, model_folders(asked.prompt), lately)
        said = await within(asking, patience)
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
