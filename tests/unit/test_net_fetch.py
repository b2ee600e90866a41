"""The client for addresses of somebody else: each hop is checked, and nothing has no end."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp.resolver import ThreadedResolver
from scripted_server import Answer, ScriptedServer
from virtual_time import in_virtual_time

from comfy_remote.errors import TargetError
from comfy_remote.net.fetch import GuardedHttp, TooLarge, arriving
from comfy_remote.net.guard import Guard
from comfy_remote.net.throughput import Throughput, TooSlow

WHAT = "The address of a.png"


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as made:
        yield made


def named(*servers: ScriptedServer) -> Guard:
    return Guard(frozenset(f"127.0.0.1:{one.port}" for one in servers), advice="Name it.")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_checked_like_the_first_address(
    server: ScriptedServer, status: int
) -> None:
    async with ScriptedServer() as inside:
        for target in (
            f"{inside.url}/x?token=planted",
            f"https://127.1:{inside.port}/x",
            f"//localhost.:{inside.port}/x",
            "file:///etc/passwd",
            "http://x:y/",
            "https://user:planted@example.com/",
        ):
            server.on("GET /a", Answer(None, status, {"Location": target}))
            async with GuardedHttp(named(server)) as http:
                with pytest.raises(TargetError, match=WHAT) as caught:
                    async with http.request("GET", f"{server.url}/a", what=WHAT, redirects=3):
                        pass
            assert "planted" not in str(caught.value)
        assert inside.asked == []


async def test_a_login_stays_at_its_origin_and_cookies_nowhere(server: ScriptedServer) -> None:
    async with ScriptedServer() as storage:
        away = {"Location": f"{storage.url}/b", "Set-Cookie": "c=planted"}
        server.on("GET /a", Answer(None, 302, {"Location": "/there"}))
        server.on("GET /there", Answer(None, 302, away))
        storage.on("GET /b", Answer(b"content"))
        async with (
            GuardedHttp(named(server, storage)) as http,
            http.request(
                "GET",
                f"{server.url}/a",
                what=WHAT,
                headers={"Range": "bytes=0-"},
                login={"Authorization": "planted"},
                redirects=2,
            ) as answer,
        ):
            assert await answer.response.read() == b"content"
            assert len(answer.way) == 3
        assert [a.headers.get("Authorization") for a in server.asked] == ["planted", "planted"]
        assert "planted" not in str(storage.asked[0].headers)
        assert storage.asked[0].headers["Range"] == "bytes=0-"


async def test_redirects_have_an_end_or_are_not_followed(server: ScriptedServer) -> None:
    server.on("GET /a", Answer(None, 302, {"Location": "/a"}))
    async with GuardedHttp(named(server)) as http:
        with pytest.raises(TargetError, match="more than 3 times"):
            async with http.request("GET", f"{server.url}/a", what=WHAT, redirects=3):
                pass
        assert server.count("GET /a") == 4
        async with http.request("GET", f"{server.url}/a", what=WHAT) as answer:
            assert answer.response.status == 302


async def test_a_name_that_resolves_differently_the_second_time_gains_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(["93.184.216.34", "127.0.0.1"])

    async def resolve(self: object, host: str, port: int = 0, family: int = 0) -> list[object]:
        one = {"hostname": host, "host": next(answers), "port": port}
        return [{**one, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr(ThreadedResolver, "resolve", resolve)
    connected: list[str] = []

    async def connect(_socket: object, address: tuple[str, int]) -> None:
        connected.append(address[0])
        raise OSError("not connected in this test")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", connect)
    url = "https://rebound.example/x"
    for kind in (aiohttp.ClientError, TargetError):
        async with GuardedHttp(Guard()) as http:
            with pytest.raises(kind):
                async with http.request("GET", url, what=WHAT):
                    pass
    # The first answer was public, and only that one was connected to.
    assert connected == ["93.184.216.34"]


async def test_a_proxy_is_not_asked_for_what_is_private_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    resolve = socket.getaddrinfo

    def resolved(host: str, *rest: Any, **options: Any) -> Any:
        if host == "unknown.example":
            raise OSError("no such name here")
        return resolve("10.0.0.1" if host.endswith(".example") else host, *rest, **options)

    listening = await asyncio.start_server(proxy, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    monkeypatch.setenv("https_proxy", address)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    async with listening, GuardedHttp(Guard()) as http:
        with pytest.raises(TargetError, match="private network"):
            async with http.request("GET", "https://intern.example/x", what=WHAT):
                pass
        assert asked == []
        # What nobody here can resolve, the proxy may know.
        with pytest.raises(aiohttp.ClientError):
            async with http.request("GET", "https://unknown.example/x", what=WHAT):
                pass
    assert asked == [b"CONNECT unknown.example:443 HTTP/1.1\r\n"]


async def test_headers_that_drip_have_an_end() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    begun = time.monotonic()
    async with GuardedHttp(Guard(frozenset({"127.0.0.1"})), patience=0.3) as http:
        with pytest.raises(asyncio.TimeoutError):
            async with http.request("GET", f"http://127.0.0.1:{port}/x", what=WHAT):
                pass
    server.close()
    assert time.monotonic() - begun < 30.0


@in_virtual_time
async def test_bytes_have_to_come_and_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    async def chunks(count: int, wait: float) -> AsyncIterator[bytes]:
        for _ in range(count):
            await asyncio.sleep(wait)
            yield b"x" * 100

    assert [len(c) async for c in arriving(chunks(3, 0), largest=300)] == [100] * 3
    with pytest.raises(TooLarge):
        async for _ in arriving(chunks(4, 0), largest=300):
            pass
    with pytest.raises(TooSlow):
        async for _ in arriving(chunks(100, 0.02), throughput=Throughput(size=1000, seconds=0.05)):
            pass


@in_virtual_time
async def test_a_transfer_that_began_fast_may_not_drip() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x" * 1_000_000
        for _ in range(100):
            await asyncio.sleep(0.01)
            yield b"x"

    size = 0
    with pytest.raises(TooSlow):
        async for chunk in Throughput(size=1000, seconds=0.1).watched(chunks()):
            size += len(chunk)
    assert 1_000_000 < size < 1_000_050


@in_virtual_time
async def test_the_time_of_who_reads_does_not_count() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x"

    read = 0
    async for _ in Throughput(size=1000, seconds=0.02).watched(chunks()):
        await asyncio.sleep(0.03)
        read += 1
    assert read == 3
