"""What was found at typed addresses, for the next time that one is opened."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ...aio import in_thread
from ...errors import TargetNotFound
from ...media.file_changes import discard
from ...media.files import write_whole
from .probe import Speaks, what_speaks

if TYPE_CHECKING:
    from ...net.http import HttpClient

__all__ = ["AddressMemory", "AddressWatch"]

_LARGEST = 64 * 1024  # bytes of a file
_MOST_FILES = 500
_OLDEST = 90 * 24 * 3600.0  # seconds
_SPEAKS: tuple[Speaks, ...] = ("comfyui", "comfy")

_log = logging.getLogger(__name__)


class AddressMemory:
    """What the server at a URL was found to speak: a small file in the owner's data folder.

    Only opening an address writes it, which is after the address has been trusted.

    Args:
        home: As `config.folders.home` gives it.
        url: Of the server.
    """

    def __init__(self, home: Path, url: str) -> None:
        self.url = url
        self._folder = home / "addresses"
        self._path = self._folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"

    def read(self) -> Speaks | None:
        """What was found; ``None`` if nothing was, or a long time ago. Blocking."""
        try:
            fresh = time.time() - self._path.stat().st_mtime < _OLDEST
            with self._path.open("rb") as file:
                said = json.loads(file.read(_LARGEST))
        except (OSError, ValueError, RecursionError):
            return None
        if not fresh or not isinstance(said, dict) or said.get("url") != self.url:
            return None
        return next((one for one in _SPEAKS if one == said.get("speaks")), None)

    def write(self, speaks: Speaks) -> None:
        """Remember it, and forget the addresses above the 500 newest. Blocking."""
        try:
            write_whole(self._path, json.dumps({"url": self.url, "speaks": speaks}).encode())
        except OSError as error:
            _log.warning("What %s speaks could not be stored: %s", self.url, error)
            return
        found = []
        for path in self._folder.glob("*.json"):
            with suppress(OSError):
                found.append((path.stat().st_mtime, path))
        for _, path in sorted(found, reverse=True)[_MOST_FILES:]:
            discard(path, seconds=0)


class AddressWatch:
    """Notices when an address has something else behind it than was remembered.

    Attributes:
        changed: Whether it has: opening the address again gives the target of what is there.
    """

    def __init__(self, memory: AddressMemory) -> None:
        self.changed = False
        self._memory = memory

    @asynccontextmanager
    async def over(self, http: HttpClient) -> AsyncIterator[None]:
        """Look again if a request is answered by 404; the error's advice says what is there now."""
        try:
            yield
        except TargetNotFound as error:
            await self.look_again(http, error)
            raise

    async def look_again(self, http: HttpClient, error: object) -> None:
        """The same, for an error that has been raised already; others than 404 are ignored."""
        if not isinstance(error, TargetNotFound) or self.changed:
            return
        url = self._memory.url
        speaks = await what_speaks(http, url)
        if speaks is None or speaks == await in_thread(self._memory.read):
            return
        await in_thread(self._memory.write, speaks)
        self.changed = True
        now = "a ComfyUI" if speaks == "comfyui" else f"a Comfy API (comfy:{url})"
        error.advice = f"{url} is {now} by now: run it again."
