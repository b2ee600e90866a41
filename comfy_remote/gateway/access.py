"""Access control: tokens, browsers, and the rate of requests."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TypeAlias

from aiohttp import web
from pydantic import SecretStr
from yarl import URL

from ..errors import AuthenticationError, ComfyRemoteError, RateLimited, TargetNotFound
from ..net.address import is_loopback
from ..net.page_origin import from_another_page
from ..net.serving import give_way
from .limits import GatewayLimits

__all__ = ["Access", "RouteHandler", "other_page_refusal", "refusal", "refusals", "sent_token"]

RouteHandler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_WINDOW = 10.0
_REFUSAL_DELAY = 0.5  # the SDK asks again at once, endlessly
_HERE_ONLY = "Without a token, only requests to localhost are answered."
_log = logging.getLogger(__name__)


def refusal(error: ComfyRemoteError, status: int | None = None) -> web.Response:
    """The error as an answer: ``{"error": words, "comfy_remote": {code, …}}``.

    RunPod's own refusals have the ``error`` key too.
    """
    response = web.json_response(
        {"error": str(error), "comfy_remote": error.to_json()}, status=status or error.http_status
    )
    if isinstance(error, RateLimited):
        again = error.details.get("retry_after")
        response.headers["Retry-After"] = str(again if isinstance(again, int) else round(_WINDOW))
    return response


@web.middleware
async def refusals(request: web.Request, handler: RouteHandler) -> web.StreamResponse:
    """Turn our errors, and aiohttp's, into JSON answers."""
    try:
        return await handler(request)
    except ComfyRemoteError as error:
        return refusal(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return web.json_response({"error": error.reason}, status=error.status)


class Access:
    """Guards the routes of one endpoint.

    Args:
        endpoint_id: The only one there is; others answer 404.
        client_token: What clients send as ``Authorization: Bearer …``. ``None`` lets in
            who asks for a loopback address by name; the server listens nowhere else then.
        worker_token: What workers send as ``Authorization``, without ``Bearer`` (the SDK).
        metrics_token: What may read the metrics besides, and nothing else.
        behind_proxy: Whether something in front of this server has seen who asks, and passes
            requests on under its own name (Modal's proxy authentication).
    """

    def __init__(
        self,
        *,
        endpoint_id: str,
        client_token: SecretStr | None,
        worker_token: SecretStr,
        limits: GatewayLimits,
        metrics_token: SecretStr | None = None,
        behind_proxy: bool = False,
    ) -> None:
        self._behind_proxy = behind_proxy
        self._endpoint_id = endpoint_id
        self._client_token = client_token
        self._worker_token = worker_token
        self._metrics_token = metrics_token
        self._rate = limits.requests_per_10s
        self._recent: deque[float] = deque()
        self._warned = False

    def client(self, handler: RouteHandler) -> RouteHandler:
        """A route for clients."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            if (refused := self._other_page(request)) is not None:
                return refused
            self._check_token(request, self._client_token)
            self.check_endpoint(request)
            self._check_rate()
            return await handler(request)

        return guarded

    def metrics(self, handler: RouteHandler) -> RouteHandler:
        """A route for whoever collects metrics."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            if (refused := self._other_page(request)) is not None:
                return refused
            own = self._metrics_token
            if own is None or not sent_token(request, own):
                self._check_token(request, self._client_token or own)
            return await handler(request)

        return guarded

    def page(self, handler: RouteHandler) -> RouteHandler:
        """A route with nothing but this server's own page, which anybody may see."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            # A link on another site may lead to the page; what is part of it, no other page gets.
            following = request.headers.get("Sec-Fetch-Mode") == "navigate"
            if not following and (refused := self._other_page(request)) is not None:
                return refused
            if self._here_only and not _is_here(request.host):
                return _forbidden(_HERE_ONLY)
            return await handler(request)

        return guarded

    @property
    def _here_only(self) -> bool:
        # A page can point its own name at 127.0.0.1, and is then same-origin with us. So without
        # a token only names that always mean this machine are answered.
        return self._client_token is None and not self._behind_proxy

    def _other_page(self, request: web.Request) -> web.Response | None:
        return other_page_refusal(request, named_here_only=self._here_only)

    def _check_token(self, request: web.Request, token: SecretStr | None) -> None:
        if token is not None and not sent_token(request, token):
            raise AuthenticationError(
                "The token is missing or wrong.",
                advice="Send `Authorization: Bearer TOKEN` with the token this gateway was "
                "started with.",
            )

    def worker(self, handler: RouteHandler) -> RouteHandler:
        """A route for workers."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            if not sent_token(request, self._worker_token):
                if not self._warned:
                    self._warned = True
                    _log.warning(
                        "A worker's request with a wrong key was refused. If "
                        "~/.runpod/config.toml exists, the RunPod SDK sends the key in that file "
                        "instead of ours."
                    )
                give_way(request)
                await asyncio.sleep(_REFUSAL_DELAY)
                raise AuthenticationError("The worker's key is wrong.")
            self.check_endpoint(request)
            return await handler(request)

        return guarded

    def client_or_worker(self, handler: RouteHandler) -> RouteHandler:
        """A route for both: what they ask for says which jobs it is about."""
        client, worker = self.client(handler), self.worker(handler)

        async def guarded(request: web.Request) -> web.StreamResponse:
            of_worker = sent_token(request, self._worker_token)
            return await (worker if of_worker else client)(request)

        return guarded

    def check_endpoint(self, request: web.Request) -> None:
        """Refuse (`TargetNotFound`) a request for another endpoint."""
        if request.match_info.get("endpoint", self._endpoint_id) != self._endpoint_id:
            raise TargetNotFound(
                "This gateway has no such endpoint.", advice="Check the endpoint's id."
            )

    def _check_rate(self) -> None:
        if self._rate is None:
            return
        now = time.monotonic()
        while self._recent and now - self._recent[0] > _WINDOW:
            self._recent.popleft()
        if len(self._recent) >= self._rate:
            raise RateLimited(
                f"More than {self._rate} requests arrived within {_WINDOW:.0f} s.",
                advice="Ask less often.",
            )
        self._recent.append(now)


def other_page_refusal(request: web.Request, *, named_here_only: bool) -> web.Response | None:
    """The refusal of a request that another site's page makes a browser send.

    Args:
        named_here_only: Refuse what asks for this server by another name than localhost's.
    """
    if from_another_page(request.headers):
        return _forbidden("Requests from another site's page are refused.")
    if named_here_only and not _is_here(request.host):
        return _forbidden(_HERE_ONLY)
    return None


def _forbidden(words: str) -> web.Response:
    return refusal(AuthenticationError(words), status=403)


def sent_token(request: web.Request, token: SecretStr) -> bool:
    """Whether a request has the token, compared in constant time."""
    value = request.headers.get("Authorization", "")
    # RunPod takes its key with and without the scheme.
    scheme, _, rest = value.partition(" ")
    given = rest.strip() if scheme.lower() == "bearer" else value
    # As bytes: compare_digest refuses text that is not ASCII.
    return hmac.compare_digest(
        given.encode("utf-8", "surrogateescape"), token.get_secret_value().encode()
    )


@lru_cache(maxsize=32)  # each request asks
def _is_here(host: str) -> bool:
    """Whether a ``Host`` header names this machine in a way that it always does."""
    try:
        return is_loopback(URL(f"http://{host}").host or "")
    except ValueError:
        return False
