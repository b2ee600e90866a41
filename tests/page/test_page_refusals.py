"""What ComfyUI's page says when the target refuses, fails or is not there: whose fault it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import WITH_ERRORS_TAB, ComfyPage
from page_server import PackServer
from playwright.sync_api import expect
from richer_sandbox import MODEL_ONLY_THERE, NOT_THERE

pytest_plugins = ["page_fixtures"]

HERE = Path(__file__).resolve().parent
INVERT = HERE / "invert.json"
"""LoadImage 1 → ImageInvert 3 → SaveImage 4."""

SCALE = HERE / "scale_and_invert.json"
"""LoadImage 1 → ImageScale 2 → InvertOnlyThere 3 → SaveImage 4."""

HAS_ERRORS = "(node.has_errors || app.lastNodeErrors?.[node.id])"


def changed(tmp_path: Path, source: Path, change: dict[int, dict[str, Any]]) -> Path:
    """A workflow with other nodes in the place of some."""
    document = json.loads(source.read_text())
    for node in document["nodes"]:
        node.update(change.get(node["id"], {}))
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(document))
    return path


def said(page: ComfyPage) -> str:
    """All that the page shows about errors: its dialog, or its overlay and the tab behind it."""
    texts = page.window.locator("[role=dialog], [data-testid=error-overlay], .p-toast")
    words, before = "", None
    for _ in range(30):  # until nothing is added
        page.window.wait_for_timeout(1000)
        words, before = " ".join(texts.all_inner_texts()), words
        if words and words == before:
            break
    see = page.window.locator("[data-testid=error-overlay-see-errors]")
    if see.count() and see.first.is_visible():
        page.picture("overlay")
        see.first.click()
        page.window.wait_for_timeout(1000)
        words += " " + page.window.locator("body").inner_text()
    page.picture("said")
    return words


def marked(page: ComfyPage, node_id: int) -> bool:
    """Whether the page marks a node as one with errors."""
    return bool(page.node(node_id, HAS_ERRORS))


def test_a_node_that_is_missing_there_is_marked_and_the_target_named(
    page: ComfyPage, tmp_path: Path
) -> None:
    inputs = [{"name": name, "type": "IMAGE", "link": 1} for name in ("image1", "image2")]
    outputs = [{"name": "IMAGE", "type": "IMAGE", "links": [3]}]
    inputs[1]["link"] = None  # it is optional nowhere: only the class counts
    document = changed(
        tmp_path, INVERT, {3: {"type": NOT_THERE, "inputs": inputs, "outputs": outputs}}
    )
    page.switch_on()
    page.load(document)
    page.run()
    expect(page.toasts.filter(has_text="Not run on there").first).to_be_visible()
    page.wait_for_node(3, HAS_ERRORS)
    words = said(page)
    assert f"there does not have the node {NOT_THERE}" in words
    assert "on there" in words
    assert "corrupted" not in words
    assert not marked(page, 4)
    assert page.history() == []


def test_a_model_that_is_missing_there_is_marked_and_the_target_named(
    page: ComfyPage, tmp_path: Path
) -> None:
    page.switch_on()
    page.load(SCALE, {2: ["nowhere.safetensors", 96, 64, "disabled"]})
    page.run()
    told = page.toasts.filter(has_text="Not run on there").first
    expect(told).to_contain_text("nowhere.safetensors")
    page.wait_for_node(2, HAS_ERRORS)
    assert "nowhere.safetensors" in said(page)
    assert page.history() == []


def test_a_job_that_fails_there_names_the_target(page: ComfyPage, tmp_path: Path) -> None:
    fails = {"type": "SandboxFail", "widgets_values": ["error", "It was asked to fail."]}
    page.switch_on()
    page.load(changed(tmp_path, INVERT, {3: fails}))
    page.run()
    page.wait_for_history(1)
    told = page.toasts.filter(has_text="Remote job on there failed").first
    expect(told).to_contain_text("It was asked to fail.")
    words = said(page)
    assert "On there: " in words
    assert "It was asked to fail." in words


def test_a_target_that_does_not_answer_is_named_and_shown(page: ComfyPage) -> None:
    page.open_panel()
    page.panel.get_by_label("Target", exact=True).select_option("quiet")
    page.switch_on("Remote: quiet")
    expect(page.switch).to_have_attribute("title", re.compile("quiet"))
    expect(page.window.locator(".comfy-remote-trouble")).to_be_visible()
    page.picture("switch")
    page.load(INVERT)
    page.run()
    expect(page.toasts.filter(has_text="Remote job on quiet failed").first).to_be_visible()
    words = said(page)
    assert "On quiet: " in words
    assert not re.search(r"target_\w+|execution_failed|workflow_invalid", words), words
    # Another one works, and nothing of the first one is left.
    page.panel.get_by_label("Target", exact=True).select_option("there")
    expect(page.switch).to_contain_text("Remote: there")
    expect(page.window.locator(".comfy-remote-trouble")).to_have_count(0)


def test_missing_models_follow_the_switch(page: ComfyPage) -> None:
    if page.version < WITH_ERRORS_TAB:
        pytest.skip("this version of the page looks for missing models at the start only")
    page.load(SCALE, {2: [MODEL_ONLY_THERE, 96, 64, "disabled"]})
    overlay = page.window.locator("[data-testid=error-overlay]")
    expect(overlay).to_be_visible()
    page.wait_for_node(2, "node.has_errors")
    page.picture("off")
    page.switch_on()
    page.wait_for_node(2, "!node.has_errors")
    # The node that only the target has is one now, and not an empty shell any more.
    page.wait_for_node(3, "node.constructor.nodeData && !node.has_errors")
    expect(overlay).to_have_count(0)
    label = "node.widgets[0].options.getOptionLabel?.(node.widgets[0].value)"
    assert page.node(2, label) == f"{MODEL_ONLY_THERE} (remote)"
    page.window.wait_for_timeout(500)
    page.picture("on")
    page.switch.click()
    expect(page.switch).to_have_text("Remote OFF")
    page.wait_for_node(2, "node.has_errors")
    assert page.node(2, label) != f"{MODEL_ONLY_THERE} (remote)"
    page.picture("off-again")


def test_without_the_server_part_the_page_says_so(page: ComfyPage, server: PackServer) -> None:
    page.switch_on()
    page.window.route("**/remote/**", lambda route: route.fulfill(status=404, body="404"))
    page.window.reload()
    told = page.toasts.filter(has_text="requirements.txt").first
    expect(told).to_be_visible()
    expect(told).to_contain_text("Remote cannot be used here")
    page.picture("told")
