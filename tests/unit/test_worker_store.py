"""The store for large outputs, against a server of its kind."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from comfy_remote.errors import OutputError
from comfy_remote.media.receive import Received
from comfy_remote.worker.storage import ResultStore

KEY = "planted-worker-key"


class Server:
    def __init__(self, statuses: list[int]) -> None:
        self.statuses = statuses
        self.kept: dict[str, bytes] = {}
        self.keys: list[str | None] = []

    async def put(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.keys.append(request.headers.get("Authorization"))
        status = self.statuses.pop(0) if self.statuses else 201
        if status == 201:
            self.kept[request.raw_path] = body
        return web.Response(status=status)


async def put(tmp_path: Path, server: Server) -> str:
    app = web.Application(client_max_size=2**30)
    app.router.add_put("/{path:.*}", server.put)
    path = tmp_path / "out"
    path.write_bytes(b"0123456789" * 300_000)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    async with TestServer(app) as running:
        store = ResultStore(str(running.make_url("/v2/ep/files")), SecretStr(KEY))
        file = Received(path, path.stat().st_size, sha256)
        return str((await store.put("job-1", "out.mp4", file)).url)


async def test_the_file_arrives_whole_with_the_key(tmp_path: Path) -> None:
    server = Server([])
    url = await put(tmp_path, server)
    [(path, content)] = server.kept.items()
    sha256 = hashlib.sha256(content).hexdigest()
    assert len(content) == 3_000_000
    assert url == f"files/job-1/{sha256}"
    assert path == f"/v2/ep/{url}"
    assert server.keys == [KEY]


async def test_a_store_that_stumbles_is_asked_again(tmp_path: Path) -> None:
    server = Server([503, 429])
    await put(tmp_path, server)
    [content] = server.kept.values()
    assert len(content) == 3_000_000
    assert len(server.keys) == 3


@pytest.mark.parametrize("statuses", [[507] * 3, [401], [302]])
async def test_a_store_that_refuses_is_an_error_without_the_key(
    tmp_path: Path, statuses: list[int]
) -> None:
    server = Server(statuses)
    with pytest.raises(OutputError) as caught:
        await put(tmp_path, server)
    assert "store refused it: HTTP" in str(caught.value)
    assert KEY not in str(caught.value)
    assert server.statuses == []
