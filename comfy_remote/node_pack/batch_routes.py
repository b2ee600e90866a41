"""The routes by which the page varies a workflow: see docs/routes.md."""

from __future__ import annotations

from typing import Literal, get_args

from aiohttp import web
from pydantic import JsonValue

from ..errors import ConfigurationError
from .batches import PageBatches, VaryRequest
from .host import Host
from .json_route import body_of, check_json, json_route, page_route
from .setup_routes import check_owner

__all__ = ["add_batch_routes"]

_Action = Literal["pause", "resume", "cancel", "retry", "remove"]


def add_batch_routes(table: web.RouteTableDef, host: Host, batches: PageBatches) -> None:
    """Add them to the table of the pack's routes."""

    @table.post("/remote/batches/plan")
    @json_route
    async def plan(request: web.Request) -> JsonValue:
        check_owner(request, host)
        return await batches.plan(await body_of(request, VaryRequest), _own_url(request))

    @table.post("/remote/batches")
    @json_route
    async def start(request: web.Request) -> JsonValue:
        check_owner(request, host)
        return await batches.start(await body_of(request, VaryRequest), _own_url(request))

    @table.get("/remote/batches")
    @json_route
    async def listed(request: web.Request) -> JsonValue:
        return {"batches": []} if host.several_users else await batches.list(_own_url(request))

    @table.get("/remote/batches/{batch}/runs")
    @json_route
    async def runs(request: web.Request) -> JsonValue:
        return await batches.runs(request.match_info["batch"])

    @table.get("/remote/batches/{batch}/runs/{row}")
    @json_route
    async def values(request: web.Request) -> JsonValue:
        return await batches.values(request.match_info["batch"], _row(request))

    @table.get("/remote/batches/{batch}/sheet/{file:.+}")
    @page_route
    async def sheet(request: web.Request) -> web.StreamResponse:
        routes = await batches.sheet(request.match_info["batch"])
        of_page = {
            "sheet.html": routes.page,
            "data.json": routes.data,
            "keeps.json": routes.keeps,
        }
        return await of_page.get(request.match_info["file"], routes.file)(request)

    @table.put("/remote/batches/{batch}/sheet/keeps.json")
    @page_route
    async def keep(request: web.Request) -> web.StreamResponse:
        check_owner(request, host)
        return await (await batches.sheet(request.match_info["batch"])).keep(request)

    @table.post("/remote/batches/{batch}/{action}")
    @json_route
    async def change(request: web.Request) -> JsonValue:
        check_owner(request, host)
        check_json(request)
        action = request.match_info["action"]
        if action not in get_args(_Action):
            raise ConfigurationError(f"A batch cannot {action!r}.")
        return await batches.change(request.match_info["batch"], action, _own_url(request))


def _row(request: web.Request) -> int:
    text = request.match_info["row"]
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ConfigurationError(f"{text!r} is not the number of a run.")
    return int(text)


def _own_url(request: web.Request) -> str:
    """The address of this server on its own machine."""
    name = None if request.transport is None else request.transport.get_extra_info("sockname")
    host, port = name[:2] if name else ("127.0.0.1", 8188)
    if host in ("0.0.0.0", "::"):  # noqa: S104 - it is where a request has come to
        host = "127.0.0.1"
    return f"{request.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
