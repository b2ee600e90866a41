"""Keep other sites' pages from using an engine on this machine through somebody's browser."""

from __future__ import annotations

import ipaddress
import logging
from urllib.parse import SplitResult, urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

__all__ = ["refuse_foreign_origins"]

logger = logging.getLogger(__name__)


@web.middleware
async def refuse_foreign_origins(request: web.Request, handler: Handler) -> web.StreamResponse:
    """403 for a request that a page of another origin made, by ComfyUI's rules.

    Browsers let any page post to 127.0.0.1, but they say which page it was. As in ComfyUI,
    the origin is compared only where the engine is addressed as a loopback host.
    """
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        return web.Response(status=403)
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if host and origin and not _same_site(urlsplit(f"//{host.lower()}"), urlsplit(origin.lower())):
        logger.warning("Refused a request to %s from a page of %s", host, origin)
        return web.Response(status=403)
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)


def _same_site(host: SplitResult, origin: SplitResult) -> bool:
    if not _is_loopback(host.hostname) or not host.hostname or not origin.hostname:
        return True
    try:
        ports = {host.port, origin.port}
    except ValueError:  # no number, or out of range
        return False
    # Some clients leave the port out of one of the two; then it says nothing.
    return host.hostname == origin.hostname and (len(ports) == 1 or None in ports)


def _is_loopback(name: str | None) -> bool:
    if not name:
        return False
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
