"""A real server to fetch models from, which does on request what servers do on bad days."""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field

from aiohttp import web


def safetensors(
    size: int = 300_000, *, fill: bytes = b"\x07", names: Sequence[str] = ("weight",)
) -> bytes:
    """A whole safetensors file; each of its tensors has all of its ``size`` bytes."""
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps(dict.fromkeys(names, tensor)).encode()
    return struct.pack("<Q", len(header)) + header + (fill * (size // len(fill) + 1))[:size]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class File:
    """One file that is served.

    Attributes:
        content: Its bytes.
        etag: Sent with it, if not empty.
        ranges: Whether a part of it may be asked for.
        cuts: For each request of content, the number of bytes after which it is cut off.
        statuses: Answered first, one a request.
        headers: Sent with it.
        token: Asked for, if not empty: else 401.
        sized: Whether its length is told.
        announced: A length that is told instead of the true one.
        on_request: Called with each request; answers it, if it gives an answer.
    """

    content: bytes = b""
    etag: str = '"one"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    token: str = ""
    sized: bool = True
    announced: int | None = None
    slow: float = 0.0
    on_request: Callable[[web.Request], Coroutine[None, None, web.StreamResponse | None]] | None = (
        None
    )


@dataclass(frozen=True)
class Asked:
    path: str
    query: str
    headers: dict[str, str]

    @property
    def probe(self) -> bool:
        return self.headers.get("Range") == "bytes=0-0"


class ModelServer:
    """Listens on a free port of 127.0.0.1 inside ``async with``."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}
        self.redirects: dict[str, tuple[str, dict[str, str]]] = {}
        self.json: dict[str, object] = {}
        self.asked: list[Asked] = []

    async def __aenter__(self) -> ModelServer:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.host = f"127.0.0.1:{self._runner.addresses[0][1]}"
        self.url = f"http://{self.host}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._runner.cleanup()

    def fetched(self, path: str) -> int:
        """How often content was asked for, not counting probes."""
        return sum(asked.path == path and not asked.probe for asked in self.asked)

    async def forget_asked(self) -> None:
        """Forget what was asked, once nobody's connection is open: a killed client's requests may
        still wait to be read.
        """
        quiet = 0
        while quiet < 5:
            await asyncio.sleep(0.02)
            assert self._runner.server is not None
            quiet = 0 if self._runner.server.connections else quiet + 1
        self.asked.clear()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        self.asked.append(Asked(path, request.rel_url.raw_query_string, dict(request.headers)))
        if path in self.json:
            return web.json_response(self.json[path])
        if path in self.redirects:
            target, headers = self.redirects[path]
            return web.Response(status=302, headers={"Location": target, **headers})
        if path not in self.files:
            return web.Response(status=404, text="<html>not here</html>", content_type="text/html")
        return await self._send(request, self.files[path])

    async def _send(self, request: web.Request, file: File) -> web.StreamResponse:
        if file.on_request is not None:
            answered = await file.on_request(request)
            if answered is not None:
                return answered
        if file.token and request.headers.get("Authorization") != f"Bearer {file.token}":
            return web.Response(status=401, text="log in")
        if file.statuses:
            status = file.statuses.pop(0)
            return web.Response(status=status, headers={"Retry-After": "0"})
        size = len(file.content)
        start, end, status = 0, size, 200
        wanted = request.headers.get("Range", "")
        if_range = request.headers.get("If-Range", file.etag)
        if file.ranges and wanted and if_range == file.etag:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else size
            if start >= size:
                return web.Response(status=416, headers={"Content-Range": f"bytes */{size}"})
            status = 206
        headers = {"Content-Type": "application/octet-stream", **file.headers}
        if file.etag:
            headers["ETag"] = file.etag
        total = size if file.announced is None else file.announced
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{total}"
        response = web.StreamResponse(status=status, headers=headers)
        if file.sized:
            response.content_length = (end if file.announced is None else total) - start
        await response.prepare(request)
        content = file.content[start:end]
        cut = file.cuts.pop(0) if file.cuts and wanted != "bytes=0-0" else None
        await self._stream(request, response, content[:cut], file)
        if cut is not None:
            assert request.transport is not None
            request.transport.abort()
        return response

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, content: bytes, file: File
    ) -> None:
        for at in range(0, len(content), 50_000):
            await response.write(content[at : at + 50_000])
            if file.slow:
                await asyncio.sleep(file.slow)
