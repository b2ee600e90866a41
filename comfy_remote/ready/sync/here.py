"""The files on this machine of the models that a lock names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ...worker.models.folders import folder_of
from ...worker.models.hashes import ModelHashes
from ..hashing import OnBytes, hash_models, known_hash
from ..local import LocalComfyUI
from ..lock import LockedModel
from ..there import model_here
from .steps import Here

__all__ = ["files_here", "with_hash"]


async def files_here(
    comfyui: LocalComfyUI | None, models: Sequence[LockedModel]
) -> dict[str, Here]:
    """Which of some models are on this machine, by `LockedModel.path`. Their hashes, where they
    are noted: nothing is read for it.
    """
    if comfyui is None:
        return {}
    return await asyncio.to_thread(_found, comfyui, models)


async def with_hash(here: Here, on_bytes: OnBytes | None = None) -> Here:
    """The same with its hash, for which it is read if need be. It stays ``None`` for a file that
    cannot be read, or changes meanwhile.
    """
    if here.sha256 is not None:
        return here
    found = await hash_models([here.file], ModelHashes(), on_bytes)
    return Here(here.file, found.get(here.file))


def _found(comfyui: LocalComfyUI, models: Sequence[LockedModel]) -> dict[str, Here]:
    folders, hashes = comfyui.models(), ModelHashes()
    found: dict[str, Here] = {}
    for model in models:
        if model.folder is None:
            continue
        folder = folder_of(model.folder)
        file = model_here(model.name, folder, folders.get(folder, ()))
        if file is not None:
            found[model.path] = Here(file, known_hash(file, hashes))
    return found
