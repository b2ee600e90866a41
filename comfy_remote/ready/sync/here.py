"""The files on this machine of the models that a lock names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from ...worker.models.folders import folder_of
from ...worker.models.hashes import ModelHashes
from ..hashing import LocalModel, hash_models, known_hash
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


async def with_hash(here: Here) -> Here:
    """The file as it is now, with its hash, for which it is read unless that is noted: it may have
    changed since a plan was made. The hash is ``None`` for one that cannot be read, or changes
    meanwhile.
    """
    file = await asyncio.to_thread(_as_it_is, here.file)
    known = await asyncio.to_thread(known_hash, file, ModelHashes())
    return Here(file, known or (await hash_models([file], ModelHashes())).get(file))


def _as_it_is(file: LocalModel) -> LocalModel:
    try:
        return replace(file, size=file.path.stat().st_size)
    except OSError:
        return file


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
