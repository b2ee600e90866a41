"""The Remote switch in ComfyUI's own page, in a browser.

The page of a real ComfyUI is looked at, too, where there is one (``COMFYUI_DIR``,
``COMFYUI_PYTHON``). ``COMFYUI_FRONTEND`` names another page for the sandbox to serve than the
``comfyui-frontend-package`` that is installed. Screenshots are kept in ``test-artefacts/page``.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import stop

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage
from page_server import PackServer, start_server
from playwright.sync_api import Browser, Page, expect, sync_playwright

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ARTEFACTS = ROOT / "test-artefacts" / "page"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

SLOW = ROOT / "examples" / "page" / "slow.json"
"""LoadImage 1 → SandboxSlow 2 → ImageInvert 3 → SaveImage 4."""

IMAGES = "node.imgs?.length > 0 && node.imgs[0].naturalWidth > 0"

OpenPage = Callable[[str], ComfyPage]


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def there() -> Iterator[str]:
    """The URL of a target that has a node and a choice more than the page's own server."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "richer_sandbox.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
    finally:
        stop(process)


@pytest.fixture
def home(tmp_path: Path, there: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the servers find their targets: ``there``, and ``gpu``, whose key is not set."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "comfy-remote.toml").write_text(
        f'default = "there"\n[targets.there]\ntarget = "{there}"\n'
        '[targets.gpu]\ntarget = "runpod:abc123"\n'
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


def test_a_batch_runs_remotely_and_shows_up_like_any_other(
    page: ComfyPage, server: PackServer
) -> None:
    page.switch_on()
    # A ComfyUI learns of nodes that only the target has before the next workflow is opened.
    page.load(SLOW, {2: [10, 0.2, True, 0, "randomize"]})
    page.open_panel()
    page.run(batch=4)

    jobs = page.panel.locator("[data-prompt-id]")
    expect(jobs).to_have_count(4)
    page.wait_for_node(2, "node.progress > 0")
    expect(page.switch).to_contain_text("4")
    expect(page.panel.locator("progress[value]").first).to_be_visible()
    page.picture("progress")
    # The newest is on top: it waits for the others.
    jobs.first.get_by_role("button").click()
    expect(jobs).to_have_count(3)

    page.wait_for_node(4, IMAGES)
    page.picture("first picture")
    history = page.wait_for_history(4)
    states = sorted(entry["status"]["status_str"] for entry in history)
    assert states == ["error", "success", "success", "success"]
    assert len(list((server.directory / "output").glob("night_*.png"))) == 3
    expect(jobs).to_have_count(0)
    assert not page.complaints
