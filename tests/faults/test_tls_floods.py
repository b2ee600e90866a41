"""Connections to an https gateway that say nothing, or no TLS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest
from helpers import until
from pydantic import SecretStr

from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.net.serving import ConnectionLimits

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no openssl to make certificates"
)
TOKEN = SecretStr("a-token-for-the-gateway")
LIMITS = GatewayLimits(
    connections=ConnectionLimits(before_a_request=3.0, connections=20), free_bytes=0
)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost "
        "-addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), check=True, capture_output=True, cwd=tmp_path)
    return tmp_path / "cert.pem"


def https_gateway(certificate: Path) -> GatewayServer:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    return GatewayServer(ssl_context=context, token=TOKEN, limits=LIMITS)


def client(certificate: Path) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(certificate))),
        headers={"Authorization": f"Bearer {TOKEN.get_secret_value()}"},
        timeout=aiohttp.ClientTimeout(total=60),
    )


def port_of(gateway: GatewayServer) -> int:
    return int(gateway.url.split(":")[2].split("/")[0])


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01\x00"])
async def test_handshakes_without_an_end_keep_nobody_out(certificate: Path, said: bytes) -> None:
    async with https_gateway(certificate) as gateway, client(certificate) as session:
        opened = [await asyncio.open_connection("127.0.0.1", port_of(gateway)) for _ in range(60)]
        for _, writer in opened:
            writer.write(said)
        await until(lambda: gateway.connections == 20)
        for _ in range(3):
            async with session.get(f"{gateway.endpoint_url}/health") as answer:
                assert answer.status == 200
        assert gateway.connections <= 20
        await until(lambda: gateway.connections <= 1)  # the client's own
        for _, writer in opened:
            writer.close()


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 1000, b"\x16\x03"]
)
async def test_what_is_no_tls_is_closed(certificate: Path, said: bytes) -> None:
    async with https_gateway(certificate) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(gateway))
        writer.write(said)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 60)
        await until(lambda: not gateway.connections)
        writer.close()


async def test_large_contents_go_both_ways_over_https(certificate: Path) -> None:
    content = b"0123456789" * 500_000
    sha256 = hashlib.sha256(content).hexdigest()
    async with https_gateway(certificate) as gateway, client(certificate) as session:
        url = gateway.endpoint_url
        async with session.put(f"{url}/files/{sha256}", data=content) as answer:
            assert answer.status == 201
        given = {"input": {"files": [{"name": "a", "sha256": sha256}]}}
        async with session.post(f"{url}/run", json=given) as answer:
            job = (await answer.json())["id"]
        async with session.get(f"{url}/files/{job}/{sha256}") as answer:
            assert await answer.read() == content


async def test_a_request_that_comes_with_the_end_of_the_handshake(certificate: Path) -> None:
    async with https_gateway(certificate) as gateway:
        context = ssl.create_default_context(cafile=str(certificate))
        for _ in range(20):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port_of(gateway), ssl=context
            )
            writer.write(b"GET /v2/local/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await asyncio.wait_for(reader.readline(), 60)).split()[1] == b"401"
            writer.close()


async def test_a_gateway_ends_while_a_handshake_goes_on(certificate: Path) -> None:
    async with https_gateway(certificate) as gateway:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(gateway))
        await until(lambda: gateway.connections == 1)
        begun = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - begun < 0.9  # not when the handshake's time is over
    writer.close()
