"""Where outputs go that do not fit the result: our gateway's store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import quote

import aiohttp
import tenacity
from pydantic import SecretStr

from ..errors import OutputError

__all__ = ["ResultStore"]

_ATTEMPTS = 3


class _TryAgain(Exception):
    """The store did not take it, and may the next time."""


class ResultStore:
    """``PUT {url}/{job id}/{sha256}``, streamed from disk.

    Args:
        url: Of the store.
        key: Sent as it is in ``Authorization``.
    """

    def __init__(self, url: str, key: SecretStr) -> None:
        self._url = url.rstrip("/")
        self._key = key

    async def put(self, job_id: str, path: Path, sha256: str) -> str:
        """Store a file.

        Returns:
            Where the client finds it: ``files/{job id}/{sha256}``, below the endpoint's URL.

        Raises:
            OutputError: The store would not take it, tried three times.
        """
        name = f"{quote(job_id, safe='')}/{sha256}"
        # Between two chunks, not for the whole file: that may be gigabytes.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=120.0)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                async for attempt in tenacity.AsyncRetrying(
                    retry=tenacity.retry_if_exception_type(_TryAgain),
                    stop=tenacity.stop_after_attempt(_ATTEMPTS),
                    wait=tenacity.wait_exponential(multiplier=0.2, max=2.0),
                    reraise=True,
                ):
                    with attempt:
                        await self._put_once(session, name, path)
        except _TryAgain as error:
            raise _refused(str(error)) from error
        return f"files/{name}"

    async def _put_once(self, session: aiohttp.ClientSession, name: str, path: Path) -> None:
        headers = {"Authorization": self._key.get_secret_value()}
        try:
            with path.open("rb") as content:
                async with session.put(
                    f"{self._url}/{name}", data=content, headers=headers, allow_redirects=False
                ) as response:
                    status = response.status
        except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as error:
            raise _TryAgain(str(error) or type(error).__name__) from error
        if status in (408, 429) or status >= 500:
            raise _TryAgain(f"HTTP {status}")
        if not 200 <= status < 300:
            raise _refused(f"HTTP {status}")


def _refused(why: str) -> OutputError:
    return OutputError(
        f"An output is too large for the result, and the store did not take it: {why}.",
        advice="Look at the gateway's log (its disk may be full), or make smaller outputs.",
    )
