"""The SHA-256 of models on this machine: read in threads, noted beside them.

The notes are the worker's (`worker.models.hashes`), so a model is read once for both. What was
interrupted goes on with the models that are not noted yet.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ..worker.models.hashes import ModelHashes

__all__ = ["LocalModel", "hash_models", "known_hash"]

_STEP = 4 * 1024 * 1024  # bytes read at a time
_AT_ONCE = 3  # a disk serves few readers well

OnBytes = Callable[[int, int], None]
"""Called with the number of bytes that were read, and of all that are to be read."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model's file.

    Attributes:
        folder: ComfyUI's name of its folder.
        name: Below that folder, ``/`` between parts.
        root: The folder on the disk that the name begins in.
    """

    folder: str
    name: str
    root: Path
    size: int

    @property
    def path(self) -> Path:
        """Of the file."""
        return self.root / self.name


def known_hash(model: LocalModel, hashes: ModelHashes) -> str | None:
    """Its hash, if it is noted and the file has not changed since. Blocking."""
    root = _models_folder(model)
    return hashes.known(root, model.path)


async def hash_models(
    models: Sequence[LocalModel], hashes: ModelHashes, on_bytes: OnBytes | None = None
) -> dict[LocalModel, str]:
    """The hashes of models. Those that cannot be read, or change meanwhile, are left out.

    Cancelled, it stops within a step of reading.
    """
    stopped, lock = threading.Event(), threading.Lock()
    loop, total, done = asyncio.get_running_loop(), sum(one.size for one in models), 0

    def say(so_far: int) -> None:
        if on_bytes is not None:
            on_bytes(so_far, total)

    def count(size: int) -> None:
        nonlocal done
        with lock:
            done += size
            so_far = done
        loop.call_soon_threadsafe(say, so_far)

    def read(model: LocalModel) -> str | None:
        return _read(model, hashes, count, stopped)

    found: dict[LocalModel, str] = {}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="model hashes") as pool:
        work = [loop.run_in_executor(pool, read, model) for model in models]
        try:
            for model, one in zip(models, await asyncio.gather(*work), strict=True):
                if one is not None:
                    found[model] = one
        finally:
            stopped.set()
    return found


def _read(
    model: LocalModel, hashes: ModelHashes, count: Callable[[int], None], stopped: threading.Event
) -> str | None:
    digest = hashlib.sha256()
    try:
        before = model.path.stat()
        with model.path.open("rb") as file:
            while chunk := file.read(_STEP):
                if stopped.is_set():
                    return None
                digest.update(chunk)
                count(len(chunk))
        after = model.path.stat()
    except OSError:
        return None
    if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        return None
    hashes.note(_models_folder(model), model.path, before, digest.hexdigest())
    return digest.hexdigest()


def _models_folder(model: LocalModel) -> Path:
    """The folder that has the notes: ComfyUI's ``models``, where the worker looks for them; of a
    folder elsewhere, that one.
    """
    above = model.root.parent
    return above if above.name == "models" else model.root
