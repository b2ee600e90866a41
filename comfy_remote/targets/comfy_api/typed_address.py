"""What is behind an http(s) address that somebody typed: a ComfyUI, or else a Comfy API.

The server is asked when the address is opened for the first time, and the answer is remembered in
the owner's data folder. Where something else is there later, a request is answered by 404: then
the server is asked again, and the next opening uses what is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from yarl import URL

from ...aio import in_thread, within
from ...errors import ComfyRemoteError, TargetNotFound
from ...json_text import parse_json
from ...media.file_changes import discard
from ...media.files import write_whole
from ..base import Health, RemoteRef, RunRequest
from ..comfyui.target import ComfyUITarget

if TYPE_CHECKING:
    import ssl

    from pydantic import SecretStr

    from ...net.http import HttpClient
    from ..base import Target

__all__ = ["Memory", "Speaks", "TypedAddress", "Watch", "what_speaks"]

Speaks: TypeAlias = Literal["comfyui", "comfy"]
"""ComfyUI's own API (also of a server that has both), or Comfy API v2."""

_PATIENCE = 10.0  # seconds, for all questions
_LARGEST = 1024 * 1024  # bytes of an answer
_MOST_FILES = 500
_OLDEST = 90 * 24 * 3600.0  # seconds
_NO_JOB = "00000000-0000-0000-0000-000000000000"
_ANY_STATUS = tuple(range(300, 600))

_log = logging.getLogger(__name__)


async def what_speaks(http: HttpClient, url: str) -> Speaks | None:
    """Ask what is at a URL; ``None`` where the answer does not tell, or there is none.

    Args:
        http: To the URL's origin, or to the URL itself.
    """
    below = URL(url).path.rstrip("/") if URL(http.base_url).path in ("", "/") else ""
    try:
        return await within(_asked(http, below), _PATIENCE)
    except (ComfyRemoteError, asyncio.TimeoutError):
        return None


async def _asked(http: HttpClient, below: str) -> Speaks | None:
    answer = await http.get_once(f"{below}/api/v2/jobs/{_NO_JOB}", _ANY_STATUS, _LARGEST)
    if answer.status not in (401, 403, 404):
        return None
    if not answer.body.lstrip().startswith(b"{") or not _is_refusal(answer.body):
        # A login in front of it answers by 401 or 403 for any server.
        return "comfyui" if answer.status == 404 else None
    stats = await http.get_once(f"{below}/system_stats", _ANY_STATUS, _LARGEST)
    with suppress(ValueError):
        said = parse_json(stats.body)
        if stats.status == 200 and isinstance(said, dict) and "system" in said:
            return "comfyui"
    return "comfy"


def _is_refusal(body: bytes) -> bool:
    """Whether it has the form of Comfy API's errors."""
    from pydantic import ValidationError  # here: a ComfyUI's answer is no JSON

    from ...wire.comfy_api import ErrorEnvelope

    try:
        ErrorEnvelope.model_validate_json(body)
    except ValidationError:
        return False
    return True


class Memory:
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
        speaks = said.get("speaks")
        return cast("Speaks", speaks) if speaks in ("comfyui", "comfy") else None

    def write(self, speaks: Speaks) -> None:
        """Remember it, and remove the oldest of what is too much. Blocking."""
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


class Watch:
    """Notices that something else is at an address than was remembered.

    Attributes:
        changed: Whether it is so: opening the address again gives the target of what is there.
    """

    def __init__(self, memory: Memory) -> None:
        self.changed = False
        self._memory = memory

    @asynccontextmanager
    async def over(self, http: HttpClient) -> AsyncIterator[None]:
        """Look again where requests are answered by 404, and say what is there now."""
        try:
            yield
        except TargetNotFound as error:
            await self.look_again(http, error)
            raise

    async def look_again(self, http: HttpClient, error: object) -> None:
        """The same, after an error."""
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


class TypedAddress(ComfyUITarget):
    """The ComfyUI at an address that was typed. Where a Comfy API turns out to be there, opening it
    gives that one's target.

    Args:
        url, name, headers, tls: As for `ComfyUITarget`.
        memory: Of that address.
        known: Whether it remembers a ComfyUI: then nothing is asked.
        instead: Gives the target of the Comfy API.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        headers: Mapping[str, SecretStr],
        tls: ssl.SSLContext | None,
        memory: Memory,
        known: bool,
        instead: Callable[[], Target],
    ) -> None:
        super().__init__(url, name=name, headers=headers, tls=tls)
        self._memory = memory
        self._watch = Watch(memory)
        self._known = known
        self._instead = instead

    # What is opened need not be a ComfyUI, unlike what the class says of itself.
    async def __aenter__(self) -> Target:  # type: ignore[override]
        await super().__aenter__()
        if self._known:
            return self
        try:
            speaks = await what_speaks(self._http, self.url)
            if speaks is not None:
                await in_thread(self._memory.write, speaks)
            if speaks != "comfy":
                return self
            instead = self._instead()
        except BaseException:
            await super().__aexit__()
            raise
        await super().__aexit__()
        _log.info("%s is a Comfy API, and no ComfyUI.", self.url)
        return await instead.__aenter__()

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            await self._watch.look_again(self._http, exc_info[1] if exc_info else None)
        finally:
            await super().__aexit__(*exc_info)

    @property
    def has_changed(self) -> bool:
        """See `MayChange`."""
        return self._watch.changed

    async def submit(self, request: RunRequest) -> RemoteRef:
        async with self._watch.over(self._http):
            return await super().submit(request)

    async def health(self) -> Health:
        async with self._watch.over(self._http):
            return await super().health()
