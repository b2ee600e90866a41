"""A browser on the page of a server with the pack, and a target beside it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import start_sandbox, stop

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ARTEFACTS, BROWSERS, ComfyPage, OpenPage
from page_server import PackServer, start_server
from playwright.sync_api import Browser, Page, sync_playwright

__all__ = ["browser", "home", "open_page", "page", "server", "there"]

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium: the system's, else the one that Playwright has downloaded."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).is_file():
            pytest.skip("skipped: no Chromium (or: playwright install chromium)")
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def there() -> Iterator[str]:
    """The URL of a target that has a node and a choice more than the page's own server."""
    url, process = start_sandbox(program=[str(HERE / "richer_sandbox.py")])
    try:
        yield url
    finally:
        stop(process)


@pytest.fixture
def home(tmp_path: Path, there: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the servers find their targets: ``there``, two endpoints (``gpu`` has no key)."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "comfy-remote.toml").write_text(
        f'default = "there"\n[targets.there]\ntarget = "{there}"\n'
        '[targets.gpu]\ntarget = "runpod:abc123"\n'
        # Nobody is there, and no key is needed: whatever is asked of it goes wrong.
        '[targets.quiet]\ntarget = "runpod:q"\nbase_url = "http://127.0.0.1:9/v2"\n'
    )
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(home))
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    monkeypatch.delenv("RUNPOD_ENDPOINT_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    return home


@pytest.fixture(
    params=[
        "sandbox",
        pytest.param("comfyui", marks=[pytest.mark.comfyui, pytest.mark.timeout(240)]),
    ]
)
def server(request: pytest.FixtureRequest, tmp_path: Path, home: Path) -> Iterator[PackServer]:
    """The server whose page is looked at."""
    with start_server(request.param, tmp_path) as server:
        yield server


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    """``open_page(url)``: another browser window on the server's page."""
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    pages: list[ComfyPage] = []

    def open_one(url: str) -> ComfyPage:
        window: Page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
        pages.append(ComfyPage(window, url, ARTEFACTS, f"{name}-{len(pages)}" if pages else name))
        pages[-1].open()
        return pages[-1]

    yield open_one
    for page in pages:
        page.picture("end")
        page.window.context.close()


@pytest.fixture
def page(open_page: OpenPage, server: PackServer) -> ComfyPage:
    """The server's page, open."""
    return open_page(server.url)
