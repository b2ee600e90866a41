"""Input files by address, through `net.fetch`: from public servers, and those the owner named."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from yarl import URL

from ..errors import RequestTooLarge, TargetError, WorkflowInvalid
from ..media.files import CHUNK_SIZE
from ..media.receive import Received, receive_file
from ..net.fetch import NETWORK_ERRORS, GuardedHttp, arriving
from ..net.guard import Guard
from ..net.retry import Backoff, TryAgain, retried
from ..targets.base import InputFile
from ..wire.request import InputFileSent

__all__ = ["delete_urls", "fetch_input"]

_BACKOFF = Backoff(attempts=4)
_MOST_REDIRECTS = 5
_ADVICE = (
    "Inputs come from public https addresses. Whoever runs the worker may name others in "
    "COMFY_REMOTE_INPUT_HOSTS."
)


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
        received = await retried(lambda: _fetch_once(sent, path, hosts, limit), _BACKOFF, TryAgain)
    except TryAgain as error:
        raise _refused(sent, f"{error}, tried {_BACKOFF.attempts} times") from error
    if sent.sha256 not in (None, received.sha256):
        raise _refused(sent, f"its SHA-256 is {received.sha256}, and {sent.sha256} was announced")
    if not received.size:
        raise _refused(sent, "it is empty")
    return InputFile(name=sent.name, path=path, size=received.size, sha256=received.sha256)


async def delete_urls(urls: Collection[str], *, hosts: Collection[str]) -> list[str]:
    """DELETE what a client had put into storage for this job.

    Returns:
        Why it did not work, where it did not.
    """
    problems = []
    async with _http(hosts) as http:
        for url in urls:
            try:
                async with http.request("DELETE", url, what="a delete_url") as answer:
                    response = answer.response
                    if response.status >= 300 and response.status != 404:
                        problems.append(
                            f"{response.url.host} answered HTTP {response.status} to DELETE"
                        )
            except TargetError as error:
                problems.append(error.message)
            except NETWORK_ERRORS as error:
                # Not its text, which may have the whole address.
                problems.append(f"it could not be reached: {type(error).__name__}")
    return problems


def _http(hosts: Collection[str]) -> GuardedHttp:
    return GuardedHttp(Guard(frozenset(hosts), advice=_ADVICE))


async def _fetch_once(
    sent: InputFileSent, path: Path, hosts: Collection[str], limit: int
) -> Received:
    url = URL(sent.url or "")
    what = f"The address of {sent.name}"
    try:
        async with (
            _http(hosts) as http,
            http.request("GET", url, what=what, redirects=_MOST_REDIRECTS) as answer,
        ):
            response = answer.response
            if response.status == 429 or response.status >= 500:
                raise TryAgain(f"{response.url.host} answered HTTP {response.status}")
            if response.status != 200:
                raise _refused(sent, f"{response.url.host} answered HTTP {response.status}")
            chunks = arriving(response.content.iter_chunked(CHUNK_SIZE))
            return await receive_file(chunks, path, limit=limit)
    except NETWORK_ERRORS as error:
        raise TryAgain(f"{url.host} could not be reached: {type(error).__name__}") from error
    except RequestTooLarge:
        raise _refused(sent, f"it is larger than the {limit} bytes this worker takes") from None
    except TargetError as error:
        raise WorkflowInvalid(error.message, advice=error.advice) from None


def _refused(sent: InputFileSent, why: str) -> WorkflowInvalid:
    return WorkflowInvalid(
        f"The file {sent.name} could not be fetched: {why}.",
        advice="Check its url, or send the file itself as data.",
        details={"name": sent.name},
    )
