"""A gateway's store as its workers use it, against a server of its kind."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from comfy_remote.errors import OutputError, TargetUnreachable
from comfy_remote.media.receive import Received
from comfy_remote.net.retry import Backoff
from comfy_remote.worker.storage import GatewayStore

KEY = "planted-worker-key"


QUICK = Backoff(attempts=3, first=0.001, longest=0.001, jitter=0.0)


def store_at(running: TestServer) -> GatewayStore:
    return GatewayStore(str(running.make_url("/v2/ep/files")), SecretStr(KEY), backoff=QUICK)


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
        store = store_at(running)
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
    assert "the store refused it: The gateway's store" in str(caught.value)
    assert KEY not in str(caught.value)
    assert server.statuses == []


class Stored:
    """Has one file, and sends so many bytes of it a time before the connection breaks."""

    def __init__(self, content: bytes, breaks_after: list[int] | None = None) -> None:
        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.breaks_after = breaks_after or []
        self.ranges: list[str | None] = []
        self.keys: list[str | None] = []

    async def get(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization"))
        if request.path != f"/v2/ep/files/job-1/{self.sha256}":
            return web.json_response({"error": "no"}, status=404)
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        rest = self.content[begin:]
        response = web.StreamResponse(status=206 if wanted else 200)
        response.content_length = len(rest)
        await response.prepare(request)
        if self.breaks_after:
            await response.write(rest[: self.breaks_after.pop(0)])
            assert request.transport is not None
            request.transport.close()
        else:
            await response.write(rest)
        return response

    def server(self) -> TestServer:
        app = web.Application()
        app.router.add_get("/{path:.*}", self.get)
        return TestServer(app)


async def test_an_input_is_resumed_where_its_connection_broke(tmp_path: Path) -> None:
    stored = Stored(bytes(range(256)) * 4000, [300_000, 0, 500_000])
    async with stored.server() as running:
        there = await store_at(running).fetch("job-1", stored.sha256, tmp_path / "in")
    assert there
    assert (tmp_path / "in").read_bytes() == stored.content
    # A break that came after some bytes begins the count of tries again.
    whole, *rest = stored.ranges
    # What was under way when the connection broke need not have arrived.
    first, again, later = (int(str(one).removeprefix("bytes=").rstrip("-")) for one in rest)
    assert whole is None
    assert 0 < first <= 300_000
    assert again == first < later <= 800_000
    assert set(stored.keys) == {KEY}


async def test_an_input_that_the_store_lacks_is_not_there(tmp_path: Path) -> None:
    stored = Stored(b"content")
    async with stored.server() as running:
        assert not await store_at(running).fetch("job-1", "0" * 64, tmp_path / "in")
        assert not await store_at(running).fetch("job-2", stored.sha256, tmp_path / "in")
    assert list(tmp_path.iterdir()) == []


async def test_an_input_of_a_store_that_stays_away_is_an_error(tmp_path: Path) -> None:
    stored = Stored(b"content", [0, 0, 0, 0])
    async with stored.server() as running:
        with pytest.raises(TargetUnreachable):
            await store_at(running).fetch("job-1", stored.sha256, tmp_path / "in")
    assert len(stored.ranges) == 3
    assert list(tmp_path.iterdir()) == []
