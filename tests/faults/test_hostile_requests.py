"""Requests that no client makes: each is answered with words, and none with a traceback."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from comfy_remote.gateway import GatewayServer

TOKEN = "a-token-for-the-gateway"
DIGITS = "9" * 400


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayServer]:
    async with GatewayServer(endpoint_id="desk", token=SecretStr(TOKEN)) as server:
        yield server


async def ask(gateway: GatewayServer, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
    """Send a request as it is; the answer's status and body."""
    port = int(gateway.url.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        head
        + b"\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n" % len(body)
        + (b"" if b"Authorization" in head else f"Authorization: Bearer {TOKEN}\r\n".encode())
        + b"\r\n"
        + body
    )
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    first, _, rest = answer.partition(b"\r\n")
    return int(first.split()[1]), rest.partition(b"\r\n\r\n")[2]


PATHS = [
    b"status/%FF",
    b"status/%00",
    b"status/%ED%A0%80",
    b"status/\xff\xfe",
    b"status/" + b"x" * 5000,
    b"status/..%2F..%2Fetc%2Fpasswd",
    b"stream/%F0%9F%98%80",
    b"files/%FF/" + b"0" * 64,
    b"files/x/%FF",
    b"health?" + b"a=b&" * 500,
]


@pytest.mark.parametrize("path", PATHS)
async def test_paths_that_name_nothing(
    gateway: GatewayServer, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    status, body = await ask(gateway, b"GET /v2/desk/" + path + b" HTTP/1.1")
    assert status in (200, 400, 404, 410), body
    assert b"Traceback" not in body
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "query",
    [
        f"wait={DIGITS}",
        "wait=1e9",
        "wait=-1",
        "wait=NaN",
        "wait=%FF",
        "wait=",
        "wait=%C2%B2",
        "wait=+5",
    ],
)
async def test_a_wait_that_is_no_number(
    gateway: GatewayServer, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    head = f"POST /v2/desk/runsync?{query} HTTP/1.1".encode()
    status, body = await ask(gateway, head, b'{"input":1}')
    assert status == 400
    assert "whole number" in json.loads(body)["error"]
    assert not gateway.queue.health().jobs.in_queue
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


BODIES = [
    b"",
    b"null",
    b"[]",
    b"\xff\xfe",
    b'{"input":"\\ud800"}',
    b'{"input":1,"input":2',
    b'{"input":1,"policy":[]}',
    b'{"input":1,"policy":{"ttl":true}}',
    b'{"input":1,"policy":{"executionTimeout":' + DIGITS.encode() + b"}}",
    b'{"input":1,"policy":{"executionTimeout":1e999}}',
    b'{"input":1,"policy":{"executionTimeout":-0.5}}',
    b'{"input":1,"policy":{"ttl":"' + DIGITS.encode() + b'"}}',
    b'{"input":1,"webhook":"https://[::1"}',
    b'{"input":1,"webhook":"https://' + b"a" * 100_000 + b'"}',
    b'{"input":1,"s3Config":7}',
    b"[" * 50_000,
    b'{"a":' * 50_000,
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body[:30].decode("latin-1"))
@pytest.mark.parametrize("path", ["run", "runsync"])
async def test_bodies_that_are_no_submission(
    gateway: GatewayServer, path: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    status, answer = await ask(gateway, f"POST /v2/desk/{path} HTTP/1.1".encode(), body)
    assert status == 400, answer
    error = json.loads(answer)["error"]
    assert error
    assert len(error) < 2000, "what was sent is not sent back"
    assert not gateway.queue.health().jobs.in_queue
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("key", [b"\xff\xfe", b"", b"x" * 300, b"a\x01b", b"a\tb"])
async def test_keys_that_are_none(
    gateway: GatewayServer, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    head = b"POST /v2/desk/run HTTP/1.1\r\nIdempotency-Key: " + key
    status, _ = await ask(gateway, head, b'{"input":1}')
    assert status == 400
    assert not gateway.queue.health().jobs.in_queue
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "body", [b"\xff", b"[]", b'{"output":' + b"[" * 50_000, b'{"output":"\\ud800"}', b"{"]
)
async def test_results_that_are_none_fail_their_job(
    gateway: GatewayServer, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    status, answer = await ask(gateway, b"POST /v2/desk/run HTTP/1.1", b'{"input":1}')
    job_id = json.loads(answer)["id"]
    token = f"Authorization: {gateway.worker_token.get_secret_value()}".encode()
    await ask(gateway, b"GET /v2/desk/job-take/w?gpu=x HTTP/1.1\r\n" + token)
    head = f"POST /v2/desk/job-done/w/{job_id}?gpu=x HTTP/1.1\r\n".encode() + token
    status, answer = await ask(gateway, head, body)
    assert status == 400, answer
    status, answer = await ask(gateway, f"GET /v2/desk/status/{job_id} HTTP/1.1".encode())
    assert json.loads(answer)["status"] == "FAILED"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("token", [TOKEN, "a-strangers-word"])
@pytest.mark.parametrize(
    "packed", [gzip.compress(b'{"input": 1}', mtime=0), b"not gzip"], ids=["gzip", "other"]
)
async def test_what_is_packed_is_not_unpacked(
    gateway: GatewayServer, token: str, packed: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Also not after a refusal, when aiohttp reads the rest: a stranger's few kilobytes would hold
    up everybody for seconds.
    """
    head = f"POST /v2/desk/run HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Encoding: gzip"
    status, body = await ask(gateway, head.encode(), packed)
    assert (status, b"not JSON" in body) == ((400, True) if token == TOKEN else (401, False))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
