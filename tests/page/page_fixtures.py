"""A browser on the page of a server with the pack, and a target beside it."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import start_sandbox, stop

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ACTION_MS, ARTEFACTS, BROWSERS, ComfyPage, OpenPage
from page_server import PackServer, start_server
from playwright.sync_api import Browser, Error, Page, sync_playwright

__all__ = ["browser", "home", "open_page", "page", "port", "server", "there", "warm"]

HERE = Path(__file__).resolve().parent
SIZE = {"width": 1400, "height": 900}


def patient_page(browser: Browser) -> Page:
    """A window of its own that waits for a busy machine."""
    context = browser.new_context(viewport=SIZE)
    context.set_default_timeout(ACTION_MS)
    return context.new_page()


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
def port() -> Iterator[int]:
    """The port of a module's sandboxes, one after another: to the browser they are one server."""
    with socket.socket() as held:
        # The port is given to nobody, and can be had by servers, which ask with the same option.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


class WarmWindow:
    """A window that tests use one after another.

    The page's scripts are loaded and compiled already, which is more than half of what it takes
    to open the page. Nothing else of one test is there in the next.
    """

    def __init__(self, browser: Browser, port: int) -> None:
        self._browser = browser
        self._origin = f"http://127.0.0.1:{port}"
        self._window: Page | None = None

    def fits(self, url: str) -> bool:
        """Whether a page at that URL is one of the servers that it is for."""
        return url.startswith(self._origin)

    def take(self) -> Page:
        """The window, with nothing in it."""
        window, self._window = self._window, None
        return window or patient_page(self._browser)

    def give_back(self, window: Page) -> None:
        """Remove what a test has left; a window that does not allow that is not used again."""
        try:
            window.unroute_all()
            window.set_viewport_size(SIZE)
            window.evaluate("() => sessionStorage.clear()")
            window.goto("about:blank")
            session = window.context.new_cdp_session(window)
            stores = "cookies,local_storage,indexeddb,cache_storage,service_workers"
            session.send(
                "Storage.clearDataForOrigin", {"origin": self._origin, "storageTypes": stores}
            )
            session.detach()
        except Error:
            window.context.close()
        else:
            self._window = window


@pytest.fixture(scope="module")
def warm(browser: Browser, port: int) -> WarmWindow:
    """The window for the first page that a test opens."""
    return WarmWindow(browser, port)


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
def server(
    request: pytest.FixtureRequest, tmp_path: Path, home: Path, port: int
) -> Iterator[PackServer]:
    """The server whose page is looked at."""
    shared = port if request.param == "sandbox" else None
    with start_server(request.param, tmp_path, shared) as server:
        yield server


@pytest.fixture
def open_page(
    browser: Browser, warm: WarmWindow, request: pytest.FixtureRequest
) -> Iterator[OpenPage]:
    """``open_page(url)``: another browser window on the server's page."""
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    pages: list[ComfyPage] = []

    def open_one(url: str) -> ComfyPage:
        window = warm.take() if not pages and warm.fits(url) else patient_page(browser)
        pages.append(ComfyPage(window, url, ARTEFACTS, f"{name}-{len(pages)}" if pages else name))
        pages[-1].open()
        return pages[-1]

    yield open_one
    for page in pages:
        page.end()
        if page is pages[0] and warm.fits(page.url):
            warm.give_back(page.window)
        else:
            page.window.context.close()


@pytest.fixture
def page(open_page: OpenPage, server: PackServer) -> ComfyPage:
    """The server's page, open."""
    return open_page(server.url)
