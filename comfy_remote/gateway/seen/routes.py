"""The routes of the page: itself, what it shows, what its buttons do; and the metrics.

The page has neither data nor secrets in it, so anybody who reaches the gateway may load it. All
that it shows and does goes through the same guard as clients' requests.
"""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from ..access import Access
from ..body import json_answer
from .control import QueueControl
from .exposition import CONTENT_TYPE
from .shown import Shown

__all__ = ["page_routes"]

_PAGE = Path(__file__).with_name("page")
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_HEADERS = {
    # No script, style or address but this server's own; not within another page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",
}


def page_routes(shown: Shown, control: QueueControl, access: Access) -> list[web.RouteDef]:
    """The page's routes, and the metrics'."""
    base, guard, routes = "/v2/{endpoint}", access.client, _PageRoutes(shown, control)
    return [
        web.get("/", access.page(_Asset("index.html"))),
        *(
            web.get(f"/page/{entry.name}", access.page(_Asset(entry.name)))
            for entry in sorted(_PAGE.iterdir())
            if entry.name != "index.html"
        ),
        # The page learns the endpoint's id from the first; programs know it.
        web.get("/overview", guard(routes.overview)),
        web.get(f"{base}/overview", guard(routes.overview)),
        web.get("/metrics", access.metrics(routes.metrics)),
        web.post(f"{base}/front/{{job_id}}", guard(routes.front)),
        web.post(f"{base}/drain/{{worker_id}}", guard(routes.drain)),
        web.post(f"{base}/undrain/{{worker_id}}", guard(routes.undrain)),
        web.post(f"{base}/gone/{{worker_id}}", guard(routes.gone)),
    ]


class _Asset:
    """A file of the page. It is read once: there are a few, of some kilobytes."""

    def __init__(self, name: str) -> None:
        self._body = (_PAGE / name).read_bytes()
        self._type = _TYPES[name.rpartition(".")[2]]

    async def __call__(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=self._body, content_type=self._type, charset="utf-8", headers=_HEADERS
        )


class _PageRoutes:
    """The handlers, a method for each route."""

    def __init__(self, shown: Shown, control: QueueControl) -> None:
        self._shown = shown
        self._control = control

    async def overview(self, _request: web.Request) -> web.Response:
        headers = {"Cache-Control": "no-store"}
        body = await self._shown.overview()
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def metrics(self, _request: web.Request) -> web.Response:
        headers = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}
        return web.Response(body=self._shown.scrape(), headers=headers)

    async def front(self, request: web.Request) -> web.Response:
        job_id = request.match_info["job_id"]
        await self._control.front(job_id)
        return self._done(job_id)

    async def drain(self, request: web.Request) -> web.Response:
        return await self._drain(request, on=True)

    async def undrain(self, request: web.Request) -> web.Response:
        return await self._drain(request, on=False)

    async def gone(self, request: web.Request) -> web.Response:
        worker_id = request.match_info["worker_id"]
        await self._control.gone(worker_id)
        return self._done(worker_id)

    async def _drain(self, request: web.Request, *, on: bool) -> web.Response:
        worker_id = request.match_info["worker_id"]
        await self._control.drain(worker_id, on=on)
        return self._done(worker_id)

    def _done(self, which: str) -> web.Response:
        self._shown.changed()
        return json_answer({"id": which, "status": "done"})
