"""A model from a server that gives 40 MB/s a connection: in parts, and in one stream as before.

The server is a process of its own, and answers each request after 20 ms, as a storage elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import struct
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from aiohttp import web
from common import in_turn, report, size

from comfy_remote.wire.repo_list import parse_repo_list
from comfy_remote.worker.models.library import ModelLibrary
from comfy_remote.worker.models.parts import PartLimits
from comfy_remote.worker.models.settings import ModelSettings

_SIZE = size(200_000_000, 20_000_000)
_RUNS = size(5, 1)
_RATE = size(40_000_000, 400_000_000)  # bytes a second, on one connection
_LATENCY = 0.02
_ONE_STREAM = PartLimits(size=2**60)


def _serve(ready: Connection) -> None:
    shape = {"dtype": "U8", "shape": [_SIZE], "data_offsets": [0, _SIZE]}
    header = json.dumps({"weight": shape}).encode()
    content = memoryview(struct.pack("<Q", len(header)) + header + bytes(_SIZE))

    async def answer(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(_LATENCY)
        first, _, last = request.headers.get("Range", "bytes=0-")[6:].partition("-")
        start, end = int(first), int(last) + 1 if last else len(content)
        headers = {"ETag": '"one"', "Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
        response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
        response.headers.update(headers)
        response.content_length = end - start
        await response.prepare(request)
        began = time.monotonic()
        for at in range(start, end, 2**18):
            await response.write(content[at : min(at + 2**18, end)])
            await asyncio.sleep((at - start) / _RATE - (time.monotonic() - began))
        return response

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


def bench_models() -> None:
    here, there = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    server.start()
    try:
        host = f"127.0.0.1:{here.recv()}"
        parts, stream = in_turn(
            lambda _: _fetch(host, PartLimits()), lambda _: _fetch(host, _ONE_STREAM), _RUNS
        )
    finally:
        server.kill()
    report("models", parts, stream, "one stream")


def _fetch(host: str, limits: PartLimits) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        settings = ModelSettings(folder=root, volume=root / "none", hosts=frozenset({host}))
        library = ModelLibrary(settings, part_limits=limits)
        lines = parse_repo_list(f"lora http://{host}/a.safetensors")
        asyncio.run(library.ensure(lines, lambda _: None))
