"""HTTP: input files of any size, streamed. ComfyUI has this route with our node pack in it."""

from __future__ import annotations

from aiohttp import web

from ..errors import ComfyRemoteError
from ..media.received_inputs import InputFolder
from .engine import ENGINE

__all__ = ["routes"]

routes = web.RouteTableDef()


@routes.get("/remote/inputs/{name:.+}")
async def has_input(request: web.Request) -> web.Response:
    """``{"there": …}``: whether that file is there, with that content."""
    name, sha256 = request.match_info["name"], request.query.get("sha256", "")
    try:
        there = await _folder(request).has(name, sha256)
    except ComfyRemoteError as error:
        return _refused(error)
    return web.json_response({"there": there})


@routes.put("/remote/inputs/{name:.+}")
async def put_input(request: web.Request) -> web.Response:
    """Write the body into the input folder; ``{"name": …}`` is what it is called there."""
    name, sha256 = request.match_info["name"], request.query.get("sha256", "")
    try:
        placed = await _folder(request).receive(name, sha256, request.content.iter_any())
    except ComfyRemoteError as error:
        return _refused(error)
    return web.json_response({"name": placed})


def _folder(request: web.Request) -> InputFolder:
    return InputFolder(request.app[ENGINE].folders.root / "input")


def _refused(error: ComfyRemoteError) -> web.Response:
    return web.json_response({"error": error.to_json()}, status=error.http_status)
