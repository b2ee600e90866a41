"""Only this server's own page, and programs, may use what is ours: no other site's page."""

from __future__ import annotations

import asyncio

from aiohttp import web

from ..errors import AuthenticationError
from ..net.own_names import allowed_by_environment
from ..wire.origin import origin_refusal, page_refusal

__all__ = ["refusal_of_other_origin", "refusal_of_page"]


async def refusal_of_page(request: web.Request) -> AuthenticationError | None:
    """Why a request is refused, if another site's page may have made it; else ``None``."""
    if page_refusal(request.method, request.headers) is None:
        return None
    # Not read for each of the page's own requests.
    allowed = await asyncio.to_thread(_allowed_hosts)
    return page_refusal(request.method, request.headers, allowed)


async def refusal_of_other_origin(request: web.Request) -> AuthenticationError | None:
    """The same, if the browser says that another page made it; whatever host is asked for."""
    if origin_refusal(request.headers) is None:
        return None
    return origin_refusal(request.headers, await asyncio.to_thread(_allowed_hosts))


def _allowed_hosts() -> tuple[str, ...]:
    return allowed_by_environment()
