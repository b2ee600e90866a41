"""Calls of services by REST, against a real server that answers as the test says."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from pydantic import SecretStr
from scripted_server import Answer, ScriptedServer, drop

from comfy_remote.calls.address import call_address
from comfy_remote.calls.rest import RestClient
from comfy_remote.errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    ExecutionFailed,
    JobCancelled,
    JobTimedOut,
    OutputTooLarge,
    SubmissionUnknown,
    TargetError,
    TargetUnreachable,
    WorkflowInvalid,
)
from comfy_remote.media.values import decode_value, encode
from comfy_remote.secrets import SECRETS
from comfy_remote.wire.call import PROTOCOL, PROTOCOL_HEADER, CallAnswer, CallStatus

ENVELOPE = {"type": "STRING", "encoding": "identity", "data": "a cat"}
DONE = Answer({"status": "completed", "result": ENVELOPE})


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


def _client(server: ScriptedServer, path: str = "/call", **more: Any) -> RestClient:
    return RestClient(f"{server.url}{path}", poll_interval=0.01, **more)


async def _call(client: RestClient, inputs: Any = None) -> list[CallAnswer]:
    async with client:
        answer = await client.start(inputs or {"prompt": "a cat"})
        return [one async for one in client.follow(answer)]


async def test_a_call_that_is_answered_at_once(server: ScriptedServer) -> None:
    server.on("POST /call", DONE)
    (answer,) = await _call(_client(server), {"prompt": "a cat", "steps": 20})
    assert answer.results == {"result": ENVELOPE}
    assert server.asked[0].json() == {
        "inputs": [
            {"name": "prompt", "encoding": "identity", "data": "a cat"},
            {"name": "steps", "encoding": "identity", "data": 20},
        ],
        "input_order": ["prompt", "steps"],
    }


async def test_a_call_that_is_polled(server: ScriptedServer) -> None:
    server.on("POST /call", Answer({"status": "pending", "id": "7", "poll_url": "jobs/7"}))
    server.on(
        "GET /jobs/7",
        Answer({"status": "running", "progress": {"value": 1, "max": 4}}),
        Answer({"status": "processing", "progress": 0.5, "poll_url": "/jobs/7?more"}),
        DONE,
    )
    answers = await _call(_client(server))
    assert [one.status for one in answers] == [
        CallStatus.PENDING,
        CallStatus.RUNNING,
        CallStatus.RUNNING,
        CallStatus.COMPLETED,
    ]
    assert [one.progress and (one.progress.value, one.progress.max) for one in answers] == [
        None,
        (1, 4),
        (0.5, 1),
        None,
    ]


async def test_the_server_says_how_long_to_wait(server: ScriptedServer) -> None:
    pending = {"status": "pending", "poll_url": "/jobs/7"}
    server.on("POST /call", Answer(pending, headers={"Retry-After": "1"}))
    server.on("GET /jobs/7", Answer({**pending, "retry_after": 0.3}), DONE)
    await _call(_client(server))
    times = [asked.time for asked in server.asked]
    assert 0.9 < times[1] - times[0] < 1.9
    assert 0.25 < times[2] - times[1] < 0.9


async def test_an_answer_may_stand_behind_a_redirect_of_the_same_server(
    server: ScriptedServer,
) -> None:
    # So does Modal, when a call takes longer than a web request may.
    server.on("POST /call", Answer(status=303, headers={"Location": "/call?id=7"}))
    server.on("GET /call", Answer(status=303, headers={"Location": "/call?id=7"}), DONE)
    (answer,) = await _call(_client(server))
    assert answer.status is CallStatus.COMPLETED


async def test_an_accepted_call_may_be_found_by_its_location(server: ScriptedServer) -> None:
    server.on("POST /call", Answer({"status": "queued"}, 202, {"Location": "/jobs/7"}))
    server.on("GET /jobs/7", DONE)
    assert (await _call(_client(server)))[-1].status is CallStatus.COMPLETED


async def test_cancel_is_a_delete(server: ScriptedServer) -> None:
    server.on("POST /call", Answer({"status": "pending", "poll_url": "/jobs/7"}))
    server.on("DELETE /jobs/7", Answer({"status": "failed"}))
    server.on("DELETE /jobs/7/cancel", Answer({}))
    async with _client(server) as client:
        answer = await client.start({})
        await client.cancel(answer)
        other = answer.model_copy(update={"cancel_url": "/jobs/7/cancel"})
        await client.cancel(other)
    assert server.count("DELETE /jobs/7") == server.count("DELETE /jobs/7/cancel") == 1


async def test_a_server_that_is_away_for_a_moment_is_waited_for(server: ScriptedServer) -> None:
    pending = Answer({"status": "running", "poll_url": "/jobs/7"})
    server.on("POST /call", pending)
    server.on("GET /jobs/7", drop, Answer({}, 503), Answer(b"<html>", 502), DONE)
    assert (await _call(_client(server)))[-1].status is CallStatus.COMPLETED


async def test_one_that_is_asked_too_often_is_left_alone_for_a_while(
    server: ScriptedServer,
) -> None:
    server.on("POST /call", Answer({"status": "running", "poll_url": "/jobs/7"}))
    server.on("GET /jobs/7", Answer({}, 429, {"Retry-After": "1"}), DONE)
    assert (await _call(_client(server)))[-1].status is CallStatus.COMPLETED
    times = [asked.time for asked in server.asked]
    assert times[2] - times[1] > 0.9


async def test_one_that_stays_away_is_not(server: ScriptedServer) -> None:
    server.on("POST /call", Answer({"status": "running", "poll_url": "/jobs/7"}))
    server.on("GET /jobs/7", drop)
    with pytest.raises(TargetUnreachable):
        await _call(_client(server, patience=0.2))


async def test_a_call_is_never_sent_twice(server: ScriptedServer) -> None:
    server.on("POST /call", drop, DONE)
    with pytest.raises(SubmissionUnknown):
        await _call(_client(server))
    assert server.count("POST /call") == 1


async def test_the_key_goes_along(server: ScriptedServer) -> None:
    server.on("POST /call", Answer({"status": "pending", "poll_url": "/jobs/7"}))
    server.on("GET /jobs/7", DONE)
    await _call(_client(server, headers={"Authorization": SecretStr("Bearer secret-of-mine")}))
    assert [asked.headers["Authorization"] for asked in server.asked] == [
        "Bearer secret-of-mine"
    ] * 2


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer({"status": "failed", "error": "no GPU"}), ExecutionFailed, "no GPU"),
        (Answer({"status": "aborted"}), JobCancelled, "cancelled"),
        (Answer({"error": "no GPU"}, 500), ExecutionFailed, "no GPU"),
        (Answer({"detail": "steps is missing"}, 422), ExecutionFailed, "steps is missing"),
        (
            Answer({"error": "a", "comfy_remote": WorkflowInvalid("b").to_json()}, 400),
            WorkflowInvalid,
            "b",
        ),
        (Answer({}, 401), AuthenticationError, "Set COMFY_REMOTE_TOKEN_127_0_0_1"),
        (Answer(b"<html>"), TargetError, "not JSON"),
        (Answer([1]), TargetError, "cannot be understood"),
        (Answer({"status": "pending"}), TargetError, "poll_url"),
        (Answer(status=308, headers={"Location": "/call2"}), TargetError, "another address"),
    ],
)
async def test_what_goes_wrong_there_is_told(
    server: ScriptedServer, answer: Answer, kind: type[ComfyRemoteError], words: str
) -> None:
    server.on("POST /call", answer)
    with pytest.raises(kind, match=words):
        last = (await _call(_client(server)))[-1]
        raise last.failure()


async def test_a_refusal_without_end_is_cut_off(server: ScriptedServer) -> None:
    endless = {"code": "workflow_invalid", "message": "no " * 100_000, "advice": "so " * 100_000}
    for status, said in ((400, {"comfy_remote": endless}), (200, {"error": endless})):
        server.on("POST /call", Answer({**said, "status": "failed"}, status))
        with pytest.raises(WorkflowInvalid) as caught:
            raise (await _call(_client(server)))[-1].failure()
        assert len(str(caught.value)) < 10_000


async def test_a_key_that_is_refused_is_another_thing_than_none(server: ScriptedServer) -> None:
    server.on("POST /call", Answer({}, 401))
    with pytest.raises(AuthenticationError, match="refused the key"):
        await _call(_client(server, headers={"Authorization": SecretStr("Bearer secret-of-mine")}))


async def test_small_values_go_in_the_request(server: ScriptedServer) -> None:
    picture = np.random.default_rng(1).random((1, 8, 9, 3), np.float32)
    server.on("POST /call", DONE)
    await _call(_client(server), {"image": encode([picture], "IMAGE", as_list=True)})
    (sent,) = server.asked[0].json()["inputs"]
    assert (sent["type"], sent["encoding"]) == ("IMAGE", "safetensors")
    arrived = decode_value(base64.b64decode(sent["data"]), tensors="numpy")
    assert np.array_equal(arrived.value[0], picture)  # type: ignore[index]


async def test_large_values_are_put_beside_it_where_that_is_understood(
    server: ScriptedServer,
) -> None:
    value = encode([np.zeros((1, 512, 512, 3), np.float32)], "IMAGE", as_list=True)
    ours = {PROTOCOL_HEADER: PROTOCOL}
    path = f"/values/{value.sha256()}"
    server.on("POST /call", DONE)
    server.on(f"HEAD {path}", Answer(status=404, headers=ours), Answer(headers=ours))
    server.on(f"PUT {path}", Answer({}, headers=ours))
    await _call(_client(server), {"image": value})
    await _call(_client(server), {"image": value})
    assert server.count(f"PUT {path}") == 1
    put = next(asked for asked in server.asked if asked.method == "PUT")
    assert put.body == b"".join(bytes(chunk) for chunk in value.chunks())
    assert put.headers["Content-Length"] == str(value.size)
    assert server.asked[2].json()["inputs"][0]["sha256"] == value.sha256()


async def test_large_values_go_in_the_request_elsewhere(server: ScriptedServer) -> None:
    value = encode([np.zeros((1, 512, 512, 3), np.float32)], "IMAGE", as_list=True)
    server.on("POST /call", DONE)
    await _call(_client(server), {"image": value})
    (sent,) = server.asked[-1].json()["inputs"]
    assert base64.b64decode(sent["data"]) == b"".join(map(bytes, value.chunks()))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com",
        "http://example.com/call",
        "http://8.8.8.8/call",
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/latest",
        "http://[fe80::1]/call",
        "http://0.0.0.0:80/",
        "http://[::ffff:169.254.169.254]/",
        "https://user:password@example.com/",
        "https://example.com/?key=secret",
        "nonsense",
        "",
    ],
)
def test_an_address_that_may_not_be_called(url: str) -> None:
    with pytest.raises(ConfigurationError):
        call_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/call",
        "http://127.0.0.1:8000/",
        "http://localhost:8000",
        "http://192.168.1.20:8000/",
        "http://box:8000/",
        "http://box.local/",
    ],
)
def test_an_address_that_may_be_called(url: str) -> None:
    call_address(url)


def test_a_key_does_not_travel_in_the_clear() -> None:
    with pytest.raises(ConfigurationError, match="not https"):
        RestClient("http://192.168.1.20/", headers={"Authorization": SecretStr("Bearer key")})


# A hostile server gets nothing but an error, soon and in little memory.


@pytest.mark.parametrize("name", ["poll_url", "cancel_url"])
@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "//evil.example/x",
        "https://evil.example/jobs",
        "http://127.0.0.1:1/",
        "http://[",
        "file:///etc/passwd",
        "javascript:alert(1)",
    ],
)
async def test_it_cannot_send_us_elsewhere(server: ScriptedServer, name: str, url: str) -> None:
    server.on("POST /call", Answer({"status": "pending", "poll_url": "/jobs/7", name: url}))
    with pytest.raises(TargetError, match=rf"{name}.*not followed"):
        await _call(_client(server))
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 303])
@pytest.mark.parametrize("url", ["http://169.254.169.254/", "https://evil.example/", "", "//evil"])
async def test_nor_by_a_redirect(server: ScriptedServer, status: int, url: str) -> None:
    server.on("POST /call", Answer({"status": "pending", "poll_url": "/jobs/7"}))
    server.on("GET /jobs/7", Answer(status=status, headers={"Location": url}))
    with pytest.raises(TargetError, match=r"redirect.*not followed"):
        await _call(_client(server, headers={"Authorization": SecretStr("Bearer mine-alone")}))


async def test_a_redirect_without_end_has_one(server: ScriptedServer) -> None:
    server.on("POST /call", Answer(status=303, headers={"Location": "/call"}))
    server.on("GET /call", Answer(status=303, headers={"Location": "/call"}))
    with pytest.raises(TargetError, match="redirects too often"):
        await _call(_client(server))
    assert len(server.asked) < 30


def _drip(every: float, piece: bytes) -> Any:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(piece)
            await asyncio.sleep(every)

    return answer


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_slow_drip_ends(server: ScriptedServer, method: str) -> None:
    server.on("POST /call", Answer({"status": "pending", "poll_url": "/jobs/7"}))
    server.on(f"{method} {'/call' if method == 'POST' else '/jobs/7'}", _drip(0.05, b" "))
    begun = time.monotonic()
    with pytest.raises(JobTimedOut, match=r"within 0\.5 s"):
        await _call(_client(server, request_timeout=0.5))
    assert time.monotonic() - begun < 30


async def test_an_endless_answer_ends(server: ScriptedServer) -> None:
    server.on("POST /call", _drip(0, b"[" * 2**20))
    with pytest.raises(TargetError, match="larger than 128 MiB"):
        await _call(_client(server))


@pytest.mark.parametrize("body", [b"[[]" + b",[]" * 2_100_000 + b"]", b"{" * 2_100_000])
async def test_a_small_answer_that_would_be_large_is_refused(
    server: ScriptedServer, body: bytes
) -> None:
    server.on("POST /call", Answer(body))
    with pytest.raises(OutputTooLarge, match="JSON values"):
        await _call(_client(server))


async def test_an_answer_of_a_million_brackets_is_no_json(server: ScriptedServer) -> None:
    server.on("POST /call", Answer(b"[" * 1_000_000))
    with pytest.raises(TargetError, match="not JSON"):
        await _call(_client(server))


async def _downloaded(client: RestClient, url: str, largest: int = 10**6) -> bytes:
    async with client:
        return b"".join([chunk async for chunk in client.download(url, largest=largest)])


async def test_a_value_is_downloaded(server: ScriptedServer) -> None:
    server.on("GET /values/7", Answer(b"x" * 3000))
    assert await _downloaded(_client(server), "/values/7") == b"x" * 3000


async def test_a_download_is_counted_while_it_comes(server: ScriptedServer) -> None:
    server.on("GET /values/7", _drip(0, b"x" * 10_000))
    with pytest.raises(OutputTooLarge):
        await _downloaded(_client(server), "/values/7")


async def test_a_download_that_drips_ends(server: ScriptedServer) -> None:
    server.on("GET /values/7", _drip(0.05, b"x"))
    with pytest.raises(JobTimedOut):
        await _downloaded(_client(server, request_timeout=0.5), "/values/7")


@pytest.mark.parametrize("url", ["https://10.0.0.1/x", "http://example.com/x", "file:///x", "["])
async def test_a_download_from_the_inside_is_refused(server: ScriptedServer, url: str) -> None:
    key = {"Authorization": SecretStr("Bearer mine-alone")}
    with pytest.raises(TargetError):
        await _downloaded(_client(server, headers=key), url)


async def test_no_key_goes_to_another_origin(server: ScriptedServer) -> None:
    async with ScriptedServer() as other:
        key = {"Authorization": SecretStr("Bearer mine-alone")}
        with pytest.raises(TargetError, match="not https"):
            await _downloaded(_client(server, headers=key), f"{other.url}/x")
        assert other.asked == []


async def test_a_services_words_neither_steer_nor_repeat_a_secret(server: ScriptedServer) -> None:
    SECRETS.add("STUDIO", "planted-odd-value")
    said = "\x1b[2J\u202e planted-odd-value\ud800"
    running = {"status": "running", "poll_url": "/poll", "progress": {"percent": 5}}
    server.on("POST /call", Answer({**running, "message": said}))
    failed = {"code": "execution_failed", "message": said, "details": {said: [said]}}
    server.on("GET /poll", Answer({"status": "failed", "error": failed}))
    first, *_, last = await _call(_client(server))
    assert first.message == "\ufffd[2J\ufffd [STUDIO]?"
    assert last.failure().message.startswith("\ufffd[2J\ufffd [STUDIO]")
    assert not {"\x1b", "\u202e", "planted"} & set(json.dumps(last.error, ensure_ascii=False))
    assert "planted" not in json.dumps(last.error)
    for status in (400, 404, 500):
        server.on("POST /call", Answer({"error": said, "detail": said}, status))
        with pytest.raises(ComfyRemoteError) as caught:
            await _call(_client(server))
        shown = json.dumps(caught.value.to_json(), ensure_ascii=False) + str(caught.value)
        assert not {"\x1b", "\u202e"} & set(shown)
        assert "planted" not in shown


async def test_results_are_content_and_stay_as_they_are(server: ScriptedServer) -> None:
    SECRETS.add("STUDIO", "planted-odd-value")
    server.on("POST /call", Answer({"status": "completed", "result": "\x1b planted-odd-value"}))
    (answer,) = await _call(_client(server))
    assert answer.results == {"result": "\x1b planted-odd-value"}
