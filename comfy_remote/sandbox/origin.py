"""Keep other sites' pages from using an engine on this machine through somebody's browser."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.typedefs import Handler

from ..config.own_page import refusal_of_page

__all__ = ["refuse_other_pages"]

logger = logging.getLogger(__name__)


@web.middleware
async def refuse_other_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
    """403 for a request that another site's page may have made.

    Stricter than ComfyUI, which compares the origin only where it is asked for as localhost.
    """
    refused = await refusal_of_page(request.method, request.headers)
    if refused is not None:
        logger.warning("Refused a request. %s", refused)
        return web.Response(status=403, text=f"{refused.message} {refused.advice}")
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)
