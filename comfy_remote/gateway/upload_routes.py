"""The routes by which clients send input files by themselves: ``HEAD`` and ``PUT files/SHA256``.

A request then names a file by its SHA-256 alone (`wire.request.named_by_hash`). Whoever has a
client's token may ask whether a content is here, and needs its whole SHA-256 for that.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from ..wire.request import is_sha256
from .access import Access
from .body import body_chunks, json_answer, number_in_query
from .files import FileStore
from .limits import GatewayLimits

__all__ = ["upload_routes"]


def upload_routes(files: FileStore, access: Access, limits: GatewayLimits) -> list[web.RouteDef]:
    """The routes, for clients."""
    path, routes = "/v2/{endpoint}/files/{sha256}", _UploadRoutes(files, limits)
    return [
        web.head(path, access.client(routes.is_there)),
        web.put(path, access.client(routes.receive)),
    ]


class _UploadRoutes:
    """The handlers, a method for each route."""

    def __init__(self, files: FileStore, limits: GatewayLimits) -> None:
        self._files, self._limits = files, limits
        # Clients behind a slow line must not hold up the outputs of workers.
        self._at_a_time = asyncio.Semaphore(max(1, limits.files_at_a_time * 3 // 4))

    async def is_there(self, request: web.Request) -> web.Response:
        """200 if the file is here. 404 if it may be sent: with ``?size=``, as large as that."""
        if self._files.stays(_sha256_in(request)):
            return web.Response()
        size = number_in_query(request, "size", 0, least=0, most=2**62)
        self._files.check_file(size)
        return web.Response(status=404)

    async def receive(self, request: web.Request) -> web.Response:
        sha256 = _sha256_in(request)
        self._files.check_file(request.content_length or 0)
        chunks = body_chunks(request.content.read, self._limits.body_pause)
        async with self._at_a_time:
            return json_answer({"size": await self._files.receive(sha256, chunks)}, status=201)


def _sha256_in(request: web.Request) -> str:
    """The SHA-256 of a request's path.

    Raises:
        web.HTTPNotFound: It is not one.
    """
    sha256 = request.match_info["sha256"]
    if not is_sha256(sha256):
        raise web.HTTPNotFound(reason="The path does not end with a SHA-256")
    return sha256
