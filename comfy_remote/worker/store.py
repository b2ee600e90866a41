"""Where outputs go that do not fit the result: what a store is, and our gateway's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import aiohttp
from pydantic import SecretStr

from ..errors import OutputError
from ..media.receive import Received
from ..net.retry import Backoff, TryAgain, retried

__all__ = ["ResultStore", "Store", "StoredFile"]

_BACKOFF = Backoff(attempts=3)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Where a file is now. One of ``url`` and ``kept`` is set.

    Attributes:
        url: Absolute and signed, or below the endpoint's own address.
        delete_url: A signed address to DELETE it by.
        kept: Its name on the worker; see `kept.KeptFiles`.
    """

    url: str | None = None
    delete_url: str | None = None
    kept: str | None = None


class Store(Protocol):
    """A place for files that do not fit the result."""

    @property
    def public(self) -> bool:
        """Whether any client can fetch from there by a plain GET."""

    async def put(self, job_id: str, filename: str, file: Received) -> StoredFile:
        """Store a file.

        Raises:
            ComfyRemoteError: The store would not take it.
        """


class ResultStore:
    """``PUT {url}/{job id}/{sha256}``, streamed from disk.

    Args:
        url: Of the store.
        key: Sent as it is in ``Authorization``.
    """

    def __init__(self, url: str, key: SecretStr) -> None:
        self._url = url.rstrip("/")
        self._key = key

    public = False

    async def put(self, job_id: str, filename: str, file: Received) -> StoredFile:
        """Store a file at ``files/{job id}/{sha256}``, below the endpoint's URL.

        Raises:
            OutputError: The store would not take it, tried three times.
        """
        del filename
        name = f"{quote(job_id, safe='')}/{file.sha256}"
        # Between two chunks, not for the whole file: that may be gigabytes.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=120.0)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                await retried(lambda: self._put_once(session, name, file.path), _BACKOFF, TryAgain)
        except TryAgain as error:
            raise _refused(str(error)) from error
        return StoredFile(url=f"files/{name}")

    async def _put_once(self, session: aiohttp.ClientSession, name: str, path: Path) -> None:
        headers = {"Authorization": self._key.get_secret_value()}
        try:
            with path.open("rb") as content:
                async with session.put(
                    f"{self._url}/{name}", data=content, headers=headers, allow_redirects=False
                ) as response:
                    status = response.status
        except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as error:
            raise TryAgain(str(error) or type(error).__name__) from error
        if status in (408, 429) or status >= 500:
            raise TryAgain(f"HTTP {status}")
        if not 200 <= status < 300:
            raise _refused(f"HTTP {status}")


def _refused(why: str) -> OutputError:
    return OutputError(
        f"An output is too large for the result, and the store did not take it: {why}.",
        advice="Look at the gateway's log (its disk may be full), or make smaller outputs.",
    )
