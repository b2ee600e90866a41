"""What a job about models does in this ComfyUI."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from ...errors import ConfigurationError
from ...types import JsonValue
from ...wire.models import CHANGES_MODELS, PLACE, ModelsRequest, PlaceRequest
from ...wire.repo_list import parse_repo_list
from ...worker.models.library import ModelLibrary
from ...worker.models.settings import ModelSettings
from .ahead import PartsAhead
from .jobs import ReceivingJob

__all__ = ["ReceivedModels"]

_LOOK_EVERY = 0.1  # seconds


class ReceivedModels:
    """The models folder of this ComfyUI.

    Args:
        folder: ComfyUI's own, where models are looked for as well.
    """

    def __init__(self, settings: ModelSettings, folder: Path) -> None:
        self.library = ModelLibrary(settings, lambda: folder, worker=platform.node() or "ComfyUI")
        # A worker does one job at a time, and the library keeps workers apart, not jobs of one.
        self._busy: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._holders: dict[str, ReceivingJob] = {}

    async def act(self, payload: dict[str, JsonValue], job: ReceivingJob) -> JsonValue:
        """Do what the ``action`` says; the answer as a worker's (`wire.models`).

        Raises:
            WorkflowInvalid: The request cannot be read.
            ModelUnavailable: A model cannot be had.
            LocalStorageError: The disk is full, or cannot be written to.
            ConfigurationError: It would remove something, which its owner has not allowed.
        """
        if payload.get("action") == PLACE:
            request = PlaceRequest.parse(payload)
            parts = PartsAhead(job, request.files)
            async with self._alone(f"{request.folder}/{request.name}", job):
                try:
                    placed = await self.library.place(request, parts.fetch, job.say)
                finally:
                    await parts.close()
            return placed.model_dump(mode="json")
        wanted = ModelsRequest.parse(payload)
        if wanted.prune or wanted.action in CHANGES_MODELS - {"ensure"}:
            raise ConfigurationError(
                "No model is removed from a ComfyUI that is not a worker.",
                advice="Remove it there yourself.",
            )
        lines = parse_repo_list(wanted.repo_list)
        match wanted.action:
            case "ensure":
                async with self._alone("fetched models", job):
                    found = await self.library.ensure(
                        lines, job.say, prune_others=False, name=wanted.list_name
                    )
                return found.model_dump(mode="json")
            case "check":
                checked = await self.library.check(lines, prune_others=False, name=wanted.list_name)
                return checked.model_dump(mode="json")
            case _:
                return (await self.library.models()).model_dump(mode="json")

    @asynccontextmanager
    async def _alone(self, what: str, job: ReceivingJob) -> AsyncIterator[None]:
        """While inside, no other job brings the same. One whose client was killed gives way."""
        lock = self._busy.setdefault(what, asyncio.Lock())
        if lock.locked():
            job.say(f"Waiting for another sync, which brings {what}")
        while lock.locked():
            holder = self._holders.get(what)
            if holder is not None and holder.seems_left:
                holder.cancel()
            await asyncio.sleep(_LOOK_EVERY)
        async with lock:
            self._holders[what] = job
            try:
                yield
            finally:
                del self._holders[what]
