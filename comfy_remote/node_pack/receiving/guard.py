"""Who may ask for something to be brought here: only a program that has the token."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

from aiohttp import web

from ...aio import within
from ...config.own_page import refusal_of_page
from ...errors import (
    AuthenticationError,
    ConfigurationError,
    JobTimedOut,
    RequestTooLarge,
)
from ...net.signed import SIGNATURE_HEADER, SignedRequests
from ...net.throughput import Throughput, TooSlow
from ...wire.receiving import LARGEST_PART, RECEIVING

__all__ = ["ReceivingGuard"]

_LARGEST_BODY = 4 * 1024 * 1024  # bytes: a model of 4096 parts takes 2 MB
_BODY_WITHIN = 60.0  # seconds
_PART = Throughput(size=512 * 1024, seconds=30.0)
_BROWSERS = ("Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Referer")


class ReceivingGuard:
    """Checks requests.

    Args:
        signed: ``None`` where no token is set: then only what needs none is answered.
        throughput: How fast a part of a model has to come.
    """

    def __init__(self, signed: SignedRequests | None, *, throughput: Throughput = _PART) -> None:
        self._signed = signed
        self._throughput = throughput

    @property
    def challenge(self) -> str:
        """What is to be signed; empty where nothing is taken."""
        return "" if self._signed is None else self._signed.challenge

    async def check_asker(self, request: web.Request) -> None:
        """Refuse (`AuthenticationError`) browsers, and names that are not this server's.

        No page has a reason to ask, its own neither; and the name is checked for whatever method,
        since a program has no reason to use another's.
        """
        headers = request.headers
        if any(name in headers for name in _BROWSERS):
            raise AuthenticationError("A web page cannot bring models or node packs here.")
        refused = await refusal_of_page("GET", headers)
        if refused is not None:
            raise refused

    async def body(self, request: web.Request) -> bytes:
        """The body of a signed request, which is JSON.

        Raises:
            AuthenticationError: It may not ask.
            RequestTooLarge, JobTimedOut: It is too large, or too slow.
        """
        announced = await self._checked(request, "application/json", _LARGEST_BODY)
        try:
            body = await within(_read(request), _BODY_WITHIN)
        except asyncio.TimeoutError:
            raise JobTimedOut(f"The request has not come within {_BODY_WITHIN:g} s.") from None
        found = await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())
        if found != announced:
            raise AuthenticationError("The request has another content than it was signed for.")
        return body

    async def part(self, request: web.Request, sha256: str) -> AsyncIterator[bytes]:
        """The chunks of a part of a model, as they come. Whether they have that SHA-256 is for
        whoever takes them to see.

        Raises:
            AuthenticationError: It may not be sent.
            RequestTooLarge: It is too large.
        """
        announced = await self._checked(request, "application/octet-stream", LARGEST_PART)
        if announced != sha256:
            raise AuthenticationError("The part has another content than it was signed for.")
        return self._chunks(request)

    async def _chunks(self, request: web.Request) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._throughput.watched(request.content.iter_any()):
                yield chunk
        except TooSlow as slow:
            raise JobTimedOut(f"The part {slow}.", advice="Check the connection.") from slow
        except (web.RequestPayloadError, ConnectionError, asyncio.TimeoutError) as error:
            raise JobTimedOut(
                "The connection broke before the part was here.", advice="Send it again."
            ) from error

    async def _checked(self, request: web.Request, media_type: str, limit: int) -> str:
        await self.check_asker(request)
        if self._signed is None:
            raise AuthenticationError(
                "This ComfyUI takes nothing from other machines: its owner has not allowed it."
            )
        announced = self._signed.check(
            request.headers.get(SIGNATURE_HEADER), request.method, _signed_path(request)
        )
        if request.content_type != media_type:
            raise ConfigurationError(f"The request's body is not {media_type}.")
        if "Content-Encoding" in request.headers:
            # A few kilobytes may be unpacked to gigabytes.
            raise ConfigurationError(
                "The request's body is compressed.", advice="Send it as it is."
            )
        if request.content_length is None or request.content_length > limit:
            raise RequestTooLarge(
                f"The request has more than {limit} bytes, or does not say how many.",
                details={"limit": limit},
            )
        return announced


async def _read(request: web.Request) -> bytes:
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > _LARGEST_BODY:
            raise RequestTooLarge(f"The request has more than {_LARGEST_BODY} bytes.")
    return bytes(body)


def _signed_path(request: web.Request) -> str:
    """Without ``/api``, and what a proxy has before it."""
    _, ours, rest = request.path.partition(f"/{RECEIVING}")
    return f"{RECEIVING}{rest}" if ours else request.path
