"""The question whether an address may be used, in ComfyUI's own page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ARTEFACTS, BROWSERS, ComfyPage
from page_server import PackServer
from playwright.sync_api import Browser, Locator, expect

from comfy_remote.config.trust import TrustStore

pytest_plugins = ["page_fixtures"]

INVERT = Path(__file__).resolve().parent / "invert.json"
"""LoadImage 1 → ImageInvert 3 → SaveImage 4."""


@pytest.fixture
def stranger(there: str) -> str:
    """The target ``there``, by an address that nobody has named."""
    return there.replace("127.0.0.1", "localhost")


@pytest.fixture
def dialog(page: ComfyPage) -> Locator:
    return page.window.locator("dialog.comfy-remote-modal")


def type_in(page: ComfyPage, address: str) -> None:
    page.panel.get_by_label("Target", exact=True).select_option(label="Another address …")
    page.panel.get_by_label("Address of a target").fill(address)
    page.panel.get_by_label("Address of a target").press("Enter")


def test_a_new_address_is_asked_about_once(
    page: ComfyPage, home: Path, stranger: str, dialog: Locator
) -> None:
    page.open_panel()
    type_in(page, f"{stranger}/")
    expect(dialog).to_contain_text(stranger)
    expect(dialog).to_contain_text("You have not confirmed this address yet")
    page.picture("asked")
    # Enter is no yes: the button that has the focus is the other one.
    page.window.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    expect(page.panel.get_by_label("Target", exact=True)).to_have_value("there")
    assert TrustStore(home).addresses() == []

    type_in(page, stranger)
    dialog.get_by_role("button", name="Use this address").click()
    expect(page.panel.get_by_label("Target", exact=True)).to_have_value(stranger)
    assert TrustStore(home).addresses() == [stranger]
    page.switch_on(f"Remote: {stranger}")
    page.reload()
    expect(page.switch).to_contain_text(stranger)
    expect(dialog).to_have_count(0)
    # A yes that is taken back is asked for again.
    page.switch.click()
    expect(page.switch).to_have_text("Remote OFF")
    TrustStore(home).forget_address(stranger)
    page.switch.click()
    expect(dialog).to_contain_text(stranger)
    page.window.keyboard.press("Escape")
    expect(page.switch).to_have_text("Remote OFF")
    assert not page.complaints


def test_an_address_that_means_nothing_leaves_the_target_as_it_is(page: ComfyPage) -> None:
    page.switch_on("Remote: there")
    page.open_panel()
    type_in(page, "banana")
    expect(page.toasts.filter(has_text="Remote stays on there").first).to_contain_text(
        "There is no target 'banana'"
    )
    expect(page.switch).to_contain_text("Remote: there")


def test_a_page_opened_by_another_name_says_which_line_allows_it(
    browser: Browser, server: PackServer
) -> None:
    if server.process is None:
        pytest.skip("the sandbox refuses such a page altogether")
    names = browser.browser_type.launch(
        executable_path=next(filter(None, map(shutil.which, BROWSERS)), None),
        args=["--no-sandbox", "--host-resolver-rules=MAP studio.example 127.0.0.1"],
    )
    try:
        page = ComfyPage(names.new_page(), server.url, ARTEFACTS, "another-name")
        page.window.goto(server.url.replace("127.0.0.1", "studio.example"))
        said = page.toasts.filter(has_text="Remote cannot be used here").first
        expect(said).to_contain_text('allowed_hosts = ["studio.example"]', timeout=60_000)
        expect(page.switch).to_have_text("Remote OFF")
    finally:
        names.close()


def test_a_marked_workflow_of_somebody_else_asks_before_anything_is_sent(
    page: ComfyPage, server: PackServer, home: Path, stranger: str, dialog: Locator
) -> None:
    document = json.loads(INVERT.read_text())
    for node in document["nodes"]:
        if node["id"] == 3:
            node["properties"]["comfy_remote"] = {"part": stranger}
    page.window.evaluate("(document) => window.app.loadGraphData(document)", document)
    page.dismiss_dialog()
    page.run()
    expect(dialog).to_contain_text(stranger)
    expect(dialog).to_contain_text("(node 3) would send to")
    page.picture("asked")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    assert page.history() == []
    assert TrustStore(home).addresses() == []
    page.dismiss_dialog()

    page.run()
    dialog.get_by_role("button", name="Use this address").click()
    expect(page.toasts.filter(has_text="may be used now").first).to_be_visible()
    page.picture("confirmed")
    assert TrustStore(home).addresses() == [stranger]
    assert page.history() == []
    page.dismiss_dialog()
    page.run()
    [entry] = page.wait_for_history(1)
    assert entry["status"]["status_str"] == "success"
    assert not page.complaints


def test_remote_api_asks_before_it_sends(
    page: ComfyPage, server: PackServer, home: Path, stranger: str, dialog: Locator
) -> None:
    if server.process is None:
        pytest.skip("the sandbox has no Remote API")
    page.window.evaluate(
        """(url) => {
            const graph = window.app.graph
            graph.clear()
            const [image, api, shown] = ['EmptyImage', 'ComfyRemoteNode', 'PreviewImage'].map(
                (name) => window.LiteGraph.createNode(name)
            )
            for (const node of [image, api, shown]) graph.add(node)
            image.pos = [60, 120]
            api.pos = [420, 120]
            shown.pos = [820, 120]
            image.connect(0, api, api.inputs.findIndex((one) => one.name === 'input_0'))
            api.connect(0, shown, 0)
            api.title = 'Make it nicer'
            api.widgets.find((one) => one.name === 'url').value = url
        }""",
        stranger,
    )
    page.run()
    expect(dialog).to_contain_text(stranger)
    expect(dialog).to_contain_text("Make it nicer (node 2)")
    page.picture("asked")
    dialog.get_by_role("button", name="Cancel").click()
    assert page.history() == []
    errors: Any = page.window.evaluate("() => window.app.lastNodeErrors")
    assert "is not confirmed" in json.dumps(errors["2"])
    page.picture("cancelled")
    page.dismiss_dialog()
    page.run()
    dialog.get_by_role("button", name="Use this address").click()
    expect(page.toasts.filter(has_text="may be used now").first).to_be_visible()
    page.dismiss_dialog()
    page.run()
    # It is no service, so the call fails: but it was called.
    [entry] = page.wait_for_history(1)
    (error,) = [d for kind, d in entry["status"]["messages"] if kind == "execution_error"]
    assert "confirmed" not in error["exception_message"]
    assert not page.complaints
