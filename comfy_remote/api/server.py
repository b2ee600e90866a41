"""The server of Comfy API v2: who may ask, and where it listens."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from contextlib import AsyncExitStack

from aiohttp import web
from aiohttp.typedefs import Middleware
from pydantic import SecretStr

from ..gateway.access import RouteHandler, other_page_refusal, sent_token
from ..gateway.body import json_answer
from ..gateway.listening import check_token, serving
from ..media.temporary import remove_leftovers
from ..version import __version__
from ..wire.comfy_api import API_PATH, IDEMPOTENCY_HEADER, LONGEST_KEY
from .errors import ApiRefusal, answered

__all__ = ["ENDLESS", "ApiServer", "api_application", "api_base", "guard"]

ENDLESS: web.AppKey[set[asyncio.Task[object]]] = web.AppKey("endless")
"""Requests whose answers go on until something ends them: a server that stops does."""


class ApiServer:
    """Comfy API v2 over HTTP. Used as an asynchronous context manager::

        async with ApiServer([*job_routes(…), *asset_routes(…)], port=8189) as server:
            print(server.url)

    A handler is cancelled when its client hangs up.

    Args:
        routes: What it serves, below ``/api/v2``.
        host: Name or address to listen on. Anything but loopback needs a token.
        port: 0 picks a free one.
        token: What callers must send as bearer token; at least 16 characters. Without one, any
            key is accepted, and only on loopback: the SDKs send one where they know one.

    Raises:
        ConfigurationError: The arguments do not fit together.
    """

    def __init__(
        self,
        routes: Iterable[web.RouteDef],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: SecretStr | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        check_token(host, token)
        self._routes = list(routes)
        self._host = host
        self._port = port
        self._token = token
        self._ssl_context = ssl_context
        self._serving = AsyncExitStack()
        self.url = ""

    async def __aenter__(self) -> ApiServer:
        """Listen.

        Raises:
            ConfigurationError: The address or port cannot be used, with what to do.
        """
        await asyncio.to_thread(remove_leftovers)
        app = web.Application(middlewares=[guard(self._token)])
        app.add_routes([web.get("/", about)])
        app.add_subapp(API_PATH, api_application(self._routes))
        serves = serving(app, self._host, self._port, self._ssl_context, handler_cancellation=True)
        self.url = await self._serving.enter_async_context(serves)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._serving.aclose()


def api_application(
    routes: Iterable[web.RouteDef], middlewares: Iterable[Middleware] = ()
) -> web.Application:
    """The API, for ``add_subapp(API_PATH, …)`` of an application.

    Args:
        middlewares: ``[guard(token)]``, unless that application has it.
    """
    app = web.Application(middlewares=list(middlewares))
    app[ENDLESS] = set()
    app.on_shutdown.append(_end_endless)
    app.add_routes([*routes, web.get("", about)])
    return app


async def _end_endless(app: web.Application) -> None:
    for task in app[ENDLESS]:
        task.cancel()


def api_base(request: web.Request) -> str:
    """The address of the API as its client reached it: ``http://HOST:PORT/api/v2``.

    A proxy in front that speaks https says so in ``X-Forwarded-Proto``. Whoever else sends that
    changes the addresses in their own answers.
    """
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    scheme = "https" if forwarded == "https" else request.scheme
    return f"{scheme}://{request.host}{API_PATH}"


def sent_key(request: web.Request) -> str | None:
    """The ``Idempotency-Key`` of a request; ``None`` without one.

    Raises:
        ApiRefusal: It cannot be one.
    """
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is not None and not (0 < len(key) <= LONGEST_KEY and key.isprintable()):
        raise ApiRefusal(
            "invalid_request",
            f"An {IDEMPOTENCY_HEADER} has 1 to {LONGEST_KEY} printable characters. Send a UUID.",
        )
    return key


def guard(token: SecretStr | None) -> Middleware:
    """Who may ask, and that every refusal has the API's form."""

    @web.middleware
    async def guarded(request: web.Request, handler: RouteHandler) -> web.StreamResponse:
        async def allowed(request: web.Request) -> web.StreamResponse:
            if other_page_refusal(request, named_here_only=token is None) is not None:
                raise ApiRefusal(
                    "forbidden",
                    "This server answers neither other sites' pages nor, without a token, requests "
                    "for another name than localhost's.",
                )
            if token is not None and not sent_token(request, token):
                raise ApiRefusal(
                    "unauthorized",
                    "The API key is missing or wrong. Send `Authorization: Bearer KEY` with the "
                    "token that this server was started with; the SDKs take it from "
                    "COMFY_API_KEY.",
                )
            return await handler(request)

        return await answered(request, allowed)

    return guarded


async def about(request: web.Request) -> web.Response:
    """What this is, for a person and for programs."""
    return json_answer(
        {
            "api": "Comfy API v2",
            "server": f"Comfy Remote {__version__}",
            "use": f"comfy-sdk with COMFY_BASE_URL={api_base(request).removesuffix(API_PATH)}",
            "urls": {"jobs": f"{API_PATH}/jobs", "assets": f"{API_PATH}/assets"},
        }
    )
