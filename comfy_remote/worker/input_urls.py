"""Input files by address: https, public, each redirect looked at before it is followed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import tenacity
from yarl import URL

from ..errors import TargetError, WorkflowInvalid
from ..media.files import CHUNK_SIZE, storage_errors
from ..net.guard import PrivateAddress, PublicResolver, checked, proxy_for
from ..targets.base import InputFile
from ..wire.request import InputFileSent

__all__ = ["delete_urls", "fetch_input"]

_ATTEMPTS = 4
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15.0, sock_read=60.0)


class _TryAgain(Exception):
    """It did not work this time, and may the next."""


async def fetch_input(
    sent: InputFileSent, path: Path, *, hosts: Collection[str], limit: int
) -> InputFile:
    """Stream a file to ``path``.

    Args:
        sent: With its ``url``.
        hosts: ``HOST`` or ``HOST:PORT`` that may also be private, or plain http: those that
            whoever runs the worker has named, and its own bucket's.
        limit: Bytes it may have.

    Raises:
        WorkflowInvalid: The address may not be fetched or does not answer, or what came is too
            large, empty, or not what the SHA-256 says.
        LocalStorageError: The disk is full.
    """
    try:
        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_TryAgain),
            stop=tenacity.stop_after_attempt(_ATTEMPTS),
            wait=tenacity.wait_exponential(multiplier=0.25, max=4.0),
            reraise=True,
        ):
            with attempt:
                size, sha256 = await _fetch_once(sent, path, hosts, limit)
    except _TryAgain as error:
        raise _refused(sent, f"{error}, tried {_ATTEMPTS} times") from error
    if sent.sha256 is not None and sent.sha256 != sha256:
        raise _refused(sent, f"its SHA-256 is {sha256}, and {sent.sha256} was announced")
    if not size:
        raise _refused(sent, "it is empty")
    return InputFile(name=sent.name, path=path, size=size, sha256=sha256)


async def delete_urls(urls: Collection[str], *, hosts: Collection[str]) -> list[str]:
    """DELETE what a client had put into storage for this job.

    Returns:
        Why it did not work, where it did not.
    """
    problems = []
    for url in urls:
        try:
            address = _permitted(URL(url), "a delete_url", hosts)
            async with (
                _session(address, hosts) as session,
                session.delete(address, allow_redirects=False) as response,
            ):
                if response.status >= 300 and response.status != 404:
                    problems.append(f"{address.host} answered HTTP {response.status} to DELETE")
        except (WorkflowInvalid, aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            problems.append(str(error))
    return problems


async def _fetch_once(
    sent: InputFileSent, path: Path, hosts: Collection[str], limit: int
) -> tuple[int, str]:
    url = URL(sent.url or "")
    try:
        for _ in range(_MOST_REDIRECTS + 1):
            url = _permitted(url, f"The address of {sent.name}", hosts)
            async with (
                _session(url, hosts) as session,
                session.get(url, allow_redirects=False, proxy=proxy_for(url)) as response,
            ):
                target = response.headers.get("Location")
                if response.status in _REDIRECTS and target:
                    url = url.join(URL(target))
                    continue
                if response.status == 429 or response.status >= 500:
                    raise _TryAgain(f"{url.host} answered HTTP {response.status}")
                if response.status != 200:
                    raise _refused(sent, f"{url.host} answered HTTP {response.status}")
                return await _save(sent, response, path, limit)
    except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
        if isinstance(getattr(error, "os_error", None), PrivateAddress):
            raise _refused(sent, f"{url.host} leads into a private network") from error
        raise _TryAgain(f"{url.host} could not be reached: {type(error).__name__}") from error
    raise _refused(sent, "it redirects too often")


async def _save(
    sent: InputFileSent, response: aiohttp.ClientResponse, path: Path, limit: int
) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with storage_errors(path), path.open("wb") as file:
        async for chunk in response.content.iter_chunked(CHUNK_SIZE):
            size += len(chunk)
            if size > limit:
                raise _refused(sent, f"it is larger than the {limit} bytes this worker takes")
            digest.update(chunk)
            await asyncio.to_thread(file.write, chunk)
    return size, digest.hexdigest()


@asynccontextmanager
async def _session(url: URL, hosts: Collection[str]) -> AsyncIterator[aiohttp.ClientSession]:
    # A proxy resolves by itself; a host that was named may be private.
    free = proxy_for(url) is not None or _is_named(url, hosts)
    connector = aiohttp.TCPConnector(resolver=None if free else PublicResolver())
    async with aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector) as session:
        yield session


def _permitted(url: URL, what: str, hosts: Collection[str]) -> URL:
    if url.scheme in ("http", "https") and _is_named(url, hosts):
        return url
    try:
        return checked(
            str(url),
            target_is_here=False,
            what=what,
            advice="Inputs come from public https addresses. Whoever runs the worker may name "
            "others in COMFY_REMOTE_INPUT_HOSTS.",
        )
    except TargetError as error:
        raise WorkflowInvalid(error.message, advice=error.advice) from None


def _is_named(url: URL, hosts: Collection[str]) -> bool:
    return url.host in hosts or f"{url.host}:{url.port}" in hosts


def _refused(sent: InputFileSent, why: str) -> WorkflowInvalid:
    return WorkflowInvalid(
        f"The file {sent.name} could not be fetched: {why}.",
        advice="Check its url, or send the file itself as data.",
        details={"name": sent.name},
    )
