"""The page's first contact: from a ComfyUI without any target to a remote picture."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from aiohttp import web
from comfy_api_proxy.app import make_app
from comfy_page import ComfyPage, OpenPage
from helpers import free_port, start_sandbox, stop
from page_server import start_server
from playwright.sync_api import Locator, Route, expect

from comfy_remote.targets.runpod.kind import RunPodKind

pytest_plugins = ["page_fixtures"]

HERE = Path(__file__).resolve().parent
INVERT = HERE / "invert.json"
IMAGES = "node.imgs?.length > 0 && node.imgs[0].naturalWidth > 0"
KEY = "rpa_planted_key_that_must_not_show"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing is configured."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(home))
    for name in ("RUNPOD_API_KEY", "RUNPOD_ENDPOINT_ID", "COMFY_API_KEY", "COMFY_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    before = {*os.environ}
    yield home
    # What the server keeps is in its own environment at once: here, that of the tests.
    for name in {*os.environ} - before:
        del os.environ[name]


@pytest.fixture
def lan() -> Iterator[str]:
    """The URL of a ComfyUI in the network."""
    url, process = start_sandbox()
    yield url
    stop(process)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[str]:
    """The URL of a gateway of the user's own, whose token is `KEY`."""
    port = free_port()
    command = [*("serve", "--engine", "sandbox", "--endpoint", "abc123"), f"--port={port}"]
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "comfy_remote", *command],
            env={**os.environ, "COMFY_REMOTE_TOKEN": KEY},
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/", timeout=5):
                break
        except OSError:
            time.sleep(0.2)
    yield url
    stop(process)


class _Account(BaseHTTPRequestHandler):
    """RunPod's REST API, as far as it lists an account's endpoints and pods."""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == f"Bearer {KEY}"
        endpoint = {"id": "abc123", "name": "Portraits", "type": "QUEUE", "workers": {"max": 3}}
        body = {"pods": []} if self.path.endswith("pods") else {"endpoints": [endpoint]}
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body if known else {}).encode())

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def runpod(box: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """RunPod: its list of the account, and an endpoint ``abc123``, which the gateway stands for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Account)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("RUNPOD_API_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", f"{box}/v2")
    yield
    server.shutdown()


@pytest.fixture
def comfy_api(lan: str) -> Iterator[str]:
    """The URL of Comfy's own proxy, which speaks their API for the ComfyUI in the network."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(make_app(lan), shutdown_timeout=0.1)

    async def listen() -> str:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield asyncio.run_coroutine_threadsafe(listen(), loop).result(60)
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(60)
    loop.close()


class Hand:
    """Clicks and types, and counts."""

    def __init__(self, page: ComfyPage, what: str) -> None:
        self.page, self.what = page, what
        self.clicks, self.texts, self.began = 0, 0, time.monotonic()

    def click(self, where: Locator) -> None:
        where.click()
        self.clicks += 1

    def type(self, where: Locator, text: str) -> None:
        """What has the focus already takes no click."""
        expect(where).to_be_focused()
        where.press_sequentially(text)
        self.texts += 1

    def done(self) -> None:
        seconds = time.monotonic() - self.began
        words = f"{self.what}: {self.clicks} clicks, {self.texts} texts, {seconds:.1f} s\n"
        with (self.page.artefacts / "first-contact.txt").open("a") as notes:
            notes.write(words)


def nothing_of_the_key_is_left(page: ComfyPage) -> None:
    """Neither in the page nor in what the browser stores, nor in a workflow or a setting."""
    stored = page.window.evaluate(
        "async () => JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie,"
        " document.documentElement.outerHTML, window.app.graph.serialize(),"
        " [...document.querySelectorAll('input')].map((one) => one.value),"
        " await (await fetch('/settings')).text(), await (await fetch('/remote/status')).text()])"
    )
    assert KEY not in stored


def kind(page: ComfyPage, name: str) -> Locator:
    return page.panel.locator(f"[data-kind={name}]")


def the_form(page: ComfyPage) -> Locator:
    return page.panel.locator("form.comfy-remote-setup")


def test_a_comfyui_takes_four_clicks_and_one_address(page: ComfyPage, lan: str) -> None:
    page.load(INVERT)
    hand = Hand(page, "a ComfyUI")
    hand.click(page.switch)
    expect(kind(page, "comfyui")).to_be_visible()
    page.picture("1 welcome")
    hand.click(kind(page, "comfyui"))
    hand.type(the_form(page).get_by_placeholder("192.168.1.20:8188"), lan)
    page.picture("2 form")
    hand.click(the_form(page).locator("[type=submit]"))
    expect(page.switch).to_contain_text("Remote: 127.0.0.1")
    page.picture("3 added")
    hand.click(page.window.locator("[data-testid=queue-button]").first)
    page.wait_for_node(4, IMAGES)
    hand.done()
    page.picture("4 picture")
    assert (hand.clicks, hand.texts) == (4, 1)
    assert not page.complaints


def test_an_endpoint_of_runpod_takes_a_key_and_a_choice(
    home: Path, runpod: None, page: ComfyPage
) -> None:
    # `runpod` comes before `page`, whose server is started with what it sets.
    page.load(INVERT)
    hand = Hand(page, "a RunPod endpoint")
    hand.click(page.switch)
    hand.click(kind(page, "runpod"))
    # One that RunPod refuses stays as it was typed.
    key = the_form(page).locator("input[type=password]")
    hand.type(key, "rpa_mistyped")
    key.press("Enter")
    expect(page.panel.locator(".comfy-remote-problem:visible")).to_contain_text("RunPod refused")
    expect(key).to_have_value("rpa_mistyped")
    page.picture("1 refused")
    assert not (home / ".env").exists()
    key.fill("")
    key.press_sequentially(KEY)
    key.press("Enter")
    place = page.panel.locator("[data-address='runpod:abc123']")
    expect(place).to_contain_text("Portraits")
    expect(key).to_have_value("")
    page.picture("2 list")
    nothing_of_the_key_is_left(page)
    hand.click(place)
    expect(page.switch).to_contain_text("Remote: portraits")
    hand.click(page.window.locator("[data-testid=queue-button]").first)
    page.wait_for_node(4, IMAGES)
    hand.done()
    page.picture("3 picture")
    assert hand.clicks == 4
    assert KEY in (home / ".env").read_text()
    nothing_of_the_key_is_left(page)
    assert not page.complaints


def test_a_gateway_of_ones_own(page: ComfyPage, home: Path, box: str) -> None:
    page.load(INVERT)
    hand = Hand(page, "a gateway")
    hand.click(page.switch)
    hand.click(kind(page, "gateway"))
    form = the_form(page)
    hand.type(form.get_by_placeholder("https://box.local:8000"), f"{box}/v2/abc123")
    form.get_by_placeholder("https://box.local:8000").press("Tab")
    hand.type(form.locator("input[type=password]"), "a-wrong-token")
    form.locator("input[type=password]").press("Enter")
    expect(form.locator(".comfy-remote-check-problem")).to_be_visible()
    page.picture("1 refused")
    expect(form.locator("input[type=password]")).to_have_value("a-wrong-token")
    expect(form.get_by_placeholder("https://box.local:8000")).to_have_value(f"{box}/v2/abc123")
    assert not (home / "comfy-remote.toml").exists()
    form.locator("input[type=password]").fill(KEY)
    hand.click(form.locator("[type=submit]"))
    expect(page.switch).to_contain_text("Remote: 127.0.0.1")
    hand.click(page.window.locator("[data-testid=queue-button]").first)
    page.wait_for_node(4, IMAGES)
    hand.done()
    page.picture("2 picture")
    assert hand.clicks == 4
    nothing_of_the_key_is_left(page)
    # Another address drops the key, in the page too.
    page.panel.get_by_role("button", name="Change", exact=True).click()
    expect(form).to_be_visible()
    page.picture("3 change")
    form.get_by_placeholder("https://box.local:8000").fill("http://127.0.0.1:9")
    form.locator("[type=submit]").click()
    expect(form.locator(".comfy-remote-check-problem")).to_be_visible()
    form.get_by_role("button", name="Save without a test").click()
    expect(form).to_be_hidden()
    assert "127.0.0.1:9/v2" in (home / "comfy-remote.toml").read_text()
    assert KEY not in (home / ".env").read_text()
    page.picture("4 unusable")
    page.panel.get_by_role("button", name="Remove", exact=True).click()
    page.picture("5 remove")
    page.panel.get_by_role("alertdialog").get_by_role("button", name="Remove").click()
    expect(kind(page, "gateway")).to_be_visible()
    expect(page.switch).to_have_text("Remote OFF")
    assert not page.complaints


def test_a_server_with_comfys_api_and_comfys_cloud(
    page: ComfyPage, home: Path, comfy_api: str
) -> None:
    page.load(INVERT)
    hand = Hand(page, "a Comfy API")
    hand.click(page.switch)
    hand.click(kind(page, "comfy"))
    form = the_form(page)
    page.picture("1 form")
    hand.type(form.get_by_placeholder("cloud", exact=True), f"{comfy_api}/api/v2")
    hand.click(form.locator("[type=submit]"))
    expect(page.switch).to_contain_text("Remote: 127.0.0.1")
    assert f'target = "comfy:{comfy_api}"' in (home / "comfy-remote.toml").read_text()
    hand.click(page.window.locator("[data-testid=queue-button]").first)
    page.wait_for_node(4, IMAGES)
    hand.done()
    assert hand.clicks == 4
    expect(page.panel).to_contain_text("Comfy API")
    page.picture("2 picture")
    # The cloud wants the account's key, and is not asked without.
    page.panel.get_by_role("button", name="Add a target").click()
    kind(page, "comfy").click()
    form.get_by_placeholder("cloud", exact=True).fill("https://cloud.comfy.org/")
    form.locator("[type=submit]").click()
    expect(form.locator(".comfy-remote-check-problem")).to_contain_text("COMFY_API_KEY")
    page.picture("3 no key")
    assert "comfy:cloud" not in (home / "comfy-remote.toml").read_text()
    assert not page.complaints


def test_what_a_folder_brings_is_shown_before_it_is_trusted(
    open_page: OpenPage, tmp_path: Path, home: Path, port: int, lan: str
) -> None:
    (tmp_path / "comfy-remote.toml").write_text(f'[targets.theirs]\ntarget = "{lan}"\n')
    with start_server("sandbox", tmp_path, port) as server:
        page = open_page(server.url)
        page.open_panel()
        page.panel.get_by_role("button", name="Review comfy-remote.toml").click()
        dialog = page.window.locator(".comfy-remote-modal")
        expect(dialog).to_contain_text(lan)
        page.picture("asked")
        dialog.locator("[value=yes]").click()
        expect(page.panel.locator("select").first).to_be_visible()
        page.panel.locator("select").first.select_option("theirs")
        expect(page.panel).to_contain_text(str(tmp_path / "comfy-remote.toml"))
        page.picture("trusted")
        expect(page.panel.get_by_role("button", name="Change", exact=True)).to_be_hidden()
        assert not page.complaints


def test_ready_asleep_waking_and_unusable_look_different(
    open_page: OpenPage, tmp_path: Path, home: Path, port: int, lan: str
) -> None:
    (home / "comfy-remote.toml").write_text(f'default = "gpu"\n[targets.gpu]\ntarget = "{lan}"\n')
    said: dict[str, object] = {"state": "ready"}
    warmed: list[object] = []

    def answer(route: Route) -> None:
        body = {**route.fetch().json(), **said}
        route.fulfill(json=body)

    def warm(route: Route) -> None:
        warmed.append(route.request.post_data_json)
        keeps = warmed[-1] != {"target": "gpu", "on": True}
        warm_up = {"seconds": None if keeps else 42.0, "error": None, "can_keep": True}
        until = time.time() + 3600 if keeps else None
        said.update(state="ready" if keeps else "waking", warm_up={**warm_up, "until": until})
        route.fulfill(json={})

    with start_server("sandbox", tmp_path, port) as server:
        page = open_page(server.url)
        page.window.route("**/remote/targets/gpu", answer)
        page.window.route("**/remote/warm", warm)
        page.switch_on("Remote: gpu")
        page.open_panel()
        bar, help_ = page.window.locator(".comfy-remote-switch"), page.panel.get_by_role("status")
        expect(bar).to_have_class(re.compile("comfy-remote-on$"))
        page.picture("1 ready")
        said.update(
            state="asleep",
            last_start=92.0,
            price_per_hour=0.6,
            warm_up={"seconds": None, "error": None, "until": None, "can_keep": True},
        )
        expect(bar).to_have_class(re.compile("comfy-remote-asleep"))
        expect(help_).to_contain_text("That took 1:32 the last time.")
        expect(help_).to_contain_text("About $0.010 a minute")
        page.picture("2 asleep")
        help_.get_by_role("button", name="Start a worker now").click()
        expect(bar).to_have_class(re.compile("comfy-remote-waking"))
        expect(help_).to_contain_text("A worker has been starting for 42 s.")
        expect(help_.get_by_role("button", name="Stop that")).to_be_visible()
        assert warmed == [{"target": "gpu", "on": True}]
        page.picture("3 waking")
        at_rest = {"seconds": None, "error": None, "until": None, "can_keep": True}
        said.update(state="ready", warm_up=at_rest)
        help_.get_by_text("Keep a worker ready for").click()
        expect(help_).to_contain_text("About $0.60 an hour")
        page.picture("3a keep")
        help_.get_by_role("button", name="1 h").click()
        expect(help_).to_contain_text("A worker is kept ready until")
        assert warmed[1:] == [{"target": "gpu", "on": True, "seconds": 3600}]
        page.picture("3b kept")
        error = {"code": "target", "message": "gpu does not answer.", "advice": "Start it."}
        said.update(state="unusable", error=error, warm_up=None)
        expect(bar).to_have_class(re.compile("comfy-remote-trouble"))
        expect(help_).to_contain_text("gpu does not answer. Start it.")
        page.picture("4 unusable")
        help_.get_by_role("button", name="Change").click()
        expect(the_form(page).get_by_placeholder("192.168.1.20:8188")).to_have_value(lan)
        page.panel.get_by_role("button", name="Back").click()
        help_.get_by_role("button", name="Run here instead").click()
        expect(page.switch).to_have_text("Remote OFF")
        assert not page.complaints
        # A poll that is under way when the server ends must not fail the test.
        page.window.unroute_all(behavior="ignoreErrors")


def test_a_missing_key_is_given_where_it_is_missed(
    open_page: OpenPage,
    tmp_path: Path,
    home: Path,
    port: int,
    runpod: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # RunPod's own server needs a key; the gateway that stands for it is on this machine.
    monkeypatch.setattr(RunPodKind, "needs_key", lambda *_: True)
    (home / "comfy-remote.toml").write_text(
        'default = "gpu"\n[targets.gpu]\ntarget = "runpod:abc123"\n'
    )
    with start_server("sandbox", tmp_path, port) as server:
        page = open_page(server.url)
        page.switch.click()
        give = page.panel.get_by_role("button", name="Give the key")
        expect(give).to_be_visible()
        expect(page.switch).to_have_text("Remote OFF")
        page.picture("1 missing")
        give.click()
        the_form(page).locator("input[type=password]").fill(KEY)
        the_form(page).locator("[type=submit]").click()
        expect(the_form(page)).to_be_hidden()
        page.switch_on("Remote: gpu")
        page.picture("2 given")
        assert KEY in (home / ".env").read_text()
        nothing_of_the_key_is_left(page)
        assert not page.complaints


def test_a_page_by_http_from_elsewhere_takes_no_key(
    open_page: OpenPage, tmp_path: Path, home: Path, port: int
) -> None:
    with start_server("sandbox", tmp_path, port) as server:
        page = open_page(server.url)
        # As the browser says it there; the server checks for itself.
        page.window.evaluate(
            "() => Object.defineProperty(window, 'isSecureContext', {value: false})"
        )
        page.switch.click()
        kind(page, "runpod").click()
        expect(the_form(page)).to_contain_text(str(home / ".env"))
        expect(the_form(page).locator("input[type=password]")).to_have_count(0)
        page.picture("no key")


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_the_welcome_in_other_languages(
    open_page: OpenPage, tmp_path: Path, home: Path, port: int, language: str
) -> None:
    with start_server("sandbox", tmp_path, port) as server:
        page = open_page(server.url)
        page.window.evaluate(
            "(language) => window.app.extensionManager.setting.set('Comfy.Locale', language)",
            language,
        )
        page.reload()
        page.switch.click()
        expect(kind(page, "modal")).to_be_visible()
        assert "Add a target" not in page.panel.inner_text()
        page.picture("welcome")
        kind(page, "modal").click()
        page.picture("form")


def test_without_a_default_the_switch_takes_the_only_target_and_asks_among_several(
    open_page: OpenPage, tmp_path: Path, home: Path, port: int, lan: str
) -> None:
    file = home / "comfy-remote.toml"
    file.write_text(f'[targets.gpu]\ntarget = "{lan}"\n')
    with start_server("sandbox", tmp_path, port) as server:
        page = open_page(server.url)
        page.switch_on("Remote: gpu")
        page.switch.click()
        expect(page.switch).to_have_text("Remote OFF")
        file.write_text(f'{file.read_text()}[targets.other]\ntarget = "{lan}"\n')
        page.reload()
        page.switch.click()
        choice = page.panel.locator("select").first
        expect(choice).to_have_value("")
        expect(page.switch).to_have_text("Remote OFF")
        choice.select_option("other")
        page.switch_on("Remote: other")
        assert not page.complaints
