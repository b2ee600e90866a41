"""The HTTP client for one server: errors mapped, safe requests retried, the key sent only there."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from ..aio import Timeout, postpone, timeout
from ..data_class import dataclass
from ..errors import (
    ComfyRemoteError,
    ConfigurationError,
    RateLimited,
    SubmissionUnknown,
    TargetError,
    TargetUnreachable,
)
from ..types import JsonValue
from .address import base_address
from .answers import Response, error_of, unreachable
from .fetch import NETWORK_ERRORS, REDIRECTS, GuardedHttp, joined
from .guard import Guard, proxy_for
from .request_log import logged_requests
from .retry import Backoff, retried
from .throughput import TOO_SLOW, Throughput, TooSlow

if TYPE_CHECKING:
    import ssl

    from pydantic import SecretStr

__all__ = ["TOO_LARGE", "HttpClient", "HttpLimits", "version_in"]

TOO_LARGE = "answer_too_large"
"""In the details of the error for an answer above its limit."""


_CHUNK_SIZE = 2**20
_MOST_REQUESTS, _MOST_SOCKETS = 16, 32
_SHORTEST_SECRET = 8
_PRIVATE_STORAGE = (
    "Outputs come from the target's own address, or from public https addresses. If this storage "
    "is yours, name it in COMFY_REMOTE_OUTPUT_HOSTS (HOST or HOST:PORT)."
)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How long a client waits, and how much it takes.

    Attributes:
        patience: Seconds without a byte before a request is given up.
        answer: Bytes that an answer may have, unless it is streamed.
        throughput: How fast an answer's body has to arrive.
        slowest_upload: Bytes a second that what is sent has to go at; what is streamed, at each
            chunk.
        backoff: Of the requests that are tried again.
    """

    patience: float = 60.0
    answer: int = 256 * 1024 * 1024
    throughput: Throughput = Throughput()
    slowest_upload: int = 16 * 1024
    backoff: Backoff = Backoff()


class HttpClient:
    """Requests to one base URL.

    The key travels in the ``Authorization`` header of requests to that base URL only:
    redirects are not followed, `stream_elsewhere` sends no header of ours, and a server that
    repeats the key in its answer does not get it into an error or a result.

    Args:
        base_url: For example ``http://127.0.0.1:8188``; paths are appended.
        name: What to call the target in errors.
        headers: Sent with every request (never shown in errors).
        elsewhere: ``HOST`` or ``HOST:PORT`` in a private network that the target's answers may
            name as well, because the user has; see `net.guard`.
        tls: Which certificates are trusted; those that the system trusts when ``None``.

    Raises:
        ConfigurationError: The URL cannot be used (see `base_address`), or a header cannot be
            sent.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str,
        headers: Mapping[str, SecretStr] | None = None,
        elsewhere: Collection[str] = (),
        limits: HttpLimits = HttpLimits(),  # noqa: B008 - frozen
        tls: ssl.SSLContext | None = None,
    ) -> None:
        address = base_address(base_url)
        self._tls = tls
        self.base_url = base_url.rstrip("/")
        self._name = name
        self._where = f"{name} at {self.base_url}"
        self._headers = dict(headers or {})
        for value in self._headers.values():
            _check_header(value)
        self._limits = limits
        self._guard = Guard(frozenset(elsewhere), origin=address, advice=_PRIVATE_STORAGE)
        self._session: aiohttp.ClientSession | None = None
        self._for_sockets: aiohttp.ClientSession | None = None
        self._sockets = 0

    async def __aenter__(self) -> HttpClient:
        self._session = self._new_session(_MOST_REQUESTS)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for session in (self._session, self._for_sockets):
            if session is not None:
                await session.close()
        self._session = self._for_sockets = None

    def _new_session(self, connections: int) -> aiohttp.ClientSession:
        # Requests say `allow_redirects=False`; a WebSocket's cannot.
        redirects = aiohttp.TraceConfig()
        redirects.on_request_redirect.append(_refuse_redirect)
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=10.0, sock_read=self._limits.patience
            ),
            proxy=proxy_for(URL(self.base_url)),
            connector=aiohttp.TCPConnector(limit=connections, ssl=self._tls or True),
            trace_configs=[redirects, logged_requests()],
        )

    @asynccontextmanager
    async def socket(
        self, path: str, *, largest: int
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse[bool]]:
        """A WebSocket. Its connection is none of those that requests share: each is held for as
        long as a job takes, and requests would wait for the jobs that they are about.

        Args:
            largest: Bytes of a message.

        Raises:
            aiohttp.ClientError, asyncio.TimeoutError, OSError: It cannot be opened, or there are
                32 already.
        """
        if self._for_sockets is None:
            self._for_sockets = self._new_session(0)
        if self._sockets >= _MOST_SOCKETS:
            raise aiohttp.ClientError(f"{_MOST_SOCKETS} are open")
        self._sockets += 1
        try:
            async with self._for_sockets.ws_connect(
                self.url(path),
                headers=self.authorization(),
                heartbeat=20.0,
                max_msg_size=largest,
                compress=0,
            ) as socket:
                yield socket
        finally:
            self._sockets -= 1

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open session; only inside ``async with``."""
        if self._session is None:
            raise RuntimeError("the target is used outside of `async with`")
        return self._session

    def authorization(self) -> dict[str, str]:
        """The secret headers, in the clear, for one request."""
        return {name: value.get_secret_value() for name, value in self._headers.items()}

    def url(self, path: str) -> URL:
        """The absolute URL of ``path``, whose escapes stay as they are."""
        return URL(f"{self.base_url}/{path.lstrip('/')}", encoded=True)

    async def get(self, path: str, limit: int | None = None) -> Response:
        """GET, tried up to five times with exponential back-off.

        Args:
            limit: Bytes that the answer may have; the client's by default.

        Raises:
            ComfyRemoteError: As `error_of` maps statuses, or `TargetUnreachable`.
        """
        return await self._retried(lambda: self._once("GET", path, limit=limit))

    async def get_json(self, path: str) -> JsonValue:
        """`get`, and the body as JSON."""
        return (await self.get(path)).json()

    async def get_once(
        self, path: str, accept: tuple[int, ...] = (), limit: int | None = None
    ) -> Response:
        """GET without retries, for callers that poll anyway."""
        return await self._once("GET", path, accept=accept, limit=limit)

    async def delete(self, path: str) -> Response:
        """DELETE, which may safely arrive twice; retried like `get`."""
        return await self._retried(lambda: self._once("DELETE", path))

    async def head_once(self, path: str, headers: Mapping[str, str] | None = None) -> Response:
        """HEAD without retries; whatever the status is, it is returned."""
        return await self._once("HEAD", path, headers=headers, accept=tuple(range(300, 600)))

    async def put(
        self,
        path: str,
        size: int,
        content: Callable[[], AsyncIterator[bytes]],
    ) -> Response:
        """PUT a content that is streamed, and may safely arrive twice; retried like `get`.

        Args:
            size: Bytes of it.
            content: Begins it again for each try.
        """
        return await self._retried(lambda: self.put_once(path, size, content()))

    async def put_once(
        self,
        path: str,
        size: int,
        content: AsyncIterator[bytes | memoryview],
        headers: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (),
    ) -> Response:
        """`put` without retries, for callers that have their own; see `submit` for ``accept``."""
        about = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        sent = {**about, **(headers or {})}
        return await self._once("PUT", path, content, size=size, headers=sent, accept=accept)

    async def post_idempotent(self, path: str, body: JsonValue = None) -> Response:
        """POST that may safely arrive twice (cancel, interrupt); retried like `get`."""
        data = None if body is None else json.dumps(body).encode()
        return await self._retried(lambda: self._once("POST", path, data))

    async def patch(self, path: str, body: JsonValue, accept: tuple[int, ...] = ()) -> Response:
        """PATCH that may safely arrive twice; retried like `get`. See `submit` for ``accept``."""
        data = json.dumps(body).encode()
        return await self._retried(lambda: self._once("PATCH", path, data, accept=accept))

    async def post_once(
        self,
        path: str,
        body: bytes = b"{}",
        headers: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (),
        limit: int | None = None,
    ) -> Response:
        """POST without retries; see `submit` for ``accept`` and `get` for ``limit``."""
        return await self._once("POST", path, body, headers=headers, accept=accept, limit=limit)

    async def post_form(
        self,
        path: str,
        form: Callable[[], AbstractContextManager[aiohttp.FormData]],
        size: int,
        accept: tuple[int, ...] = (),
    ) -> Response:
        """POST a multipart form that may safely arrive twice; retried like `get`.

        Args:
            form: Makes the form for each try: its files are streamed, so each try reads them again.
            size: Bytes of its files.
            accept: See `submit`.
        """

        async def attempt() -> Response:
            with form() as made:
                return await self._once("POST", path, made, size=size, accept=accept)

        return await self._retried(attempt)

    async def submit(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (),
    ) -> Response:
        """POST something that must not happen twice.

        Tried again only where it surely did not happen: the connection was never made, or the
        answer was 429.

        Args:
            accept: Statuses to return rather than raise, for callers that read the refusal.

        Raises:
            SubmissionUnknown: The connection broke after the request was on its way, or the
                answer was 5xx.
        """

        async def attempt() -> Response:
            try:
                return await self._once("POST", path, body, headers=headers, accept=accept)
            except TargetUnreachable as error:
                if error.details.get("never_sent"):
                    raise
                raise SubmissionUnknown(
                    f"{error.message} It is not known whether the job was accepted.",
                    details=error.details,
                ) from error

        return await self._retried(attempt)

    async def stream(
        self,
        path: str,
        offset: int = 0,
        on_headers: Callable[[Mapping[str, str]], None] | None = None,
        redirects: int = 0,
    ) -> AsyncGenerator[bytes, None]:
        """GET ``path`` of this target, from byte ``offset`` on, in chunks of at most 1 MiB.

        Args:
            on_headers: Called with the answer's headers, before the first chunk.
            redirects: How many are followed: below the base URL as ``path`` is, elsewhere as by
                `stream_elsewhere`, without the key.
        """
        async with self._open(path, offset, redirect=redirects > 0) as response:
            if response.status not in REDIRECTS:
                if on_headers is not None:
                    on_headers(response.headers)
                async for chunk in self._body(response, offset, self._where):
                    yield chunk
                return
            location = response.headers.get("Location", "")
            address = str(joined(response.url, location, "An output's address", self._guard))
        below = address.removeprefix(f"{self.base_url}/")
        further = (
            self.stream_elsewhere(address, offset, on_headers)
            if below == address
            else self.stream(below, offset, on_headers, redirects - 1)
        )
        async with aclosing(further) as chunks:
            async for chunk in chunks:
                yield chunk

    async def listen(self, path: str, media_type: str) -> AsyncGenerator[bytes, None]:
        """GET an answer that goes on as long as the server has something to say.

        However little that is; nothing at all for `HttpLimits.patience` seconds ends it.

        Args:
            media_type: Of the answer.

        Raises:
            TargetError: It has another one, or is a refusal.
            TargetUnreachable: Nobody answered, or the connection broke.
        """
        async with self._open(path, headers={"Accept": media_type}) as response:
            if response.content_type != media_type:
                raise TargetError(
                    f"{self._where} answered with {response.content_type}, not {media_type}."
                )
            async for chunk in response.content.iter_any():
                yield chunk

    async def stream_elsewhere(
        self,
        url: str,
        offset: int = 0,
        on_headers: Callable[[Mapping[str, str]], None] | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """GET an absolute URL (of storage) that an answer named, without our key.

        Args:
            on_headers: See `stream`.

        Raises:
            TargetError: It may not be asked (see `net.guard`), or does not have it.
        """
        headers = _range(offset)
        async with self._elsewhere("GET", url, headers) as response:
            if response.status not in (200, 206) and not _all_there(response, offset):
                raise await self._refused(response, _storage(response.url))
            if on_headers is not None:
                on_headers(response.headers)
            async for chunk in self._body(response, offset, _storage(response.url)):
                yield chunk

    async def delete_elsewhere(self, url: str) -> None:
        """DELETE an absolute URL (a signed one) that an answer named, without our key.

        Raises:
            TargetError: It may not be asked (see `net.guard`), refused, or could not be reached.
        """
        async with self._elsewhere("DELETE", url, {}) as response:
            # 404: it is gone already.
            if response.status >= 300 and response.status != 404:
                raise TargetError(
                    f"{_storage(response.url)} refused to delete (HTTP {response.status})."
                )

    async def _body(
        self, response: aiohttp.ClientResponse, offset: int, where: str
    ) -> AsyncGenerator[bytes, None]:
        watched = self._limits.throughput.watched(_from_offset(response, offset))
        try:
            async with aclosing(watched) as chunks:
                async for chunk in chunks:
                    yield chunk
        except TooSlow as error:
            raise TargetUnreachable(
                f"{where} {error}.",
                advice="Check the connection, and try again.",
                details={TOO_SLOW: True},
            ) from error

    @asynccontextmanager
    async def _elsewhere(
        self, method: str, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        async with GuardedHttp(self._guard, patience=self._limits.patience) as http:
            try:
                async with http.request(
                    method, url, what="An output's address", headers=headers
                ) as answer:
                    yield answer.response
            except NETWORK_ERRORS as error:
                raise unreachable(error, _storage(URL(url))) from error

    async def exists(self, path: str) -> bool:
        """Whether GET ``path`` would give something; only the beginning is read.

        Raises:
            TargetUnreachable: Nobody answered.
            RateLimited: It may be there: the server did not say.
        """
        try:
            async with self._open(path):
                return True
        except (TargetUnreachable, RateLimited):
            raise
        except TargetError:
            return False

    @asynccontextmanager
    async def _open(
        self,
        path: str,
        offset: int = 0,
        *,
        headers: Mapping[str, str] | None = None,
        redirect: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The beginning of an answer that is no refusal.

        Args:
            redirect: Whether it may be a redirect.
        """
        sent = {**self.authorization(), **_range(offset), **(headers or {})}
        try:
            request = self.session.get(self.url(path), headers=sent, allow_redirects=False)
            async with await self._begun(request) as response:
                good = response.status in (200, 206) or _all_there(response, offset)
                if not good and not (redirect and response.status in REDIRECTS):
                    raise await self._refused(response, self._where)
                yield response
        except NETWORK_ERRORS as error:
            raise unreachable(error, self._where) from error

    async def _refused(self, response: aiohttp.ClientResponse, where: str) -> ComfyRemoteError:
        body = self._masked(await self._read(response))
        keyed = bool(self._headers) or where != self._where  # of storage, nothing is known
        return error_of(Response(response.status, response.headers, body), where, keyed=keyed)

    async def _retried(self, attempt: Callable[[], Awaitable[Response]]) -> Response:
        return await retried(attempt, self._limits.backoff, TargetUnreachable, RateLimited)

    async def _once(
        self,
        method: str,
        path: str,
        data: bytes | aiohttp.FormData | AsyncIterator[bytes | memoryview] | None = None,
        *,
        size: int = 0,
        headers: Mapping[str, str] | None = None,
        accept: tuple[int, ...] = (),
        limit: int | None = None,
    ) -> Response:
        """One request and its answer.

        Args:
            data: Bytes are JSON.
            size: Bytes of a form or of what is streamed.
        """
        sent = {**self.authorization(), **(headers or {})}
        if isinstance(data, bytes):
            sent["Content-Type"] = "application/json"
            size = len(data)
        in_time = timeout(self._seconds_for(0 if isinstance(data, AsyncIterator) else size))
        if isinstance(data, AsyncIterator):
            data = self._paced(data, in_time)
        try:
            request = self.session.request(
                method, self.url(path), data=data, headers=sent, allow_redirects=False
            )
            async with await self._begun(request, in_time) as answer:
                body = self._masked(await self._read(answer, limit))
                response = Response(answer.status, answer.headers, body)
        except NETWORK_ERRORS as error:
            raise unreachable(error, self._where) from error
        if response.status >= 300 and response.status not in accept:
            raise error_of(response, self._where, sent=size, keyed=bool(self._headers))
        return response

    async def _begun(
        self, request: Awaitable[aiohttp.ClientResponse], in_time: Timeout | None = None
    ) -> aiohttp.ClientResponse:
        """The answer, once its headers are here. A peer that reads or sends too slowly is given up.

        Args:
            in_time: The limit, if more is sent first than a request's headers.
        """
        # aiohttp's own timeout begins when all is sent, and again with each byte that comes.
        async with in_time or timeout(self._seconds_for(0)):
            return await request

    def _seconds_for(self, size: int) -> float:
        return 2 * self._limits.patience + size / self._limits.slowest_upload

    async def _paced(
        self, chunks: AsyncIterator[bytes | memoryview], in_time: Timeout
    ) -> AsyncGenerator[bytes | memoryview, None]:
        """The same chunks, for a peer that takes each of them in time."""
        async for chunk in chunks:
            # Not for all of it at once: a stalled upload of gigabytes would be noticed in days.
            postpone(in_time, self._seconds_for(len(chunk)))
            yield chunk

    async def _read(self, response: aiohttp.ClientResponse, limit: int | None = None) -> bytes:
        """The whole body of an answer."""
        limit = limit or self._limits.answer
        announced = 0 if response.method == "HEAD" else response.content_length or 0
        if announced > limit:
            raise _too_large(limit, f": {announced / 2**20:.0f} MiB")
        body = bytearray()
        async with aclosing(self._body(response, 0, self._where)) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
        return bytes(body)

    def _masked(self, body: bytes) -> bytes:
        for value in self._headers.values():
            # A bearer token without its "Bearer".
            secret = value.get_secret_value().rpartition(" ")[2].encode()
            # A short one may well be an ordinary word of an answer.
            if len(secret) >= _SHORTEST_SECRET:
                body = body.replace(secret, b"***")
        return body


def version_in(headers: Mapping[str, str]) -> str | None:
    """The version of an answer's content, by its headers. Bytes of one version fit together.

    A strong ``ETag``, else ``Last-Modified`` (RFC 9110, 8.8); ``None`` where there is neither.
    """
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def _too_large(limit: int, size: str = "") -> TargetError:
    return TargetError(
        f"The target's answer is larger than {limit // 2**20} MiB{size}.",
        advice="Check the address: what it sends is not what was asked for.",
        details={TOO_LARGE: True},
    )


async def _refuse_redirect(*_: object) -> None:
    raise aiohttp.ClientError("it redirects elsewhere")


def _check_header(value: SecretStr) -> None:
    if any(ord(c) < 32 or ord(c) == 127 for c in value.get_secret_value()):
        raise ConfigurationError(
            "The key has a line break or another control character in it.",
            advice="Set its environment variable again, to the key alone.",
        )


def _range(offset: int) -> dict[str, str]:
    """Headers that ask for a content as it is stored, from a byte on."""
    wanted = {"Range": f"bytes={offset}-"} if offset else {}
    return {**wanted, "Accept-Encoding": "identity"}


def _storage(url: URL) -> str:
    return f"The storage at {url.host}"


async def _from_offset(
    response: aiohttp.ClientResponse, offset: int
) -> AsyncGenerator[bytes, None]:
    """The content from ``offset`` on, also where the server ignored the Range header."""
    if _all_there(response, offset):
        return
    skip = offset if response.status == 200 else 0
    async for chunk in response.content.iter_chunked(_CHUNK_SIZE):
        rest = chunk[skip:]
        skip = max(0, skip - len(chunk))
        if rest:
            yield rest


def _all_there(response: aiohttp.ClientResponse, offset: int) -> bool:
    """Whether ``offset`` is the end: the connection broke after the last byte."""
    end = f"bytes */{offset}"
    return offset > 0 and response.status == 416 and response.headers.get("Content-Range") == end
