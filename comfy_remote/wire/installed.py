"""What a worker says of the node packs and models that it has, exactly enough to compare two."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, Field

__all__ = ["COMFYUIS_OWN", "LARGEST_SIZE", "Installed", "InstalledPack", "ModelFile", "RanOn"]

COMFYUIS_OWN = frozenset({"websocket_image_save"})
"""What ComfyUI itself has in ``custom_nodes``."""

LARGEST_SIZE = 2**63 - 1
"""Bytes that any file can have; JSON and TOML can say more, which no file system or SQLite does."""


class InstalledPack(BaseModel):
    """One node pack. What is not known is ``None``.

    Attributes:
        name: Its folder, or file, in ``custom_nodes``.
        registry_id: Its id in the Comfy Registry, as it says itself.
        version: As it says itself.
        commit: That is checked out, 40 hex digits.
        url: The repository that it was cloned from, without a login.
        content: SHA-256 of its Python files, by their paths: two packs of one version that differ
            have been changed by somebody.
        brought: Whether a job has brought it (`wire.nodes`), and another may replace it.
    """

    name: str
    registry_id: str | None = None
    version: str | None = None
    commit: str | None = None
    url: str | None = None
    content: str | None = None
    brought: bool = False


class ModelFile(BaseModel):
    """One model that is there.

    Attributes:
        name: Relative to its folder, ``/`` between parts: what a workflow calls it.
        size: Bytes; ``None`` when the target does not say.
        modified: When it was changed last, in s since 1970; ``None`` likewise.
        changed: When it was changed, renamed or replaced last, as far as the file system tells.
        sha256: Of its content; ``None`` while the worker has not read it. It does so when no job
            runs.
        fetched_from: Where the worker fetched it from; ``None`` if it did not.
        pinned: Whether pruning leaves it.
    """

    name: str
    size: int | None = Field(default=None, ge=0, le=LARGEST_SIZE)
    modified: float | None = None
    changed: float | None = None
    sha256: str | None = None
    fetched_from: str | None = None
    pinned: bool = False


class Installed(BaseModel):
    """What computes a worker's results, exactly.

    Attributes:
        torch: Its version, with that of CUDA: ``2.11.0+cu130``.
        python: Its version; ``None`` from older workers.
        libraries: Versions of what ComfyUI computes with besides, by name; empty from older ones.
        arguments: What ComfyUI was started with, but for addresses, folders and what else differs
            from one start to the next.
        packs: Those that its nodes come from.
        models: Those that ComfyUI lists, by folder.
    """

    torch: str | None = None
    python: str | None = None
    libraries: dict[str, str] = {}
    arguments: list[str] = []
    packs: list[InstalledPack] = []
    models: dict[str, list[ModelFile]] = {}

    def digest(self, engine: str | None, device: str | None) -> str | None:
        """SHA-256 of all but the models; ``None`` where the content of a pack is not known.

        Args:
            engine: Name and version.
            device: Of the GPU, or ``cpu``.
        """
        packs = [pack for pack in self.packs if pack.name not in COMFYUIS_OWN]
        if any(pack.content is None for pack in packs):
            return None
        said = [
            *(engine, device, self.torch, self.python, self.libraries, self.arguments),
            sorted([one.name, one.version, one.commit, one.content] for one in packs),
        ]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class RanOn(BaseModel):
    """What a worker ran a job with, to be compared with what it has described.

    Attributes:
        digest: See `Installed.digest`.
        models: Those of the job's models, by folder, that the engine can only have read as they
            are: none of them has changed since it was started.
    """

    digest: str
    models: dict[str, list[ModelFile]] = {}
