"""Who may load a gateway's page, see what it shows, and press its buttons."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr
from seen_kit import a_job, a_state

import comfy_remote.gateway.seen
from comfy_remote.errors import ConfigurationError, JobNotFound
from comfy_remote.gateway import GatewayServer
from comfy_remote.gateway.access import Access, refusals
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.gateway.seen.routes import page_routes
from comfy_remote.gateway.seen.shown import Shown

TOKEN = "a-token-for-clients"
METRICS = "a-token-for-metrics"
PAGE = Path(comfy_remote.gateway.seen.__file__).with_name("page")
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Control:
    def __init__(self) -> None:
        self.done: list[tuple[object, ...]] = []

    async def front(self, job_id: str) -> None:
        if job_id == "nobody":
            raise JobNotFound("This endpoint has no job nobody.")
        self.done.append(("front", job_id))

    async def drain(self, worker_id: str, *, on: bool) -> None:
        self.done.append(("drain", worker_id, on))

    async def gone(self, worker_id: str) -> None:
        self.done.append(("gone", worker_id))


@pytest.fixture
def control() -> Control:
    return Control()


def application(control: Control, *, token: str | None, metrics: str | None) -> web.Application:
    access = Access(
        endpoint_id="desk",
        client_token=SecretStr(token) if token else None,
        worker_token=SecretStr("a-token-for-workers"),
        metrics_token=SecretStr(metrics) if metrics else None,
        limits=GatewayLimits(),
    )
    app = web.Application(middlewares=[refusals])
    shown = Shown(lambda: a_state(waiting=[a_job("a-job-that-waits")]))
    app.add_routes(page_routes(shown, control, access))
    return app


@asynccontextmanager
async def asking(app: web.Application) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        TestServer(app) as server,
        aiohttp.ClientSession(server.make_url("/")) as session,
    ):
        yield session


@pytest.fixture
async def guarded(control: Control) -> AsyncIterator[aiohttp.ClientSession]:
    """A gateway with a token."""
    async with asking(application(control, token=TOKEN, metrics=METRICS)) as session:
        yield session


@pytest.fixture
async def here(control: Control) -> AsyncIterator[aiohttp.ClientSession]:
    """A gateway without one, on loopback."""
    async with asking(application(control, token=None, metrics=None)) as session:
        yield session


async def status(
    session: aiohttp.ClientSession, path: str, method: str = "GET", **headers: str
) -> int:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.request(method, path, headers=names) as answer:
        return answer.status


async def test_the_page_is_served_without_a_token_and_has_no_data(
    guarded: aiohttp.ClientSession,
) -> None:
    for name in ("", *(f"page/{file.name}" for file in PAGE.iterdir() if file.suffix != ".html")):
        async with guarded.get(f"/{name}") as answer:
            text = await answer.text()
            assert answer.status == 200, name
            assert not any(word in text for word in (TOKEN, METRICS, "a-job-that-waits", "desk"))
    assert await status(guarded, "/page/index.html") == 404
    assert await status(guarded, "/page/..%2F__init__.py") == 404


async def test_the_page_runs_no_script_but_its_own_and_is_in_no_frame(
    here: aiohttp.ClientSession,
) -> None:
    async with here.get("/") as answer:
        policy = dict(
            rule.strip().partition(" ")[::2]
            for rule in answer.headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        html = await answer.text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|javascript:", html)
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(?:src|href|import|fetch)[^\n]{0,20}https?://", text), file.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", text)
        assert not re.search(r"localStorage|sessionStorage|cookie", text), file.name


@pytest.mark.parametrize("path", ["/overview", "/v2/desk/overview", "/metrics"])
async def test_what_it_shows_needs_the_token(guarded: aiohttp.ClientSession, path: str) -> None:
    assert await status(guarded, path) == 401
    assert await status(guarded, path, Authorization="Bearer wrong") == 401
    assert await status(guarded, path, Authorization="Bearer a-token-for-workers") == 401
    assert await status(guarded, path, **BEARER) == 200


async def test_the_metrics_token_reads_metrics_and_nothing_else(
    guarded: aiohttp.ClientSession, control: Control
) -> None:
    bearer = {"Authorization": f"Bearer {METRICS}"}
    assert await status(guarded, "/metrics", **bearer) == 200
    assert await status(guarded, "/overview", **bearer) == 401
    assert await status(guarded, "/v2/desk/overview", **bearer) == 401
    assert await status(guarded, "/v2/desk/gone/w", "POST", **bearer) == 401
    assert control.done == []


async def test_a_metrics_token_is_needed_where_there_is_no_other(control: Control) -> None:
    async with asking(application(control, token=None, metrics=METRICS)) as session:
        assert await status(session, "/metrics") == 401
        assert await status(session, "/metrics", Authorization=f"Bearer {METRICS}") == 200
        assert await status(session, "/overview") == 200


def test_the_metrics_token_is_not_the_clients() -> None:
    with pytest.raises(ConfigurationError, match="is the clients' token"):
        GatewayServer(token=SecretStr(TOKEN), metrics_token=SecretStr(TOKEN))


async def test_prometheus_gets_its_content_type(guarded: aiohttp.ClientSession) -> None:
    async with guarded.get("/metrics", headers=BEARER) as answer:
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "\ncomfy_remote_jobs_waiting 1\n" in await answer.text()


async def test_another_endpoint_is_not_there(guarded: aiohttp.ClientSession) -> None:
    assert await status(guarded, "/v2/other/overview", **BEARER) == 404
    assert await status(guarded, "/v2/other/gone/w", "POST", **BEARER) == 404


async def test_the_buttons(guarded: aiohttp.ClientSession, control: Control) -> None:
    for path in ("front/a", "drain/w.0", "undrain/w.0", "gone/w.0"):
        assert await status(guarded, f"/v2/desk/{path}", "POST") == 401
        assert await status(guarded, f"/v2/desk/{path}", "GET", **BEARER) == 405
        assert await status(guarded, f"/v2/desk/{path}", "POST", **BEARER) == 200
    assert await status(guarded, "/v2/desk/front/nobody", "POST", **BEARER) == 404
    assert control.done == [
        ("front", "a"),
        ("drain", "w.0", True),
        ("drain", "w.0", False),
        ("gone", "w.0"),
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Host": "evil.example"},
    ],
)
async def test_other_sites_pages_neither_read_nor_press(
    here: aiohttp.ClientSession, control: Control, headers: dict[str, str]
) -> None:
    for path in ("/overview", "/v2/desk/overview", "/metrics", "/page/page.js"):
        assert await status(here, path, **headers) == 403, path
    for path in ("front/a", "drain/w", "undrain/w", "gone/w"):
        assert await status(here, f"/v2/desk/{path}", "POST", **headers) == 403
    assert control.done == []


async def test_a_link_may_lead_to_the_page_but_not_under_another_name(
    here: aiohttp.ClientSession, guarded: aiohttp.ClientSession
) -> None:
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert await status(here, "/", **link) == 200
    assert await status(here, "/", Host="evil.example", **link) == 403
    assert await status(here, "/overview", **link) == 403
    assert await status(guarded, "/", Host="box.example", **link) == 200


async def test_its_own_page_on_loopback_needs_no_token(
    here: aiohttp.ClientSession, control: Control
) -> None:
    async with here.get("/") as answer:
        own = {"Sec_Fetch_Site": "same-origin", "Origin": str(answer.url.origin())}
    assert await status(here, "/overview", **own) == 200
    assert await status(here, "/v2/desk/drain/w", "POST", **own) == 200
    assert control.done == [("drain", "w", True)]
