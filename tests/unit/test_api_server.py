"""Who may ask a server of Comfy API v2, and that every refusal has the API's form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from asset_kit import receive
from helpers import until
from pydantic import SecretStr
from yarl import URL

from comfy_remote.api.asset_routes import asset_routes
from comfy_remote.api.assets import AssetStore
from comfy_remote.api.errors import ApiRefusal
from comfy_remote.api.event_routes import StreamLimits, event_routes
from comfy_remote.api.live import LiveJob, LiveLimits
from comfy_remote.api.server import ApiServer, api_application, guard
from comfy_remote.errors import AuthenticationError, ConfigurationError, WorkflowInvalid
from comfy_remote.events import Preview, Progress
from comfy_remote.wire.comfy_api import API_PATH, ApiOutput, ApiStatus, ErrorEnvelope, OutputType

TOKEN = SecretStr("a token of more than sixteen characters")
PATIENCE = 30.0


async def fine(_request: web.Request) -> web.Response:
    return web.json_response({"status": "queued"})


async def invalid(_request: web.Request) -> web.Response:
    raise WorkflowInvalid("Node 3 has no model.", advice="Connect one.")


async def upstream(_request: web.Request) -> web.Response:
    raise AuthenticationError("api.runpod.ai refuses the key rpa_1234.")


async def broken(_request: web.Request) -> web.Response:
    raise ZeroDivisionError("secret words")


async def large(request: web.Request) -> web.Response:
    return web.Response(text=str(len(await request.read())))


ROUTES = [
    web.get("/jobs/{id}", fine),
    web.post("/jobs", invalid),
    web.post("/jobs/{id}/cancel", upstream),
    web.get("/broken", broken),
    web.post("/large", large),
]


async def asked(
    url: str, method: str = "GET", *, headers: Mapping[str, str] | None = None, data: bytes = b""
) -> tuple[int, dict[str, object], Mapping[str, str]]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=headers, data=data or None) as answer,
    ):
        content = await answer.read()
        return answer.status, json.loads(content) if content else {}, answer.headers


async def refused(url: str, method: str = "GET", **more: Mapping[str, str]) -> tuple[int, str, str]:
    status, body, _ = await asked(url, method, **more)
    error = ErrorEnvelope.model_validate(body).error
    return status, error.code, error.message


@asynccontextmanager
async def beside(application: web.Application) -> AsyncIterator[tuple[str, web.AppRunner]]:
    """Serve the API below another server's root; gives the origin and what runs it."""
    app = web.Application()
    app.router.add_get("/v2/{endpoint}/health", fine)
    app.add_subapp(API_PATH, application)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", runner
    finally:
        await runner.cleanup()


async def test_it_says_what_it_is() -> None:
    async with ApiServer(ROUTES) as server:
        for path in ("/", API_PATH):
            status, body, _ = await asked(server.url + path)
            assert (status, body["api"]) == (200, "Comfy API v2")
            assert f"COMFY_BASE_URL={server.url}" in str(body["use"])
        # Behind a proxy that speaks https, addresses with http would leave the client's origin.
        _, body, _ = await asked(server.url, headers={"X-Forwarded-Proto": "https"})
        assert f"COMFY_BASE_URL={server.url.replace('http', 'https', 1)}" in str(body["use"])


async def test_each_refusal_is_an_envelope() -> None:
    async with ApiServer(ROUTES) as server:
        jobs = f"{server.url}{API_PATH}/jobs"
        assert (await refused(f"{server.url}/nowhere"))[:2] == (404, "not_found")
        assert (await refused(f"{server.url}{API_PATH}/nowhere"))[:2] == (404, "not_found")
        twice = await refused(f"{server.url}{API_PATH}{API_PATH}/jobs", "POST")
        assert twice[:2] == (404, "not_found")
        assert "COMFY_BASE_URL ends before /api." in twice[2]
        assert (await refused(f"{jobs}/1", "PATCH"))[:2] == (405, "method_not_allowed")
        assert (await refused(jobs, "POST")) == (
            *(422, "invalid_workflow"),
            "Node 3 has no model. Connect one.",
        )
        status, code, message = await refused(f"{jobs}/1/cancel", "POST")
        assert (status, code) == (500, "upstream_error")
        assert "runpod" not in message
        status, code, message = await refused(f"{server.url}{API_PATH}/broken")
        assert (status, code) == (500, "upstream_error")
        assert "secret" not in message
        status, _, headers = await asked(f"{jobs}/1", "PATCH")
        assert headers["Allow"] == "GET, HEAD"
        status, body, _ = await asked(
            f"{server.url}{API_PATH}/large", "POST", data=bytes(2 * 1024**2)
        )
        assert status == 413
        assert ErrorEnvelope.model_validate(body).error.code == "payload_too_large"


async def test_with_a_token_it_must_be_sent() -> None:
    async with ApiServer(ROUTES, token=TOKEN) as server:
        job = f"{server.url}{API_PATH}/jobs/1"
        for headers in ({}, {"Authorization": "Bearer another"}, {"Authorization": "ünïcode"}):
            assert (await refused(job, headers=headers))[:2] == (401, "unauthorized")
        assert (await refused(f"{server.url}/nowhere"))[:2] == (401, "unauthorized")
        right = {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}
        assert (await asked(job, headers=right))[0] == 200


async def test_without_a_token_any_key_is_accepted() -> None:
    async with ApiServer(ROUTES) as server:
        job = f"{server.url}{API_PATH}/jobs/1"
        assert (await asked(job))[0] == 200
        assert (await asked(job, headers={"Authorization": "Bearer comfyui-abc"}))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Host": "evil.example:8000"},  # its owner points that name at 127.0.0.1
        {"Host": "127.0.0.1.evil.example"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", "/jobs/1"), ("POST", "/jobs"), ("GET", "")])
async def test_another_page_is_refused(headers: dict[str, str], method: str, path: str) -> None:
    async with ApiServer(ROUTES) as server:
        found = await refused(f"{server.url}{API_PATH}{path}", method, headers=headers)
        assert found[:2] == (403, "forbidden")


def test_beyond_this_machine_it_needs_a_token() -> None:
    with pytest.raises(ConfigurationError, match="without a token"):
        ApiServer(ROUTES, host="0.0.0.0")
    with pytest.raises(ConfigurationError, match="shorter than 16"):
        ApiServer(ROUTES, token=SecretStr("short"))


async def test_below_another_server_it_guards_itself() -> None:
    async with beside(api_application(ROUTES, [guard(TOKEN)])) as (url, _):
        right = {"Authorization": f"Bearer {TOKEN.get_secret_value()}"}
        job = f"{url}{API_PATH}/jobs/1"
        assert (await refused(job))[:2] == (401, "unauthorized")
        assert (await asked(job, headers=right))[0] == 200
        assert (await asked(url + API_PATH, headers=right))[1]["api"] == "Comfy API v2"
        found = await refused(f"{url}{API_PATH}/nowhere", headers=right)
        assert found[:2] == (404, "not_found")
        found = await refused(job, "PATCH", headers=right)
        assert found[:2] == (405, "method_not_allowed")
        assert (await asked(f"{url}/v2/local/health"))[0] == 200


async def test_events_over_http() -> None:
    job = LiveJob(limits=LiveLimits(every=0.0))

    async def live(job_id: str) -> LiveJob:
        if job_id != "1":
            raise ApiRefusal("not_found", "There is no such job here.")
        return job

    async with (
        ApiServer(event_routes(live, StreamLimits(streams=1))) as server,
        aiohttp.ClientSession() as session,
    ):
        url = f"{server.url}{API_PATH}/jobs"
        assert (await refused(f"{url}/2/events"))[:2] == (404, "not_found")
        async with session.get(f"{url}/1/events") as stream:
            assert stream.content_type == "text/event-stream"
            assert await stream.content.readuntil(b"\n\n") == (
                b'event: status\ndata: {"status":"queued","queue_position":null}\n\n'
            )
            status, body, headers = await asked(f"{url}/1/events")
            assert (status, headers["Retry-After"]) == (429, "10")
            assert ErrorEnvelope.model_validate(body).error.code == "too_many_streams"
            job.note(Progress(1, 2))
            assert b'"running"' in await stream.content.readuntil(b"\n\n")
            assert b'"value":0.5' in await stream.content.readuntil(b"\n\n")
            job.end(ApiStatus.SUCCEEDED)
            assert await asyncio.wait_for(stream.content.read(), PATIENCE) == (
                b'event: status\ndata: {"status":"succeeded","queue_position":null}\n\n'
            )
        # The stream that has ended makes room for another, of which there is no more than this.
        async with session.get(f"{url}/1/events") as stream:
            assert (await stream.content.read()).count(b"event: status") == 1


async def test_an_outputs_address_is_the_one_that_its_listener_reaches() -> None:
    made = ApiOutput(
        node_id="9",
        name='"url":"/.png',  # a name that looks like what is replaced
        type=OutputType.IMAGE,
        content_type="image/png",
        size_bytes=3,
        id="a",
        hash=None,
        url=f"{API_PATH}/assets/a/content",
        url_expires_at=datetime(2026, 12, 1, tzinfo=timezone.utc),
    )

    async def live(_job_id: str) -> LiveJob:
        return LiveJob(ApiStatus.SUCCEEDED, outputs=[made])

    async with ApiServer(event_routes(live)) as server, aiohttp.ClientSession() as session:
        for origin in (server.url, server.url.replace("127.0.0.1", "localhost")):
            headers = {"Host": URL(origin).authority}
            path = f"{server.url}{API_PATH}/jobs/1/events"
            async with session.get(path, headers=headers) as stream:
                first = (await stream.content.readuntil(b"\n\n")).decode().splitlines()
            said = ApiOutput.model_validate_json(first[1].removeprefix("data: "))
            assert (said.name, said.url) == (made.name, origin + made.url)


async def test_a_listener_that_hangs_up_is_forgotten() -> None:
    job = LiveJob()

    async def live(_job_id: str) -> LiveJob:
        return job

    async with ApiServer(event_routes(live)) as server, aiohttp.ClientSession() as session:
        async with session.get(f"{server.url}{API_PATH}/jobs/1/events") as stream:
            await stream.content.readuntil(b"\n\n")
            assert job.listeners == 1
        await until(lambda: not job.listeners)  # its handler is cancelled


async def test_a_client_that_hangs_up_before_its_answer_leaves_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def hung_up(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        response = web.StreamResponse()
        await response.prepare(request)
        return response

    async with ApiServer([web.get("/jobs", hung_up)]) as server, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"{server.url}{API_PATH}/jobs")
        await until(lambda: bool(caplog.records))
    assert not any(record.exc_info for record in caplog.records)


async def test_a_server_that_stops_waits_for_no_stream() -> None:
    job = LiveJob()

    async def live(_job_id: str) -> LiveJob:
        return job

    async with (
        beside(api_application(event_routes(live))) as (url, runner),
        aiohttp.ClientSession() as session,
    ):
        stream = await session.get(f"{url}{API_PATH}/jobs/1/events")
        await stream.content.readuntil(b"\n\n")
        await runner.shutdown()  # which comes before requests are waited for
        await until(lambda: not job.listeners)
        with pytest.raises(aiohttp.ClientPayloadError):
            await stream.read()


async def test_a_client_that_reads_nothing_is_let_go_and_the_others_read_on() -> None:
    job = LiveJob(limits=LiveLimits(every=0.0))

    async def live(_job_id: str) -> LiveJob:
        return job

    async with (
        ApiServer(event_routes(live, StreamLimits(patience=0.05))) as hasty,
        ApiServer(event_routes(live)) as patient,
        aiohttp.ClientSession() as session,
    ):
        there = URL(hasty.url)
        _, silent = await asyncio.open_connection(there.host, there.port)
        silent.transport.pause_reading()  # type: ignore[attr-defined]
        path = f"{API_PATH}/jobs/1/events"
        silent.write(f"GET {path} HTTP/1.1\r\nHost: {there.authority}\r\n\r\n".encode())
        async with session.get(patient.url + path) as stream:
            reading = asyncio.ensure_future(stream.read())
            await until(lambda: job.listeners == 2)
            while job.listeners == 2:  # until the system holds no more for who reads nothing
                job.note(Preview("3", "image/jpeg", bytes(256 * 1024)))
                await asyncio.sleep(0.001)
            assert job.listeners == 1
            job.end(ApiStatus.SUCCEEDED)
            got = await asyncio.wait_for(reading, PATIENCE)
        assert got.endswith(b'data: {"status":"succeeded","queue_position":null}\n\n')
        silent.close()


async def test_a_stored_page_cannot_run_and_no_other_page_reads_it(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"<script>fetch('/api/v2/jobs')</script>"

    async with AssetStore(tmp_path) as store, ApiServer(asset_routes(store)) as server:
        asset, _ = await receive(store, chunks(), content_type="text/html", file_path="a.html")
        url = f"{server.url}{API_PATH}/assets/{asset.id}/content"
        for site in ("cross-site", "same-site"):
            found = await refused(url, headers={"Sec-Fetch-Site": site})
            assert found[:2] == (403, "forbidden")
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Disposition"].startswith("attachment")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert "sandbox" in answer.headers["Content-Security-Policy"]
            assert answer.content_type == "application/octet-stream"
