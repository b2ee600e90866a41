"""GET requests to where models are published, through `net.fetch`.

A token is sent to its own origin only: what a site redirects to (its storage) never sees it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from pydantic import JsonValue
from yarl import URL

from ...errors import ModelUnavailable, TargetError
from ...json_text import parse_json
from ...net.fetch import NETWORK_ERRORS, GuardedHttp, arriving
from ...net.fetch import Answer as HttpAnswer
from ...net.guard import Guard
from ...net.retry import TryAgain, retry_after
from ...version import __version__
from .link import Location, unavailable
from .settings import ModelSettings

__all__ = ["Answer", "ModelHttp"]

_MOST_REDIRECTS = 10
_JSON_LIMIT = 8 * 1024 * 1024
_CHUNK = 64 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SIZE = re.compile("[0-9]{1,18}")
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18}|\*)")
_WEB_PAGES = ("text/html", "application/xhtml+xml")
_PRIVATE = (
    "Models come from public https addresses. Whoever runs the worker may name a server in a "
    "private network, or on this machine, in COMFY_REMOTE_MODEL_HOSTS."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer that a file's bytes come with.

    Attributes:
        start: Offset of the first byte that comes.
        size: Of the whole file; ``None`` when the server does not say.
        etag: A strong entity tag, or ``None``.
        sha256: As the publisher says it, or ``None``.
        filename: From ``Content-Disposition``. Not trusted.
        all_there: Whether the offset that was asked for is the file's end.
        partial: Whether the server sent a part because one was asked for.
        url: Where it came from in the end; may hold a signature.
    """

    start: int
    size: int | None
    etag: str | None
    sha256: str | None
    filename: str | None
    all_there: bool = False
    partial: bool = False
    url: URL | None = field(default=None, repr=False, compare=False)
    response: aiohttp.ClientResponse | None = field(default=None, repr=False, compare=False)

    async def chunks(self, size: int) -> AsyncIterator[bytes]:
        """The bytes from ``start`` on.

        Raises:
            TryAgain: The connection broke.
        """
        if self.response is None:
            return
        try:
            async for chunk in arriving(self.response.content.iter_chunked(size)):
                yield chunk
        except NETWORK_ERRORS as error:
            raise TryAgain(_why(error)) from error


class ModelHttp:
    """The HTTP client for models; used as an asynchronous context manager.

    Args:
        settings: Which hosts may be private, and which tokens there are.
        timeout: Seconds without a byte before a connection counts as broken.
    """

    def __init__(self, settings: ModelSettings, *, timeout: float = 60.0) -> None:
        self._http = GuardedHttp(
            Guard(settings.hosts, named_http=False, advice=_PRIVATE),
            patience=timeout,
            headers={"User-Agent": f"comfy-remote/{__version__}", "Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> ModelHttp:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.__aexit__(*exc_info)

    async def probe(self, location: Location) -> Answer:
        """What there is to know of a file without its content: one byte is asked for.

        Not a HEAD request, which signed addresses and Civitai refuse.

        Raises:
            ModelUnavailable: It is not there, or may not be had.
            TryAgain: The server could not be asked.
        """
        async with self.get(location, "bytes=0-0") as answer:
            return answer

    @asynccontextmanager
    async def get(
        self, location: Location, bytes_wanted: str | None = None, etag: str | None = None
    ) -> AsyncIterator[Answer]:
        """GET a file, or a part of it.

        Args:
            bytes_wanted: A ``Range`` header's value.
            etag: Of the file that the part must belong to; of another file, the whole comes.

        Raises:
            ModelUnavailable: It is not there, may not be had, or is a web page.
            TryAgain: The server could not be asked, or is busy.
        """
        extra = {"Range": bytes_wanted} if bytes_wanted else {}
        if bytes_wanted and etag:
            extra["If-Range"] = etag
        async with self._follow(location, extra) as answer:
            yield _answer(location, answer)

    async def json(self, location: Location) -> JsonValue:
        """The JSON that an API answers.

        Raises:
            ModelUnavailable: It refuses, cannot be reached, or answers something else.
        """
        try:
            async with self._follow(location, {}) as answer:
                _refuse_other(location, answer.response)
                body = bytearray()
                async for chunk in arriving(answer.response.content.iter_chunked(_CHUNK)):
                    body += chunk[: _JSON_LIMIT - len(body)]  # what is longer is no JSON then
            return parse_json(bytes(body))
        except (ValueError, TryAgain, aiohttp.ClientError, asyncio.TimeoutError) as error:
            why = str(error) if isinstance(error, TryAgain) else "its answer is unusable"
            raise unavailable(
                f"{location.url.host} could not be asked about {location.shown}: {why}.",
                "Try again later.",
            ) from error

    @asynccontextmanager
    async def _follow(
        self, location: Location, headers: dict[str, str]
    ) -> AsyncIterator[HttpAnswer]:
        login = {name: value.get_secret_value() for name, value in location.headers.items()}
        try:
            async with self._http.request(
                "GET",
                location.url,
                what=f"An address of {location.shown}",
                headers=headers,
                login=login,
                redirects=_MOST_REDIRECTS,
                # Anybody on the way could change it: only what its SHA-256 proves.
                plain_http=location.sha256 is not None,
            ) as answer:
                home = location.url.origin()
                own = (url.path.rstrip("/") for url in answer.way if url.origin() == home)
                if any(path.endswith("/login") for path in own):
                    raise _denied(location, "a login page")
                yield answer
        except TargetError as error:
            raise unavailable(error.message, error.advice) from None
        except NETWORK_ERRORS as error:
            raise TryAgain(f"{location.url.host} could not be reached: {_why(error)}") from error


def _answer(location: Location, answer: HttpAnswer) -> Answer:
    response, first = answer.response, answer.first
    linked = first.get("X-Linked-Etag") or first.get("ETag") or ""
    linked = linked.removeprefix("W/").strip('"')
    etag = response.headers.get("ETag")
    disposition = response.content_disposition
    total, start = _size_of(response, first)
    # Asked for what comes after the last byte; or for the first byte of an empty file.
    all_there = response.status == 416
    if not all_there:
        _refuse_other(location, response)
    known = location.etag_is_sha256 and _SHA256.fullmatch(linked) is not None
    return Answer(
        start=(total or 0) if all_there else start,
        size=total,
        etag=etag if etag and not etag.startswith("W/") else None,
        sha256=linked if known else location.sha256,
        filename=disposition.filename if disposition else None,
        all_there=all_there,
        partial=response.status == 206,
        url=answer.way[-1],
        response=None if all_there else response,
    )


def _size_of(response: aiohttp.ClientResponse, first: Mapping[str, str]) -> tuple[int | None, int]:
    """Size of the whole file, and the offset of the first byte that comes."""
    start, size = 0, None
    if response.status in (206, 416):
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None and response.status == 206:
            raise TryAgain(f"{response.url.host} sent a part without saying which")
        if match is not None:
            start = int(match[1] or 0)
            size = int(match[2]) if match[2] != "*" else None
    elif response.status == 200 and "Content-Encoding" not in response.headers:
        size = response.content_length
    linked = first.get("X-Linked-Size", "")
    if size is None and _SIZE.fullmatch(linked):
        size = int(linked)
    return size, start


def _refuse_other(location: Location, response: aiohttp.ClientResponse) -> None:
    """Raise unless the answer is one that holds what was asked for."""
    status, host = response.status, response.url.host
    if status in (200, 206):
        if response.content_type in _WEB_PAGES:
            raise _denied(location, "a web page")
        return
    if status in (408, 425, 429) or status >= 500:
        raise TryAgain(
            f"{host} answered HTTP {status}", retry_after(response.headers.get("Retry-After"))
        )
    if status in (401, 403):
        raise _denied(location, f"HTTP {status}", status)
    if status in (404, 410):
        raise unavailable(
            f"There is no {location.shown}: {host} answered HTTP {status}.",
            location.missing,
            http_status=status,
        )
    raise unavailable(
        f"{location.shown} cannot be fetched: {host} answered HTTP {status}.",
        location.missing,
        http_status=status,
    )


def _denied(location: Location, with_what: str, status: int | None = None) -> ModelUnavailable:
    return unavailable(
        f"{location.shown} was refused to this worker: {location.url.host} answered with "
        f"{with_what} instead of a model.",
        location.denied,
        http_status=status,
    )


def _why(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no byte came in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.strerror or str(error.os_error)
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection was cut"
    # Not its text: that of some has the whole address, with its signature.
    return type(error).__name__
