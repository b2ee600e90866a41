"""The routes by which clients send input files of any size: see docs/routes.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from ..media.received_inputs import InputFolder
from .host import Host
from .json_route import json_route, program_route

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["input_routes"]


def input_routes(host: Host) -> web.RouteTableDef:
    """The table, for a server.

    Args:
        host: Whose input folder it is.
    """
    table = web.RouteTableDef()
    folder = InputFolder(host.folder("input"))

    # Tells only whoever has the file already, by its hash, that it is here.
    @table.get("/remote/inputs/{name:.+}")
    @program_route
    async def has_input(request: web.Request) -> JsonValue:
        name, sha256 = request.match_info["name"], request.query.get("sha256", "")
        return {"there": await folder.has(name, sha256)}

    @table.put("/remote/inputs/{name:.+}")
    @json_route
    async def put_input(request: web.Request) -> JsonValue:
        name, sha256 = request.match_info["name"], request.query.get("sha256", "")
        return {"name": await folder.receive(name, sha256, request.content.iter_any())}

    return table
