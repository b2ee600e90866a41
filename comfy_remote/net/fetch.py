"""The one HTTP client for addresses that somebody else names; see `guard`.

Input files, models, outputs in storage and webhooks go through it. Redirects are followed here,
each checked like the first address, and a login is sent to its own origin only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager

import aiohttp
from yarl import URL

from ..aio import timeout
from ..data_class import dataclass
from ..errors import TargetError
from .guard import Guard, GuardedResolver, PrivateAddress, proxy_for
from .request_log import logged_requests
from .throughput import Throughput

__all__ = [
    "NETWORK_ERRORS",
    "REDIRECTS",
    "Answer",
    "GuardedHttp",
    "TooLarge",
    "arriving",
    "joined",
]

NETWORK_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)
"""What a request may raise besides `TargetError`: it did not work now, and may later."""

REDIRECTS = (301, 302, 303, 307, 308)
_THROUGHPUT = Throughput(size=60 * 16 * 1024, seconds=60.0)


class TooLarge(Exception):
    """More bytes arrived than are allowed."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer after all redirects; its content has not been read yet.

    Attributes:
        response: Not a redirect.
        first: Headers of the first answer: a site says of its file what its storage does not.
        way: All addresses that were asked, in order.
    """

    response: aiohttp.ClientResponse
    first: Mapping[str, str]
    way: tuple[URL, ...]


class GuardedHttp:
    """Requests to addresses that somebody else names; used as an asynchronous context manager.

    Args:
        patience: Seconds for an answer to begin, and without a byte of it.
    """

    def __init__(
        self, guard: Guard, *, patience: float = 60.0, headers: Mapping[str, str] | None = None
    ) -> None:
        self._guard = guard
        self._patience = patience
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=15.0, sock_read=patience)
        self._headers = dict(headers or {})
        self._resolver = GuardedResolver(guard)
        self._direct: aiohttp.ClientSession | None = None
        self._proxied: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> GuardedHttp:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for session in (self._direct, self._proxied):
            if session is not None:
                await session.close()
        self._direct = self._proxied = None

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str | URL,
        *,
        what: str,
        headers: Mapping[str, str] | None = None,
        login: Mapping[str, str] | None = None,
        data: bytes | None = None,
        redirects: int = 0,
        plain_http: bool = False,
    ) -> AsyncIterator[Answer]:
        """One request, whatever status it is answered with.

        Args:
            what: What to call the address in errors.
            headers: Sent to every address on the way.
            login: Sent to the first address's origin only.
            redirects: How many are followed; 0 to have a redirect as the answer.
            plain_http: See `Guard.check`.

        Raises:
            TargetError: An address may not be asked, or it redirects too often.
            aiohttp.ClientError, asyncio.TimeoutError, ConnectionError: It could not be reached.
        """
        address = self._guard.check(url, what, plain_http=plain_http)
        home, first, way = address.origin(), None, [address]
        while True:
            secret = login or {} if address.origin() == home else {}
            response = await self._ask(method, address, {**(headers or {}), **secret}, data, what)
            async with response:
                first = first or response.headers
                target = response.headers.get("Location")
                if not redirects or response.status not in REDIRECTS or not target:
                    yield Answer(response, first, tuple(way))
                    return
            if len(way) > redirects:
                raise TargetError(
                    f"{what} is redirected more than {redirects} times.", advice=self._guard.advice
                )
            address = self._guard.check(
                joined(address, target, what, self._guard), what, plain_http=plain_http
            )
            way.append(address)

    async def _ask(
        self, method: str, url: URL, headers: Mapping[str, str], data: bytes | None, what: str
    ) -> aiohttp.ClientResponse:
        proxy = proxy_for(url)
        try:
            if proxy is not None:
                await asyncio.to_thread(self._guard.refuse_private, url)
            session = self._session_for(proxy)
            async with timeout(self._patience):
                return await session.request(
                    method, url, headers=headers, data=data, proxy=proxy, allow_redirects=False
                )
        except (aiohttp.ClientError, PrivateAddress) as error:
            if isinstance(getattr(error, "os_error", error), PrivateAddress):
                raise self._guard.private(url.host or "", what) from error
            raise

    def _session_for(self, proxy: str | None) -> aiohttp.ClientSession:
        if proxy is not None:
            # The proxy itself is usually in a private network.
            if self._proxied is None:
                self._proxied = self._new_session(None)
            return self._proxied
        if self._direct is None:
            self._direct = self._new_session(self._resolver)
        return self._direct

    def _new_session(self, resolver: GuardedResolver | None) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            timeout=self._timeout,
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=16, resolver=resolver),
            # No address gets the cookies of another.
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[logged_requests()],
        )


async def arriving(
    chunks: AsyncIterable[bytes],
    *,
    largest: int | None = None,
    throughput: Throughput = _THROUGHPUT,
) -> AsyncGenerator[bytes, None]:
    """The same chunks; `TooLarge` if they are too many bytes, `TooSlow` if they arrive too slowly.

    Args:
        largest: Bytes that may come; ``None`` for any number.
        throughput: How fast they have to arrive; by default 16 KiB a second, minute by minute.
    """
    size = 0
    async with aclosing(throughput.watched(chunks)) as watched:
        async for chunk in watched:
            size += len(chunk)
            if largest is not None and size > largest:
                raise TooLarge
            yield chunk


def joined(url: URL, target: str, what: str, guard: Guard) -> URL:
    """Where the redirect of an address leads; it has not been checked yet.

    Args:
        target: The ``Location``.
        what: What to call the address in errors.

    Raises:
        TargetError: That is no web address.
    """
    try:
        # A signature is of the address as it was written.
        joined = url.join(URL(target, encoded=target.isascii() and " " not in target))
        if joined.scheme in ("http", "https") and joined.host and joined.port is not None:
            return joined
    except ValueError:
        pass
    raise TargetError(
        f"{what} is redirected by {url.host} to something that is not a web address.",
        advice=guard.advice,
    )
