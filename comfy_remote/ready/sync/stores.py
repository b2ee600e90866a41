"""Storage that models are sent to, and not to the target itself: a volume of it, a bucket."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...aio import concurrent_map, within
from ...errors import ConfigurationError, ModelUnavailable
from ...net.bucket import BucketSettings
from ...net.parted_bucket import PartedBucket
from ...targets.runpod.volume import KEYS_ADVICE, Volume
from ...worker.models.folders import folder_of, is_model_folder, is_model_name
from ..lock import LockedModel
from .brought import BroughtRecord

__all__ = ["BucketStore", "Copy", "OnBytes", "VolumeStore", "bucket_store", "volume_store"]

OnBytes = Callable[[int, int], None]
"""Called with the number of bytes that are there, and of all."""
Say = Callable[[str], None]
"""Called with a line for people, where something else takes its time."""

_LISTING = 240.0  # seconds; RunPod's documentation says that it can take long
_VALID = 12 * 3600  # seconds in which the worker may fetch
_AT_ONCE = 8
_COPIES = "comfy-remote-models"
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

    async def put(
        self, path: Path, model: LockedModel, sha256: str, on_bytes: OnBytes, say: Say
    ) -> bool:
        """Have a model there; whether it was sent.

        Raises:
            OutputError: The volume did not take it, or has another file of that name.
            InputFileMissing: It cannot be read, or has changed.
        """
        return await self.bucket.upload(path, await self._key(model), sha256, on_bytes, say)

    def has(self, destination: str) -> bool:
        """Whether an upload is one to this volume."""
        return destination.startswith(self.bucket.destination(""))

    async def give_up(self, destination: str) -> bool:
        """Give up an upload; whether no other program of this machine is at it. What is there
        whole stays.
        """
        return await self.bucket.give_up(self.bucket.name(destination), remove=False)

    async def _key(self, model: LockedModel) -> str:
        if model.folder is None or not is_model_folder(folder_of(model.folder)):
            raise ModelUnavailable(f"The folder of {model.name} is not known, or not of models.")
        if not is_model_name(model.name):
            raise ModelUnavailable(f"{model.path} does not have the name of a model.")
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
    """The user's bucket, on the way: what was fetched from it is removed.

    Each target, and each machine, sends a copy of its own: one that was fetched can go without a
    question whether somebody else is fetching it.
    """

    bucket: PartedBucket
    title: str
    record: BroughtRecord

    async def put(
        self,
        path: Path,
        model: LockedModel,
        sha256: str,
        on_bytes: OnBytes,
        say: Say,
        *,
        target: str,
    ) -> Copy:
        """Have a model there for a target."""
        nonce = await asyncio.to_thread(self.record.nonce, sha256, target)
        key = f"{_COPIES}/{sha256}/{nonce}/{model.name.rpartition('/')[2]}"
        await self.bucket.upload(path, key, sha256, on_bytes, say, lent=True)
        return Copy(key, await self.bucket.sign("GET", key, _VALID))

    async def remove(self, copy: Copy) -> None:
        """Remove it again."""
        await self.bucket.give_up(copy.key, remove=True)

    def has(self, destination: str) -> bool:
        """Whether a copy, or an upload of one, is in this bucket."""
        return destination.startswith(self.bucket.destination(f"{_COPIES}/"))

    async def give_up(self, destination: str) -> bool:
        """Remove a copy, or give up its upload; whether no other program is at it."""
        return await self.bucket.give_up(self.bucket.name(destination), remove=True)


@dataclass(frozen=True, slots=True)
class Copy:
    """A model in the user's bucket, for one target.

    Attributes:
        url: Valid for twelve hours. It holds a signature: it must not be noted or shown.
    """

    key: str
    url: str = field(repr=False)


def volume_store(
    text: str, notes: BroughtRecord, environ: Mapping[str, str] = os.environ
) -> VolumeStore:
    """The volume that a setting names.

    Raises:
        ConfigurationError: It names none, or its keys are not set.
    """
    volume = Volume.parse(text)
    return VolumeStore(volume, PartedBucket(volume.settings(environ), notes, advice=KEYS_ADVICE))


def bucket_store(
    address: str | None, notes: BroughtRecord, environ: Mapping[str, str] = os.environ
) -> BucketStore | None:
    """The user's bucket: ``BUCKET_ENDPOINT_URL``, unless a target names another.

    Raises:
        ConfigurationError: Part of it is missing or wrong.
    """
    settings = BucketSettings.from_environ(environ, address=address or "")
    if settings is None:
        return None
    return BucketStore(PartedBucket(settings, notes), f"the bucket {settings.bucket}", notes)
