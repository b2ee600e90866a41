"""A sheet by HTTP, for one browser on this machine: it shows what has come, and writes keeps.

The address has a random token in its path, so no other user or page of this machine finds it; and
a request is answered only if it asks for this very address and comes from this very page. Only the
sheet, its thumbnails and the files of the manifest are served. What runs in a browser (an SVG, an
HTML page) is not opened as one: it is downloaded, and no output has scripts or an origin.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from ...errors import ComfyRemoteError, ConfigurationError
from ...json_text import parse_json
from ...media.files import leads_out
from ...types import JsonValue
from .html import page_policy, page_text
from .keeps import KEEPS, Keeps, read_keeps, write_keeps
from .page_data import OPENED, page_data
from .reading import MANIFEST, read_batch
from .thumbnails import FOLDER, Thumbnails

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Handler, Middleware

__all__ = ["SheetRoutes", "SheetServer", "serve_sheet"]

_log = logging.getLogger(__name__)
_LARGEST_KEEPS = 16 * 1024 * 1024
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_FILE_POLICY = "default-src 'none'; sandbox; style-src 'unsafe-inline'; media-src 'self'"


@dataclass(frozen=True, slots=True)
class _Seen:
    """The sheet as of one state of the folder."""

    mark: str
    page: bytes
    data: bytes
    files: frozenset[str] = field(repr=False)


class SheetRoutes:
    """What a sheet's page asks for, as handlers; who may ask is decided before them.

    Args:
        folder: Of the batch.
        in_comfyui: Whether ComfyUI's page serves it, whose graph can take a run's values.
    """

    def __init__(self, folder: Path, *, in_comfyui: bool = False) -> None:
        self._folder = folder
        self._in_comfyui = in_comfyui
        self._seen: _Seen | None = None
        self._making = asyncio.Lock()
        self._writing = asyncio.Lock()

    async def prepare(self) -> None:
        """Make what is shown now, so that the first request does not wait for it.

        Raises:
            LocalStorageError: The folder cannot be read, or thumbnails not written.
        """
        await self._current()

    async def page(self, _request: web.Request) -> web.Response:
        """``GET sheet.html``."""
        from aiohttp import web

        headers = {
            **_HEADERS,
            "Cache-Control": "no-store",
            "Content-Security-Policy": f"{page_policy()}; frame-ancestors 'none'",
        }
        seen = await self._current()
        return web.Response(
            body=seen.page, content_type="text/html", charset="utf-8", headers=headers
        )

    async def data(self, request: web.Request) -> web.Response:
        """``GET data.json``: what the page shows; 304 if nothing has come."""
        from aiohttp import web

        seen = await self._current()
        headers = {**_HEADERS, "Cache-Control": "no-store", "ETag": f'"{seen.mark}"'}
        if request.headers.get("If-None-Match") == f'"{seen.mark}"':
            return web.Response(status=304, headers=headers)
        return web.Response(body=seen.data, content_type="application/json", headers=headers)

    async def keeps(self, _request: web.Request) -> web.Response:
        """``GET keeps.json``: what is chosen now, also where there is no such file yet."""
        from aiohttp import web

        keeps = await asyncio.to_thread(read_keeps, self._folder)
        headers = {**_HEADERS, "Cache-Control": "no-store"}
        return web.json_response(keeps.to_json(), headers=headers)

    async def keep(self, request: web.Request) -> web.Response:
        """``PUT keeps.json``."""
        from aiohttp import web

        try:
            keeps = Keeps.from_json(parse_json(await request.read()))
        except ValueError as error:
            raise web.HTTPBadRequest(text=f"Not what {KEEPS} holds: {error}.\n") from None
        async with self._writing:
            try:
                await asyncio.to_thread(write_keeps, self._folder, keeps)
            except ComfyRemoteError as error:
                raise web.HTTPInsufficientStorage(text=error.message) from error
        return web.Response(status=204, headers=_HEADERS)

    async def file(self, request: web.Request) -> web.StreamResponse:
        """``GET`` of a thumbnail or an output, whose name is ``{file}`` of the route."""
        from aiohttp import web

        name = request.match_info["file"]
        seen = await self._current()
        path = self._folder / name
        known = name in seen.files and not leads_out(path, self._folder)
        if not known or not await asyncio.to_thread(path.is_file):
            raise web.HTTPNotFound(text="The sheet has no such file.\n")
        suffix = PurePosixPath(name).suffix.lower()
        kind = OPENED.get(suffix, "application/octet-stream")
        headers = {
            **_HEADERS,
            "Content-Type": kind if kind != "text/plain" else "text/plain; charset=utf-8",
            "Content-Security-Policy": _FILE_POLICY,
            "Cache-Control": "private, max-age=3600"
            if name.startswith(f"{FOLDER}/")
            else "no-cache",
        }
        if suffix == ".svg":  # as a picture of the page; opened alone it is downloaded
            headers["Content-Type"] = "image/svg+xml"
        if suffix not in OPENED:
            plain = quote(PurePosixPath(name).name)
            headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{plain}"
        return _plain_file(path, headers)

    async def _current(self) -> _Seen:
        async with self._making:
            mark = await asyncio.to_thread(self._mark)
            if self._seen is None or self._seen.mark != mark:
                self._seen = await asyncio.to_thread(self._made, mark)
            return self._seen

    def _mark(self) -> str:
        """Changes when the manifest does."""
        try:
            stat = (self._folder / MANIFEST).stat()
        except OSError:
            return "-"
        return f"{stat.st_mtime_ns}-{stat.st_size}"

    def _made(self, mark: str) -> _Seen:
        batch = read_batch(self._folder)
        outputs = [one for run in batch.runs for one in run.outputs]
        thumbnails = Thumbnails(self._folder)
        thumbnails.make(outputs)
        data: dict[str, JsonValue] = page_data(
            batch, self._folder, thumbnails, served=True, in_comfyui=self._in_comfyui
        )
        small = {f"{FOLDER}/{made.name}" for one in outputs if (made := thumbnails.of(one))}
        return _Seen(
            mark=mark,
            page="".join(page_text(data)).encode(),
            data=json.dumps(data).encode(),
            files=frozenset(small.union(one.file for one in outputs)),
        )


class SheetServer:
    """Serves the sheet of one batch on the loopback interface.

    Args:
        folder: Of the batch.
        port: To listen on; 0 for a free one.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self._routes = SheetRoutes(folder)
        self._port = port
        self._token = secrets.token_urlsafe(24)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where the sheet is, with the token."""
        return f"http://127.0.0.1:{self._port}/{self._token}/sheet.html"

    async def start(self) -> None:
        """Listen, once the sheet can be shown.

        Raises:
            LocalStorageError: The folder cannot be read, or thumbnails not written.
            ConfigurationError: The port is taken.
        """
        from aiohttp import web

        await self._routes.prepare()
        app = web.Application(client_max_size=_LARGEST_KEEPS)
        at = f"/{self._token}"
        app.router.add_get(f"{at}/sheet.html", self._routes.page)
        app.router.add_get(f"{at}/data.json", self._routes.data)
        app.router.add_get(f"{at}/keeps.json", self._routes.keeps)
        app.router.add_put(f"{at}/keeps.json", self._routes.keep)
        app.router.add_get(f"{at}/{{file:.+}}", self._routes.file)
        app.middlewares.append(self._guard())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            raise ConfigurationError(
                f"The sheet cannot be served on port {self._port}: {error.strerror or error}.",
                advice="Choose another port, or none for one that is free.",
            ) from error
        self._port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening. What is being sent ends within a second."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _guard(self) -> Middleware:
        from aiohttp import web

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not self._may_ask(request):
                raise web.HTTPForbidden(text="Open the address that the command has printed.\n")
            return await handler(request)

        return guard

    def _may_ask(self, request: web.Request) -> bool:
        own = {f"127.0.0.1:{self._port}", f"localhost:{self._port}"}
        if request.headers.get("Host", "") not in own:  # another name that leads here
            return False
        token = request.path.split("/")[1]
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            return False
        origin = request.headers.get("Origin")
        if origin is not None:
            return origin == f"http://{request.headers['Host']}"
        site = request.headers.get("Sec-Fetch-Site", "none")
        return site in ("none", "same-origin") and (request.method != "PUT" or site == "none")


def _plain_file(path: Path, headers: dict[str, str]) -> web.StreamResponse:
    """The file itself, or the part of it that is asked for: never a compressed one beside it."""
    from aiohttp import web

    class Plain(web.FileResponse):
        async def prepare(self, request: web.BaseRequest) -> object:  # type: ignore[override]
            kept = {k: v for k, v in request.headers.items() if k.lower() != "accept-encoding"}
            return await super().prepare(request.clone(headers=kept))

    return Plain(path, headers=headers)


async def serve_sheet(
    folder: Path, port: int = 0, *, ready: Callable[[str], object] = lambda _url: None
) -> None:
    """Serve the sheet of a batch on this machine until this is cancelled (Ctrl-C).

    Args:
        folder: Of the batch.
        port: 0 for a free one.
        ready: Called with the address, which has the token, once it can be opened.

    Raises:
        LocalStorageError: The folder cannot be read, or thumbnails not written.
        ConfigurationError: The port is taken.
    """
    server = SheetServer(folder, port)
    await server.start()
    try:
        ready(server.url)
        await asyncio.Event().wait()
    finally:
        await server.stop()
