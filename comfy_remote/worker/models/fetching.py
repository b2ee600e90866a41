"""The downloads of one job, a few at a time, reported as one line."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ...aio import concurrent_map
from ...media.files import storage_errors
from ...units import size_text
from .download import FULL_DISK, download
from .fetch import ModelHttp
from .manifest import Manifest
from .plan import Missing
from .presence import Presence
from .settings import ModelSettings

__all__ = ["Say", "fetch_all"]

Say = Callable[[str], None]
"""Told a line for people, again and again while models are fetched."""

_log = logging.getLogger(__name__)


async def fetch_all(
    missing: Sequence[Missing],
    http: ModelHttp,
    settings: ModelSettings,
    manifest: Manifest,
    presence: Presence,
    say: Say,
    fetched_for: str,
) -> None:
    """Fetch models for a list, four at a time; the first that cannot be had stops the others.

    What is not complete then stays as a part, and the next time goes on from there.

    Raises:
        ModelUnavailable: One of them cannot be had.
        LocalStorageError: One cannot be written.
    """
    fetching = _Fetching(http, settings, manifest, presence, say, fetched_for)
    await concurrent_map(fetching.one, missing)


class _Fetching:
    def __init__(
        self,
        http: ModelHttp,
        settings: ModelSettings,
        manifest: Manifest,
        presence: Presence,
        say: Say,
        fetched_for: str,
    ) -> None:
        self._fetched_for = fetched_for
        self._http = http
        self._settings = settings
        self._manifest = manifest
        self._presence = presence
        self._say = say
        self._underway: dict[Path, str] = {}

    async def one(self, wanted: Missing) -> None:
        """Fetch one, unless another worker on the volume has done so meanwhile."""
        root = self._manifest.root
        part = wanted.part(root)
        name = wanted.path.name
        total = wanted.found.size

        def report(what: str) -> None:
            self._underway[wanted.path] = what
            self._say(", ".join(self._underway.values()))

        def waits(owner: str) -> None:
            report(f"Waiting for {owner}, which fetches {name}")

        def size(here: int) -> None:
            of = f"/{size_text(total)}" if total is not None else ""
            report(f"Fetching {name} {size_text(here)}{of}")

        try:
            async with self._presence.claim(part.key, waits):
                if await asyncio.to_thread(self._came_meanwhile, wanted):
                    return
                size(part.size)
                sha256 = await download(
                    self._http,
                    wanted.location,
                    wanted.found,
                    part,
                    wanted.link.identity,
                    wanted.path.name,
                    size_limit=self._settings.size_limit,
                    on_size=size,
                )
                await asyncio.to_thread(self._place, wanted, sha256)
        finally:
            self._underway.pop(wanted.path, None)

    def _came_meanwhile(self, wanted: Missing) -> bool:
        """Whether another worker has fetched it while we waited for it."""
        entry = Manifest(self._manifest.root).entry_of(wanted.path)
        expected = wanted.found.sha256
        return (
            entry is not None
            and entry.identity == wanted.link.identity
            and expected in (None, entry.sha256)
        )

    def _place(self, wanted: Missing, sha256: str) -> None:
        part = wanted.part(self._manifest.root)
        with storage_errors(wanted.path, full=FULL_DISK):
            wanted.path.parent.mkdir(parents=True, exist_ok=True)
            if wanted.replaces and Manifest(self._manifest.root).entry_of(wanted.path) is not None:
                part.path.replace(wanted.path)
            else:
                _rename_to_new(part.path, wanted.path)
        part.remove()
        self._manifest.add(wanted.path, wanted.link.identity, sha256, self._fetched_for)
        _log.info("fetched %s from %s", wanted.path.name, wanted.link.identity)


def _rename_to_new(part: Path, path: Path) -> None:
    """Give a part its name; never instead of a file that came meanwhile.

    Raises:
        FileExistsError: One did.
    """
    try:
        os.link(part, path)  # unlike a rename, fails where there is a file
    except FileExistsError:
        raise
    except OSError:
        # A volume without links. A moment is left in which another program's file could come.
        if path.exists():
            raise FileExistsError(f"{path} has come meanwhile") from None
        part.rename(path)
