"""Storage that models are sent to, and not to the target itself: a volume of it, a bucket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...aio import concurrent_map, within
from ...errors import ConfigurationError, ModelUnavailable
from ...net.parted_bucket import PartedBucket
from ...targets.runpod.volume import Volume
from ...worker.models.folders import folder_of
from ..lock import LockedModel

__all__ = ["BucketStore", "OnBytes", "VolumeStore"]

OnBytes = Callable[[int, int], None]
"""Called with the number of bytes that are there, and of all."""

_LISTING = 240.0  # seconds; RunPod's documentation says that it can take long
_VALID = 12 * 3600  # seconds in which the worker may fetch
_AT_ONCE = 8
_WHOLE_COMFYUI, _ALONE = "ComfyUI/models", "models"  # as the worker looks for them


@dataclass(slots=True)
class VolumeStore:
    """A network volume."""

    volume: Volume
    bucket: PartedBucket
    _folder: str | None = field(default=None, init=False)

    async def sizes(self, models: Sequence[LockedModel]) -> dict[str, int | None]:
        """The sizes of the files that have these models' names, by `LockedModel.path`; ``None``
        for one that is not there.
        """
        found: dict[str, int | None] = {}

        async def ask(model: LockedModel) -> None:
            found[model.path] = await self.bucket.size(await self._key(model))

        if models:
            await self._key(models[0])
        await concurrent_map(ask, models, at_a_time=_AT_ONCE)
        return found

    async def put(self, path: Path, model: LockedModel, sha256: str, on_bytes: OnBytes) -> bool:
        """Have a model there; whether it was sent.

        Raises:
            OutputError: The volume did not take it, or has another file of that name.
            InputFileMissing: It cannot be read, or has changed.
        """
        return await self.bucket.upload(path, await self._key(model), sha256, on_bytes)

    async def _key(self, model: LockedModel) -> str:
        if model.folder is None:
            raise ModelUnavailable(f"The folder of {model.name} is not known.")
        if self._folder is None:
            self._folder = self.volume.folder or await self._models_folder()
        return f"{self._folder}/{folder_of(model.folder)}/{model.name}"

    async def _models_folder(self) -> str:
        """The one that a worker of ours reads: `worker.models.folders.ModelFolders.of_worker`."""
        try:
            whole = await within(self.bucket.has_below(_WHOLE_COMFYUI), _LISTING)
        except asyncio.TimeoutError:
            raise ConfigurationError(
                f"{self.volume.title} did not say within {_LISTING:g} s whether it has a folder "
                f"{_WHOLE_COMFYUI}.",
                advice="Name the models' folder in the setting: "
                f"{self.volume.id}@{self.volume.datacenter}/{_WHOLE_COMFYUI}.",
            ) from None
        return _WHOLE_COMFYUI if whole else _ALONE


@dataclass(frozen=True, slots=True)
class BucketStore:
    """The user's bucket, on the way: what was fetched from it is removed."""

    bucket: PartedBucket
    title: str

    async def put(self, path: Path, model: LockedModel, sha256: str, on_bytes: OnBytes) -> str:
        """Have a model there; an address that is valid for twelve hours. It holds a signature: it
        must not be noted or shown.
        """
        key = self._key(model, sha256)
        await self.bucket.upload(path, key, sha256, on_bytes)
        return await self.bucket.sign("GET", key, _VALID)

    async def remove(self, model: LockedModel, sha256: str) -> None:
        """Remove it again."""
        await self.bucket.delete(self._key(model, sha256))

    def _key(self, model: LockedModel, sha256: str) -> str:
        # By content: nobody else's file can have the name.
        return f"comfy-remote-models/{sha256}/{model.name.rpartition('/')[2]}"
