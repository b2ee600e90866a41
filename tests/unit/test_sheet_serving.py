"""A sheet by HTTP: who may ask, what is served, and keeps that are written back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from sheet_kit import BatchFolder
from yarl import URL

from comfy_remote.batch.sheet import SheetServer, serve_sheet
from comfy_remote.errors import ConfigurationError


@pytest.fixture
def batch(tmp_path: Path) -> BatchFolder:
    batch = BatchFolder(tmp_path / "cats")
    batch.run_all()
    batch.add(
        batch.line(
            3,
            outputs=[
                batch.output("0003/film.mp4", bytes(range(200)), kind="video"),
                batch.output("0003/evil.svg", b"<svg onload='alert(1)'/>"),
                batch.output("0003/evil.html", b"<script>alert(1)</script>", kind="file"),
                batch.output("0003/100% #1.png"),
            ],
        )
    )
    return batch


@pytest.fixture
async def server(batch: BatchFolder) -> AsyncIterator[SheetServer]:
    server = SheetServer(batch.path)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def session(server: SheetServer) -> AsyncIterator[aiohttp.ClientSession]:
    """Asks below the address with the token."""
    async with aiohttp.ClientSession(base_url=str(URL(server.url).parent) + "/") as session:
        yield session


async def test_it_listens_on_this_machine_only(server: SheetServer, batch: BatchFolder) -> None:
    url = URL(server.url)
    assert url.host == "127.0.0.1"
    assert len(url.parts[1]) >= 32
    other = SheetServer(batch.path)
    assert URL(other.url).parts[1] != url.parts[1]


async def test_the_page(session: aiohttp.ClientSession) -> None:
    async with session.get("sheet.html") as answer:
        page = await answer.text()
        assert answer.status == 200
        policy = answer.headers["Content-Security-Policy"]
    assert '"served":true' in page
    assert "data-file=" not in page
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert policy.endswith("frame-ancestors 'none'")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_another_page_is_refused(
    session: aiohttp.ClientSession, headers: dict[str, str], batch: BatchFolder
) -> None:
    for method, path in (("GET", "sheet.html"), ("GET", "data.json"), ("PUT", "keeps.json")):
        async with session.request(method, path, headers=headers, data=b"{}") as answer:
            assert answer.status == 403
    assert not (batch.path / "keeps.json").exists()


@pytest.mark.parametrize("token", ["", "x", "é" * 32, "A" * 32])
async def test_without_the_token_there_is_nothing(server: SheetServer, token: str) -> None:
    url = URL(server.url)
    async with (
        aiohttp.ClientSession() as session,
        session.get(url.with_path(f"/{token}/sheet.html")) as answer,
    ):
        assert answer.status == 403
        assert "cats" not in await answer.text()


async def test_only_what_the_manifest_names_is_served(
    session: aiohttp.ClientSession, batch: BatchFolder, tmp_path: Path
) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (batch.path / "other.png").write_bytes(b"other")
    (batch.path / "0000" / "p.png").unlink()
    (batch.path / "0000" / "p.png").symlink_to(tmp_path / "secret.png")
    there = ["0001/px.png", "0003/film.mp4", "0003/100%25%20%231.png"]
    gone = ["other.png", "batch.json", "manifest.jsonl", "0000/p.png", "0001"]
    gone += ["%2e%2e%2fsecret.png", "0001%2f..%2fother.png", "thumbnails"]
    for path in there + gone:
        async with session.get(URL(path, encoded=True)) as answer:
            assert answer.status == (200 if path in there else 404), path


async def test_thumbnails_are_served(session: aiohttp.ClientSession, batch: BatchFolder) -> None:
    async with session.get("data.json") as answer:
        data = await answer.json()
    small = data["runs"][0]["outputs"][0]["thumbnail"]
    async with session.get(small) as answer:
        assert answer.headers["Content-Type"] == "image/webp"
        assert await answer.read() == (batch.path / small).read_bytes()


async def test_a_video_is_sent_in_parts(session: aiohttp.ClientSession, batch: BatchFolder) -> None:
    (batch.path / "0003" / "film.mp4.gz").write_bytes(b"another file")
    headers = {"Range": "bytes=10-19", "Accept-Encoding": "gzip, br"}
    async with session.get("0003/film.mp4", headers=headers) as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == "bytes 10-19/200"
        assert await answer.read() == bytes(range(10, 20))
    async with session.get("0003/film.mp4", headers={"Accept-Encoding": "gzip"}) as answer:
        assert await answer.read() == bytes(range(200))
    async with session.get("0003/film.mp4", headers={"Range": "bytes=500-"}) as answer:
        assert answer.status == 416


async def test_what_would_run_is_not_opened_as_a_page(session: aiohttp.ClientSession) -> None:
    for path in ("0003/evil.svg", "0003/evil.html"):
        async with session.get(path) as answer:
            assert answer.headers["Content-Disposition"].startswith("attachment")
            assert "sandbox" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Type"] in ("image/svg+xml", "application/octet-stream")


async def test_what_comes_is_shown(session: aiohttp.ClientSession, batch: BatchFolder) -> None:
    async with session.get("data.json") as answer:
        mark = answer.headers["ETag"]
    async with session.get("data.json", headers={"If-None-Match": mark}) as answer:
        assert answer.status == 304
    batch.add(batch.line(4, outputs=[batch.output("0004/new.png")]))
    async with session.get("data.json", headers={"If-None-Match": mark}) as answer:
        assert answer.status == 200
        assert len((await answer.json())["runs"]) == 5
    async with session.get("0004/new.png") as answer:
        assert answer.status == 200


async def test_keeps_are_written(session: aiohttp.ClientSession, batch: BatchFolder) -> None:
    async with session.get("keeps.json") as answer:
        assert await answer.json() == {"version": 1, "keep": [], "reject": []}
    keeps = {"version": 1, "keep": [2], "reject": [0, 1]}
    async with session.put("keeps.json", json=keeps) as answer:
        assert answer.status == 204
    assert json.loads((batch.path / "keeps.json").read_text()) == keeps
    for bad in ({"keep": "all"}, [], {"version": 1, "keep": [1], "reject": [1]}):
        async with session.put("keeps.json", json=bad) as answer:
            assert answer.status == 400
    async with session.put("keeps.json", data=b"x" * (17 * 1024 * 1024)) as answer:
        assert answer.status == 413
    async with session.get("keeps.json") as answer:
        assert await answer.json() == keeps
    assert json.loads((batch.path / "keeps.json").read_text()) == keeps


async def test_it_ends_when_it_is_cancelled(batch: BatchFolder) -> None:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(serve_sheet(batch.path, ready=ready.set_result))
    url = URL(await ready)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    with socket.socket() as again, pytest.raises(ConnectionRefusedError):
        again.connect((url.host, url.port))


async def test_a_port_that_is_taken_is_said(server: SheetServer, batch: BatchFolder) -> None:
    port = URL(server.url).port
    assert port is not None
    with pytest.raises(ConfigurationError, match=f"port {port}"):
        await SheetServer(batch.path, port).start()
