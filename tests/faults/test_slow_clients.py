"""Clients that hold a connection for nothing, and pages of other sites: gateway and service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from helpers import until
from pydantic import SecretStr

from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.net.serving import ConnectionLimits, GuardedRunner

MIB = 1024 * 1024


SHORT = ConnectionLimits(before_a_request=0.3, between_requests=0.5, without_reading=0.5)


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayServer]:
    limits = GatewayLimits(connections=SHORT, body_pause=0.3)
    async with GatewayServer(endpoint_id="desk", limits=limits) as server:
        yield server


def few(connections: int) -> GatewayLimits:
    return GatewayLimits(connections=ConnectionLimits(connections=connections))


def port_of(gateway: GatewayServer) -> int:
    return int(gateway.url.split(":")[2].split("/")[0])


async def connect(
    port: int, head: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    return reader, writer


async def closed(reader: asyncio.StreamReader) -> bytes:
    """What came until the connection ended; an error if it does not end."""
    try:
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET /v2/desk/health HTTP/1.1\r\nHost: localhost\r\n",
        b"\r\n\r\n\r\n",
        b"GET /v2/desk/health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v2/desk/hea",
    ],
)
async def test_half_open_connections_end(gateway: GatewayServer, head: bytes) -> None:
    reader, writer = await connect(port_of(gateway), head)
    await closed(reader)
    writer.close()


async def test_a_request_that_came_while_the_server_stood_still_is_answered() -> None:
    limits = GatewayLimits(connections=ConnectionLimits(before_a_request=1.5))
    async with GatewayServer(endpoint_id="desk", limits=limits) as gateway:
        reader, writer = await connect(port_of(gateway))
        await until(lambda: gateway.connections)  # accepted: its time has begun
        writer.write(b"GET /v2/desk/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(2.0)  # the loop stands still, as when the machine sleeps
        assert b"200" in await asyncio.wait_for(reader.readline(), 60)
        writer.close()


async def test_a_head_that_drips_ends(gateway: GatewayServer) -> None:
    reader, writer = await connect(port_of(gateway), b"GET /v2/desk/health HTTP/1.1\r\n")

    async def drip() -> None:
        while True:
            writer.write(b"X-A: b\r\n")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    await closed(reader)
    dripping.cancel()
    writer.close()


async def test_a_body_that_does_not_come_is_refused(gateway: GatewayServer) -> None:
    head = b"POST /v2/desk/run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
    reader, writer = await connect(port_of(gateway), head)
    answer = await asyncio.wait_for(reader.readuntil(b"}}"), 60)
    assert b"400" in answer.splitlines()[0]
    assert b"too slowly" in answer
    writer.close()


async def test_a_body_that_drips_is_refused(gateway: GatewayServer) -> None:
    head = b"POST /v2/desk/run HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
    reader, writer = await connect(port_of(gateway), head)

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    assert b"too slowly" in await asyncio.wait_for(reader.readuntil(b"}}"), 60)
    dripping.cancel()
    writer.close()


async def test_an_answer_that_nobody_reads_ends() -> None:
    async def large(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * (32 * MIB))

    app = web.Application()
    app.router.add_get("/", large)
    runner = GuardedRunner(app, limits=SHORT)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readline()
    await until(lambda: not runner.connections)
    writer.close()
    await runner.cleanup()


async def test_a_slow_client_gets_a_large_answer_whole() -> None:
    async def large(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * (24 * MIB))

    app = web.Application()
    app.router.add_get("/", large)
    runner = GuardedRunner(app, limits=ConnectionLimits(without_reading=2.0))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    size = 0
    while chunk := await reader.read(MIB):
        size += len(chunk)
        if size % (2 * MIB) < len(chunk):
            await asyncio.sleep(0.2)  # longer in all than an answer may stand still
    assert size > 24 * MIB
    writer.close()
    await runner.cleanup()


async def test_half_open_connections_do_not_keep_others_out() -> None:
    async with GatewayServer(endpoint_id="desk", limits=few(20)) as gateway:
        opened = [await connect(port_of(gateway), b"GET /") for _ in range(60)]
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{gateway.endpoint_url}/health") as answer,
        ):
            assert answer.status == 200
        assert gateway.connections <= 20
        for _, writer in opened:
            writer.close()


@pytest.mark.parametrize(
    "path", ["GET /v2/desk/health", "GET /v2/desk/job-take/x", "POST /v2/desk/workers/x/take"]
)
async def test_strangers_who_are_refused_do_not_keep_others_out(path: str) -> None:
    """Also not while those who guess a worker's token wait for the answer."""
    token = SecretStr("a-token-for-the-gateway")
    async with GatewayServer(endpoint_id="desk", limits=few(20), token=token) as gateway:
        asked = f"{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        opened = [await connect(port_of(gateway), asked) for _ in range(60)]
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                f"{gateway.endpoint_url}/health",
                headers={"Authorization": f"Bearer {token.get_secret_value()}"},
            ) as answer,
        ):
            assert answer.status == 200
        assert gateway.connections <= 20
        for _, writer in opened:
            writer.close()


async def test_a_running_request_is_not_pushed_out_by_others() -> None:
    async with (
        GatewayServer(endpoint_id="desk", limits=few(5)) as gateway,
        aiohttp.ClientSession() as session,
    ):
        waiting = asyncio.create_task(
            session.post(f"{gateway.endpoint_url}/runsync?wait=1000", json={"input": 1})
        )
        await until(lambda: gateway.queue.line)
        opened = [await connect(port_of(gateway)) for _ in range(30)]
        async with await waiting as answer:
            assert (await answer.json())["status"] == "IN_QUEUE"
        for _, writer in opened:
            writer.close()


GATEWAY_ROUTES = (
    ("POST", "run"),
    ("POST", "runsync"),
    ("POST", "cancel/x"),
    ("POST", "retry/x"),
    ("POST", "purge-queue"),
    ("POST", "status/x"),
    ("POST", "stream/x"),
    ("GET", "stream/x"),
    ("GET", "status/x"),
    ("GET", "health"),
)


@pytest.mark.parametrize(("method", "path"), GATEWAY_ROUTES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example", "Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
)
async def test_pages_of_other_sites_reach_no_route_of_the_gateway(
    method: str, path: str, headers: dict[str, str]
) -> None:
    async with (
        GatewayServer(endpoint_id="desk") as gateway,
        aiohttp.ClientSession() as session,
        session.request(
            method, f"{gateway.endpoint_url}/{path}", headers=headers, json={"input": 1}
        ) as answer,
    ):
        assert answer.status == 403
        assert not gateway.queue.health().jobs.in_queue
