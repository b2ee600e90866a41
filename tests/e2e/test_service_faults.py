"""What a service does with hostile requests. Each test is a row of docs/reliability.md."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest
from service_kit import Service
from yarl import URL

from comfy_remote.media.values import encode


@pytest.fixture
def service(tmp_path: Path, sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    return Service(tmp_path, sandbox_url)


async def refused(url: str, **request: object) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, **request) as answer,  # type: ignore[arg-type]
    ):
        return answer.status, str((await answer.json())["error"])


async def test_a_service_takes_one_value_a_key(service: Service) -> None:
    async with service.running() as server:
        form = aiohttp.FormData()
        for _ in range(120):
            form.add_field("words", "again", content_type="text/plain")
        status, error = await refused(server.url, data=form)
        assert status == 400
        assert "two parts named words" in error


@pytest.mark.parametrize(
    ("said", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b"no form"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n--x--"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A" * 100_000 + b": b\r\n\r\n--x--"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="words"'),
        (f"multipart/form-data; boundary={'x' * 200}", b"x"),
    ],
)
async def test_a_form_that_is_none_is_the_callers_mistake(
    service: Service, said: str, body: bytes
) -> None:
    async with service.running() as server:
        status, error = await refused(server.url, data=body, headers={"Content-Type": said})
    assert (status, "Traceback" in error) == (400, False)


async def test_a_service_takes_no_picture_that_stands_for_many(service: Service) -> None:
    frames = np.zeros((2, 64, 64, 3), np.float32)
    value = b"".join(encode(frames, "IMAGE", images="png").chunks())
    many = value.replace(b'"b0\\",\\"b1', b'"b0\\",\\"b0')
    async with service.running() as server, aiohttp.ClientSession() as session:
        sha256 = hashlib.sha256(many).hexdigest()
        async with session.put(f"{server.url}values/{sha256}", data=many) as answer:
            assert answer.status == 200
        envelope = {"type": "IMAGE", "encoding": "safetensors", "sha256": sha256}
        status, error = await refused(server.url, json={"inputs": {"image": envelope}})
        assert status == 400
        assert "is in it twice" in error


async def test_a_service_parses_no_json_of_too_many_values(service: Service) -> None:
    body = b'{"inputs":{"words":[' + b"[],[]," * 1_000_000 + b"1]}}"
    async with service.running() as server:
        status, error = await refused(server.url, data=body)
        assert status == 413
        assert "1000000 values" in error


@pytest.mark.parametrize("query", ["wait=1e400", "wait=nan", f"wait={'9' * 5000}", "wait=x"])
async def test_a_service_refuses_times_that_are_none(service: Service, query: str) -> None:
    async with service.running() as server:
        status, error = await refused(f"{server.url}?{query}", json={"inputs": {}})
        assert status == 400
        assert "not a number of seconds" in error


async def test_a_service_refuses_indices_that_are_none(service: Service) -> None:
    image = encode(np.zeros((1, 8, 8, 3), np.float32), "IMAGE")
    data = base64.b64encode(b"".join(image.chunks())).decode()
    call = {"image": {"type": "IMAGE", "encoding": "safetensors", "data": data}}
    async with service.running() as server, aiohttp.ClientSession() as session:
        async with session.post(f"{server.url}?wait=30", json={"inputs": call}) as answer:
            call_id = (await answer.json())["id"]
        where = f"{server.url}calls/{call_id}/results/picture"
        for index in ("9" * 20, "-1", "²", "0000000000000000000001", "x"):
            async with session.get(where, params={"encoding": "file", "index": index}) as answer:
                assert answer.status == 400, index
                assert "index" in (await answer.json())["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", ""), ("GET", "openapi.json"), ("DELETE", "calls/x"), ("PUT", f"values/{'0' * 64}")],
)
@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}]
)
async def test_pages_of_other_sites_reach_no_route_of_a_service(
    service: Service, method: str, path: str, headers: dict[str, str]
) -> None:
    async with (
        service.running() as server,
        aiohttp.ClientSession() as session,
        session.request(method, server.url + path, headers=headers, json={}) as answer,
    ):
        assert answer.status == 403


async def test_a_full_service_takes_no_calls_and_no_files_but_keeps_its_promises(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = encode(np.zeros((1, 8, 8, 3), np.float32), "IMAGE")
    content = b"".join(image.chunks())
    other = b"".join(encode(np.ones((1, 8, 8, 3), np.float32), "IMAGE").chunks())
    envelope = {"type": "IMAGE", "encoding": "safetensors", "sha256": ""}
    body = {"inputs": {"image": envelope}}
    headers = {"Idempotency-Key": "once"}
    async with service.running() as server, aiohttp.ClientSession() as session:
        sha256 = hashlib.sha256(content).hexdigest()
        async with session.put(f"{server.url}values/{sha256}", data=content) as answer:
            assert answer.status == 200
        envelope["sha256"] = sha256
        async with session.post(f"{server.url}?wait=30", json=body, headers=headers) as answer:
            call = await answer.json()
            assert call["status"] == "completed"
        free = SimpleNamespace(total=0, used=0, free=512 * 1024**2)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
        async with session.post(server.url, json=body) as answer:
            assert answer.status == 429
            assert int(answer.headers["Retry-After"]) > 0
        where = f"{server.url}values/{hashlib.sha256(other).hexdigest()}"
        async with session.put(where, data=other) as answer:
            assert answer.status == 429
        # What is there stays, and a known key is answered.
        async with session.head(f"{server.url}values/{sha256}") as answer:
            assert answer.status == 200
        async with session.get(f"{server.url}calls/{call['id']}") as answer:
            assert (await answer.json())["status"] == "completed"
        async with session.post(server.url, json=body, headers=headers) as answer:
            assert (await answer.json())["id"] == call["id"]


@pytest.mark.parametrize("key", ["\udcff", "x" * 300, "a\tb"])
async def test_a_service_refuses_keys_that_are_none(service: Service, key: str) -> None:
    async with service.running() as server, aiohttp.ClientSession() as session:
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(server.url).port)
        head = b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n"
        sent = key.encode("utf-8", "surrogateescape")
        writer.write(head + b"Idempotency-Key: " + sent + b"\r\n\r\n{}")
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        assert b" 400 " in answer.splitlines()[0]
        assert b"printable" in answer
        async with session.get(f"{server.url}calls/%FF") as other:
            assert other.status == 404
