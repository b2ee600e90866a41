"""What a worker's engine computes with: found out once a process, and confirmed in each answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from ..errors import ComfyRemoteError
from ..schedule.cache_key import named_models
from ..targets.comfyui.target import device_of, engine_of
from ..targets.engine_facts import imports_packs, installed_of
from ..types import JsonValue
from ..wire.installed import ModelFile, RanOn
from ..workflow.models import FOLDERS
from ..workflow.prompt import Prompt
from .engine import Engine
from .models.library import ModelLibrary
from .packs import custom_node_folders, installed_packs, packs_in

__all__ = ["WhatRan"]

_log = logging.getLogger(__name__)

# Seconds: clocks of file systems elsewhere differ from ours.
_MARGIN = 2.0
_EMBEDDINGS = ("", ".safetensors", ".pt", ".bin")


class WhatRan:
    """What ran a job, for `Answer.ran_on`.

    Args:
        volume: Where a network volume is mounted.
    """

    def __init__(self, engine: Engine, models: ModelLibrary, volume: Path) -> None:
        self._engine = engine
        self._models = models
        self._volume = volume
        self._pid: int | None = None
        self._digest: str | None = None

    async def of(self, stats: Mapping[str, JsonValue], prompt: Prompt) -> RanOn | None:
        """What ran a prompt; ``None`` if that is not certain, or the engine is not ours.

        Args:
            stats: The engine's ``/system_stats``.
        """
        started, pid = self._engine.started, self._engine.pid
        if started is None or pid is None:
            return None
        try:
            if self._pid != pid:
                self._digest = await asyncio.to_thread(self._digested, stats, started)
                self._pid = pid
            if self._digest is None:
                return None
            return RanOn(digest=self._digest, models=await self._unchanged(prompt, started))
        except (ComfyRemoteError, OSError) as error:
            _log.info("what ran the job is not known: %s", error)
            return None

    def _digested(self, stats: Mapping[str, JsonValue], started: float) -> str | None:
        folders = custom_node_folders(stats, self._volume)
        names = packs_in(folders) if imports_packs(stats) else set()
        packs = installed_packs(names, folders, unchanged_since=started)
        installed = installed_of(stats).model_copy(update={"packs": packs})
        choice = self._engine.choice
        installed.libraries |= choice.node_packages if choice is not None else {}
        return installed.digest(engine_of(stats), device_of(stats))

    async def _unchanged(self, prompt: Prompt, started: float) -> dict[str, list[ModelFile]]:
        """The models that a prompt names and that have not changed since the engine was started."""
        wanted: dict[str, dict[str, None]] = {}
        for _, folder, name in named_models(prompt):
            for where in sorted(FOLDERS) if folder is None else [folder]:
                endings = _EMBEDDINGS if where == "embeddings" else ("",)
                wanted.setdefault(where, {}).update((name + end, None) for end in endings)
        if not wanted:
            return {}
        there = await self._models.details({where: [*names] for where, names in wanted.items()})
        before = started - _MARGIN
        return {
            where: [
                one
                for one in files
                if one.modified is not None
                and one.changed is not None
                and max(one.modified, one.changed) < before
            ]
            for where, files in there.items()
        }
