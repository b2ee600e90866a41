"""Keep other sites' pages from using an engine on this machine through somebody's browser."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.typedefs import Handler

from ..wire.origin import is_foreign

__all__ = ["refuse_foreign_origins"]

logger = logging.getLogger(__name__)


@web.middleware
async def refuse_foreign_origins(request: web.Request, handler: Handler) -> web.StreamResponse:
    """403 for a request that a page of another origin made, by ComfyUI's rules."""
    if is_foreign(request.headers):
        origin = request.headers.get("Origin", "elsewhere")
        logger.warning("Refused a request to %s from a page of %s", request.host, origin)
        return web.Response(status=403)
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)
