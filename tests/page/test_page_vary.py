"""Varying a workflow in ComfyUI's own page: chosen in a node, run, looked through, used again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage
from playwright.sync_api import Locator, expect

pytest_plugins = ["page_fixtures"]

HERE = Path(__file__).resolve().parent
WORKFLOW = HERE / "scale_and_invert.json"


def open_workflow(page: ComfyPage, folder: Path) -> int:
    """LoadImage → ImageScale → ImageInvert → SaveImage; the id of the second."""
    text = WORKFLOW.read_text(encoding="utf-8").replace("InvertOnlyThere", "ImageInvert")
    (folder / "w.json").write_text(text, encoding="utf-8")
    page.load(folder / "w.json")
    return 2


def vary(page: ComfyPage, node_id: int, *inputs: str) -> None:
    """Select a node, and choose what varies in it, as the menu bar does."""
    page.window.evaluate(
        "(id) => { const { app } = window; app.canvas.deselectAll?.();"
        " app.canvas.selectNode(app.graph.getNodeById(id)) }",
        node_id,
    )
    page.window.evaluate(
        "() => void window.app.extensionManager.command.execute('ComfyRemote.Vary')"
    )
    dialog = page.window.locator("dialog.comfy-remote-modal")
    for name in inputs:
        dialog.get_by_label(name, exact=True).check()
    dialog.get_by_role("button", name="OK").click()


def varied(page: ComfyPage, name: str) -> Locator:
    """Where the values of an input are typed."""
    return page.panel.locator(f"[data-name='{name}']")


def test_a_node_varies_here_and_its_runs_are_looked_through(
    page: ComfyPage, tmp_path: Path
) -> None:
    """Remote is off: it runs on the page's own server."""
    scale = open_workflow(page, tmp_path)
    vary(page, scale, "width", "upscale_method")
    width = varied(page, f"{scale}.width").get_by_role("textbox")
    run = page.panel.locator(".comfy-remote-vary").get_by_role("button", name=re.compile("^Run"))
    width.fill("16..")
    expect(page.panel.locator(".comfy-remote-vary [role=alert]")).to_contain_text("16..")
    expect(run).to_be_disabled()
    width.fill("16..18")
    methods = varied(page, f"{scale}.upscale_method").locator("select[multiple]")
    methods.select_option(["bilinear", "area"])
    expect(page.panel.locator(".comfy-remote-vary")).to_contain_text("6 runs")
    badges = page.node(
        scale, "node.badges.map((one) => (typeof one === 'function' ? one() : one).text)"
    )
    assert "⇄ upscale_method, width" in badges  # type: ignore[operator]
    page.picture("vary")
    before = page.node(scale, "node.widgets.map((one) => one.value)")
    run.click()
    batch = page.panel.locator("[data-batch-id]").first
    expect(batch).to_contain_text("6 of 6 done", timeout=60_000)
    assert page.node(scale, "node.widgets.map((one) => one.value)") == before
    pictures = batch.locator(".comfy-remote-picture")
    expect(pictures).to_have_count(6)
    page.picture("batch")
    pictures.nth(0).click()  # the last run
    page.wait_for_node(scale, "node.widgets.find((one) => one.name === 'width').value === 18")
    with page.window.expect_popup() as opened:
        batch.get_by_role("link", name="Sheet").click()
    sheet = opened.value
    expect(sheet.locator("body")).to_contain_text("upscale_method")
    sheet.screenshot(path=page.artefacts / f"{page.name}-sheet.png")
    assert not page.complaints


def test_what_varies_together_and_on_a_target(page: ComfyPage, tmp_path: Path) -> None:
    scale = open_workflow(page, tmp_path)
    page.switch_on()
    vary(page, scale, "width", "height")
    varied(page, f"{scale}.width").get_by_role("textbox").fill("8,16")
    height = varied(page, f"{scale}.height")
    height.get_by_role("textbox").fill("8,16")
    panel = page.panel.locator(".comfy-remote-vary")
    expect(panel).to_contain_text("4 runs")
    height.locator("select").select_option(f"{scale}.width")
    expect(panel).to_contain_text("2 runs")
    panel.get_by_role("button", name="Run 2").click()
    batch = page.panel.locator("[data-batch-id]").first
    expect(batch).to_contain_text("2 of 2 done", timeout=60_000)
    expect(batch).to_contain_text("there")
    batch.get_by_role("button", name="Remove").click()
    page.window.locator("dialog.comfy-remote-modal").get_by_role("button", name="Remove").click()
    expect(page.panel.locator("[data-batch-id]")).to_have_count(0)
    panel.get_by_role("button", name="Vary nothing").click()
    expect(panel).to_contain_text("Select a node")
    assert not page.complaints
