"""The downloads of one job, a few at a time, reported as one line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...advice import Hint
from ...aio import concurrent_map
from ...media.file_changes import link_file, rename_path, replace_file
from ...media.files import storage_errors
from ...units import size_text
from .download import download
from .http import ModelHttp
from .manifest import Manifest
from .parts import PartLimits, Parts
from .plan import Missing
from .presence import Presence
from .settings import ModelSettings

__all__ = ["Downloads", "Say"]

Say = Callable[[str], None]
"""Called with a line for people, again and again while models are fetched."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Downloads:
    """What the downloads of one job share.

    Attributes:
        fetched_for: The list that asked for the models (see `manifest.list_key`).
        part_limits: How large ones are divided.
    """

    http: ModelHttp
    settings: ModelSettings
    manifest: Manifest
    presence: Presence
    say: Say
    fetched_for: str
    part_limits: PartLimits = field(default_factory=PartLimits)
    _underway: dict[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._parts = Parts(self.http, self.part_limits)

    async def fetch(self, missing: Sequence[Missing]) -> None:
        """Fetch models, four at a time; the first that fails stops the others.

        What is not complete then stays as a part, and the next time continues from there.
        """
        await concurrent_map(self._one, missing)

    async def _one(self, wanted: Missing) -> None:
        """Fetch one, unless another worker on the volume has done so meanwhile."""
        root = self.manifest.root
        part = wanted.part(root)
        name = wanted.path.name
        total = wanted.found.size

        def report(what: str) -> None:
            self._underway[wanted.path] = what
            self.say(", ".join(self._underway.values()))

        def waits(owner: str) -> None:
            report(f"Waiting for {owner}, which fetches {name}")

        def size(here: int) -> None:
            of = f"/{size_text(total)}" if total is not None else ""
            report(f"Fetching {name} {size_text(here)}{of}")

        try:
            async with self.presence.claim(part.key, waits):
                if await asyncio.to_thread(self._came_meanwhile, wanted):
                    return
                size(part.size)
                sha256 = await download(
                    self.http,
                    wanted,
                    part,
                    parts=self._parts,
                    size_limit=self.settings.size_limit,
                    on_size=size,
                )
                await asyncio.to_thread(self._place, wanted, sha256)
        finally:
            self._underway.pop(wanted.path, None)

    def _came_meanwhile(self, wanted: Missing) -> bool:
        """Whether another worker has fetched it while we waited for it."""
        entry = Manifest(self.manifest.root).entry_of(wanted.path)
        expected = wanted.found.sha256
        return (
            entry is not None
            and entry.identity == wanted.link.identity
            and expected in (None, entry.sha256)
        )

    def _place(self, wanted: Missing, sha256: str) -> None:
        part = wanted.part(self.manifest.root)
        with storage_errors(wanted.path, full=Hint.MODELS_DISK_FULL()):
            wanted.path.parent.mkdir(parents=True, exist_ok=True)
            if wanted.replaces and Manifest(self.manifest.root).entry_of(wanted.path) is not None:
                replace_file(part.path, wanted.path)
            else:
                _rename_to_new(part.path, wanted.path)
        part.remove()
        self.manifest.add(wanted.path, wanted.link.identity, sha256, self.fetched_for)
        _log.info("fetched %s from %s", wanted.path.name, wanted.link.identity)


def _rename_to_new(part: Path, path: Path) -> None:
    """Give a part its name; `FileExistsError` if a file of that name has come meanwhile."""
    try:
        link_file(part, path)  # unlike a rename, fails where there is a file
    except FileExistsError:
        raise
    except OSError:
        # A volume without links. A moment is left in which another program's file could come.
        if path.exists():
            raise FileExistsError(f"{path} has come meanwhile") from None
        rename_path(part, path)
