"""A gateway that its workers should not have trusted: what it can do to their machines."""

from __future__ import annotations

import gzip
import hashlib
import logging
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fake_head import TOKEN
from pydantic import SecretStr

from comfy_remote.errors import (
    ComfyRemoteError,
    ConfigurationError,
    LocalStorageError,
    TargetError,
    TargetUnreachable,
)
from comfy_remote.media.disk_space import DiskLimits
from comfy_remote.net.tls import trusting
from comfy_remote.wire.joined import Hello, Ping
from comfy_remote.worker.joined.client import Gateway
from comfy_remote.worker.joined.spool import Spool, SpoolLimits
from comfy_remote.worker.storage import GatewayStore

BOOT = f"{'a' * 32}.{'b' * 32}"
EVIL_IDS = ["../../x", "..", "a.b", "a/b", "a\\b", "C:x", "a\n", "a\x00", "x" * 65, "", "ä"]


def gateway_at(url: str, tls: ssl.SSLContext | None = None) -> Gateway:
    return Gateway(url, endpoint="local", worker="desk", token=SecretStr(TOKEN), boot=BOOT, tls=tls)


@asynccontextmanager
async def serving(handler: Any, tls: ssl.SSLContext | None = None) -> AsyncIterator[TestServer]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    server = TestServer(app, host="127.0.0.1", scheme="http" if tls is None else "https")
    await server.start_server(ssl=tls)
    try:
        yield server
    finally:
        await server.close()


@pytest.mark.parametrize("job", EVIL_IDS)
async def test_ids_that_are_paths_are_not_taken(job: str) -> None:
    held = [{"job": job, "attempt": 1, "state": "ended"}]

    async def evil(request: web.Request) -> web.Response:
        return web.json_response({"drop": held, "stop": held})

    async with serving(evil) as server, gateway_at(str(server.make_url("/"))) as gateway:
        for asked in (gateway.hello(Hello(boot=BOOT)), gateway.ping(Ping())):
            with pytest.raises(TargetError, match="cannot be understood"):
                await asked


@pytest.mark.parametrize(
    "job", ["../../x/1", "../1", "a/b/1", f"{'x' * 65}/1", "/1", "a/1e3", "a/-1"]
)
async def test_jobs_that_are_paths_are_not_taken(job: str) -> None:
    async def evil(request: web.Request) -> web.Response:
        return web.Response(body=b"1", headers={"Comfy-Remote-Job": job})

    async with serving(evil) as server, gateway_at(str(server.make_url("/"))) as gateway:
        with pytest.raises(TargetError, match="a job without an id"):
            await gateway.take(Ping())


@pytest.mark.parametrize("job", EVIL_IDS)
def test_the_folder_of_results_has_no_way_out(tmp_path: Path, job: str) -> None:
    (tmp_path / "x").mkdir()
    spool = Spool(tmp_path / "spool" / "desk", SpoolLimits(free=0))
    spool.open(TOKEN)
    try:
        for use in (
            lambda: spool.add("desk", job, 1, b"{}"),
            lambda: spool.remove("desk", job, 1),
            lambda: spool.files("desk", job, 1),
        ):
            with pytest.raises(LocalStorageError, match="cannot be the name of a result"):
                use()
    finally:
        spool.close()
    assert (tmp_path / "x").is_dir()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_does_not_lead_the_token_elsewhere(tmp_path: Path, status: int) -> None:
    reached: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        reached.append(request.headers.get("Authorization", ""))
        return web.json_response({})

    (file := tmp_path / hashlib.sha256(b"x").hexdigest()).write_bytes(b"x")
    async with serving(elsewhere) as other:

        async def away(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(status=status, headers={"Location": str(other.make_url("/"))})

        async with serving(away) as server, gateway_at(str(server.make_url("/"))) as gateway:
            for asked in (
                gateway.hello(Hello(boot=BOOT)),
                gateway.take(Ping()),
                gateway.deliver("a", 1, b"{}"),
                gateway.deliver_file("a", 1, file),
                gateway.inputs().fetch("a", "0" * 64, tmp_path / "input"),
            ):
                with pytest.raises(ComfyRemoteError):
                    await asked
    assert reached == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates")
async def test_another_certificate_gets_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("own", "other"):
        certificate = f"-keyout {name}.key -out {name}.pem -addext subjectAltName=IP:127.0.0.1"
        command = f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost {certificate}"
        subprocess.run(command.split(), check=True, capture_output=True, cwd=tmp_path)
    reached: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        reached.append(request.headers["Authorization"])
        return web.json_response({})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "own.pem", tmp_path / "own.key")
    async with serving(answer, context) as server:
        url = f"https://127.0.0.1:{server.port}"
        for tls in (None, trusting(tmp_path / "other.pem")):
            async with gateway_at(url, tls) as gateway:
                with pytest.raises(TargetUnreachable, match="certificate"):
                    await gateway.hello(Hello(boot=BOOT))
        assert reached == []
        for name in ("HOME", "USERPROFILE"):
            monkeypatch.setenv(name, str(tmp_path))
        async with gateway_at(url, trusting("~/own.pem")) as gateway:
            await gateway.hello(Hello(boot=BOOT))
        assert reached == [f"Bearer {TOKEN}"]


@pytest.mark.parametrize("url", ["http://192.168.1.20:8000", "http://head.example", "ftp://head"])
def test_in_plain_http_no_token_is_sent(url: str) -> None:
    with pytest.raises(ConfigurationError):
        gateway_at(url)


async def test_a_small_answer_that_unpacks_to_a_large_one_is_not_unpacked() -> None:
    bomb = gzip.compress(b"0" * (300 * 2**20))

    async def packed(request: web.Request) -> web.Response:
        headers = {"Content-Encoding": "gzip", "Comfy-Remote-Job": "a/1"}
        return web.Response(body=bomb, headers=headers)

    async with serving(packed) as server, gateway_at(str(server.make_url("/"))) as gateway:
        for asked in (gateway.hello(Hello(boot=BOOT)), gateway.take(Ping())):
            with pytest.raises(TargetError):
                await asked


@pytest.fixture
async def endless() -> AsyncIterator[TestServer]:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"\0" * 2**20)

    async with serving(stream) as server:
        yield server


async def test_an_input_without_an_end_does_not_fill_the_disk(
    endless: TestServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, key, path = str(endless.make_url("/files")), SecretStr("k" * 20), tmp_path / "in" / "a"
    with pytest.raises(TargetError, match="more than the 5000000 bytes"):
        await GatewayStore(url, key, largest=5_000_000).fetch("a", "0" * 64, path)
    monkeypatch.setattr(DiskLimits, "of", classmethod(lambda cls: cls(free=2**60)))
    with pytest.raises(LocalStorageError, match="reserved"):
        await GatewayStore(url, key).fetch("a", "0" * 64, path)
    assert list(path.parent.iterdir()) == []


async def test_what_a_gateway_says_is_a_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    async def evil(request: web.Request) -> web.Response:
        words = f"\x1b[2Jno\n12:00:00 Job x has ended. {request.headers['Authorization']}"
        return web.json_response({"error": words}, status=404)

    async with serving(evil) as server, gateway_at(str(server.make_url("/"))) as gateway:
        with pytest.raises(ComfyRemoteError) as caught:
            await gateway.hello(Hello(boot=BOOT))
    assert "\x1b" not in str(caught.value)
    assert TOKEN not in f"{caught.value} {caplog.text}"
