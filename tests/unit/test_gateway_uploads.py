"""Input files that clients send to a gateway by themselves."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from helpers import until
from pydantic import SecretStr

from comfy_remote.gateway.access import Access, refusals
from comfy_remote.gateway.files import FileStore
from comfy_remote.gateway.journal import Journal
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.gateway.upload_routes import upload_routes

TOKEN, WORKERS = SecretStr("a-token-for-clients"), SecretStr("a-key-for-workers")
CONTENT = b"some content " * 100_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LIMITS = GatewayLimits(
    free_bytes=0, file_bytes=3 * 2**20, store_bytes=4 * 2**20, upload_retention=60, body_pause=0.3
)


class Store:
    """A gateway's files, its journal, and its routes for uploads."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.journal = Journal(folder, monotonic=lambda: self.now)
        self.journal.open()
        self.files = FileStore(folder / "files", LIMITS, self.journal)
        self.files.open()

    def server(self) -> TestServer:
        access = Access(endpoint_id="ep", client_token=TOKEN, worker_token=WORKERS, limits=LIMITS)
        app = web.Application(middlewares=[refusals])
        app.router.add_routes(upload_routes(self.files, access, LIMITS))
        return TestServer(app)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    made = Store(tmp_path)
    yield made
    await made.journal.close()


@pytest.fixture
async def client(store: Store) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}
    async with (
        store.server() as server,
        aiohttp.ClientSession(server.make_url("/v2/ep/"), headers=headers) as session,
    ):
        yield session


async def head(client: aiohttp.ClientSession, sha256: str = SHA256, size: object = 1) -> int:
    async with client.head(f"files/{sha256}?size={size}") as answer:
        return answer.status


async def put(client: aiohttp.ClientSession, content: bytes, sha256: str = SHA256) -> int:
    async with client.put(f"files/{sha256}", data=content) as answer:
        if answer.status == 201:
            assert await answer.json() == {"size": len(content)}
        return answer.status


async def test_a_file_that_is_sent_is_there_whole(
    store: Store, client: aiohttp.ClientSession
) -> None:
    assert await head(client) == 404
    assert await put(client, CONTENT) == 201
    assert await head(client) == 200
    assert store.files.path(SHA256).read_bytes() == CONTENT
    assert await put(client, CONTENT) == 201  # twice is once
    assert store.files.used < len(CONTENT) + 4096


async def test_a_file_stays_for_an_hour_after_somebody_asked_for_it(
    store: Store, client: aiohttp.ClientSession
) -> None:
    await put(client, CONTENT)
    store.now = 59.0
    assert await head(client) == 200
    store.now = 118.0
    await store.files.look_after()
    assert store.files.path(SHA256).is_file()
    store.now = 120.0
    await store.files.look_after()
    assert await head(client) == 404


@pytest.mark.parametrize(
    ("size", "status"),
    [(3 * 2**20 + 1, 413), (3 * 2**20, 429), (2**62, 413), ("x", 400), (-1, 400)],
)
async def test_what_would_not_be_taken_is_refused_before_it_is_sent(
    client: aiohttp.ClientSession, size: object, status: int
) -> None:
    other = b"." * (2 * 2**20)
    assert await put(client, other, hashlib.sha256(other).hexdigest()) == 201
    assert await head(client, size=size) == status


async def test_a_full_store_says_when_to_ask_again(client: aiohttp.ClientSession) -> None:
    other = b"." * (3 * 2**20)
    assert await put(client, other, hashlib.sha256(other).hexdigest()) == 201
    async with client.put(f"files/{SHA256}", data=CONTENT) as answer:
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) > 0
        assert (await answer.json())["comfy_remote"]["code"] == "rate_limited"


@pytest.mark.parametrize(
    ("content", "sha256", "status"),
    [
        (CONTENT, "0" * 64, 400),
        (b"", SHA256, 400),
        (CONTENT * 3, SHA256, 413),
        (CONTENT, "..", 404),
        (CONTENT, SHA256.upper(), 404),
        (CONTENT, "é" * 64, 404),
    ],
)
async def test_nothing_is_left_of_what_is_refused(
    store: Store, client: aiohttp.ClientSession, content: bytes, sha256: str, status: int
) -> None:
    assert await put(client, content, sha256) == status
    assert store.files.used == 0
    left = [path for path in store.files.folder.rglob("*") if path.is_file()]
    assert left == []


async def test_a_body_of_unknown_length_is_counted_as_it_comes(
    store: Store, client: aiohttp.ClientSession
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(2**18)

    try:
        async with client.put(f"files/{SHA256}", data=endless()) as answer:
            assert answer.status == 413
    except aiohttp.ClientError:
        pass  # it is cut off while it still sends
    assert store.files.used == 0


async def test_an_upload_that_stalls_or_is_cut_leaves_nothing(
    store: Store, client: aiohttp.ClientSession
) -> None:
    async def stalls() -> AsyncIterator[bytes]:
        yield CONTENT[:1000]
        await asyncio.Event().wait()

    headers = {"Content-Length": str(len(CONTENT))}
    async with client.put(f"files/{SHA256}", data=stalls(), headers=headers) as answer:
        assert answer.status == 400
    task = asyncio.ensure_future(client.put(f"files/{SHA256}", data=stalls(), headers=headers))
    files = store.files.folder
    await until(lambda: task.done() or any(path.is_file() for path in files.rglob("*")))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until(lambda: store.files.used == 0)
    assert [path for path in store.files.folder.rglob("*") if path.is_file()] == []
    assert await put(client, CONTENT) == 201


async def test_few_files_arrive_at_a_time_and_the_others_wait(tmp_path: Path) -> None:
    most = running = 0

    async def slowly(number: int) -> AsyncIterator[bytes]:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        yield b"%d" % number
        running -= 1

    limits = replace(LIMITS, files_at_a_time=3)
    journal = Journal(tmp_path)
    journal.open()
    files = FileStore(tmp_path / "files", limits, journal)
    files.open()
    names = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(8)]
    sizes = await asyncio.gather(
        *(files.receive(name, slowly(number)) for number, name in enumerate(names))
    )
    assert sizes == [1] * 8
    assert most == 3
    await journal.close()


async def test_clients_on_a_slow_line_hold_up_no_output(
    store: Store, client: aiohttp.ClientSession
) -> None:
    end = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"x" * 20_000
        await end.wait()

    sending = [
        asyncio.create_task(client.put(f"files/{number:064x}", data=slowly()))
        for number in range(LIMITS.files_at_a_time + 4)
    ]
    arriving = store.files.folder / "arriving"
    await until(lambda: len([*arriving.iterdir()]) >= LIMITS.files_at_a_time * 3 // 4)

    async def output() -> AsyncIterator[bytes]:
        yield CONTENT

    assert await asyncio.wait_for(store.files.receive(SHA256, output()), 60) == len(CONTENT)
    end.set()
    for answer in await asyncio.gather(*sending):
        answer.release()


async def test_only_clients_may_send_files(client: aiohttp.ClientSession) -> None:
    for headers, status in (
        ({"Authorization": WORKERS.get_secret_value()}, 401),
        ({"Authorization": ""}, 401),
        ({"Origin": "https://evil.example"}, 403),
    ):
        async with client.put(f"files/{SHA256}", data=CONTENT, headers=headers) as answer:
            assert answer.status == status
        async with client.head(f"files/{SHA256}", headers=headers) as answer:
            assert answer.status == status
