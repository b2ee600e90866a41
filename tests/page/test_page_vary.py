"""Varying a workflow in ComfyUI's own page: chosen in a node, run, looked through, used again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage
from PIL import Image
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


def count_drawings_of_vary(page: ComfyPage) -> None:
    page.window.evaluate(
        "() => { const { canvas } = window.app; const draw = canvas.setDirty.bind(canvas);"
        " window.drawings = 0; canvas.setDirty = (...how) => {"
        " window.drawings += new Error().stack.includes('vary') ? 1 : 0; draw(...how) } }"
    )


def test_a_node_varies_here_and_its_runs_are_looked_through(
    page: ComfyPage, tmp_path: Path
) -> None:
    """Remote is off: it runs on the page's own server."""
    scale = open_workflow(page, tmp_path)
    vary(page, scale, "width", "upscale_method")
    width = varied(page, f"{scale}.width").get_by_role("textbox")
    run = page.panel.locator(".comfy-remote-vary").get_by_role("button", name=re.compile("^Run"))
    count_drawings_of_vary(page)
    width.press_sequentially("16..")
    expect(page.panel.locator(".comfy-remote-vary [role=alert]")).to_contain_text("16..")
    # Once, when the badge is another: to draw a large graph takes as long as several keys.
    assert page.window.evaluate("() => window.drawings") == 1
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
    # Not the first picture: runs end in any order.
    batch.locator(".comfy-remote-picture[title*='width = 18']").first.click()
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


def command(*words: str) -> tuple[int, str]:
    """``comfy-remote batch``, in a process of its own; its exit status, and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "comfy_remote", "batch", *words],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="finds the driver by its arguments in /proc")
def test_three_axes_are_killed_resumed_retried_and_looked_through(
    page: ComfyPage, there: str, tmp_path: Path
) -> None:
    """Begun in the page, finished in the terminal, and nothing lost or run twice in between."""
    if not page.window.evaluate("() => 'SandboxSlow' in window.LiteGraph.registered_node_types"):
        pytest.skip("only the sandbox has a node that takes its time")
    document = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    document["nodes"][2] |= {"type": "SandboxSlow", "widgets_values": [4, 0.25, False, 1, "fixed"]}
    (tmp_path / "w.json").write_text(json.dumps(document), encoding="utf-8")
    page.load(tmp_path / "w.json")
    page.switch_on()
    vary(page, 2, "width", "upscale_method", "crop")
    varied(page, "2.width").get_by_role("textbox").fill("16..18")
    varied(page, "2.upscale_method").locator("select[multiple]").select_option(["area", "bilinear"])
    varied(page, "2.crop").locator("select[multiple]").select_option(["disabled", "center"])
    page.panel.locator(".comfy-remote-vary").get_by_role("button", name="Run 12").click()
    batch = page.panel.locator("[data-batch-id]").first
    expect(batch).to_contain_text(re.compile(r"\b[1-9] of 12 done"), timeout=60_000)
    batch_id = batch.get_attribute("data-batch-id") or ""
    drivers = subprocess.run(["pgrep", "-f", batch_id], capture_output=True, text=True, check=True)
    for process in drivers.stdout.split():
        os.kill(int(process), signal.SIGKILL)
    expect(batch).to_contain_text("interrupted", timeout=90_000)

    picture = next(tmp_path.rglob("input/lighthouse.png"))
    as_it_was = picture.read_bytes()
    Image.new("RGB", (8, 8)).save(picture)  # by somebody else, under the same name
    status, said = command("resume", batch_id)
    assert status != 0 and "lighthouse.png" in said and "changed" in said
    picture.write_bytes(as_it_was)
    status, said = command("retry", batch_id)
    assert status == 0, said
    expect(batch).to_contain_text("12 of 12 done", timeout=90_000)
    with urllib.request.urlopen(f"{there}/history", timeout=60) as answer:
        prompts = [json.dumps(one["prompt"][2]) for one in json.load(answer).values()]
    slow = [one for one in prompts if "SandboxSlow" in one]
    assert len(slow) == len(set(slow)) == 12, "each once"
    [manifest] = tmp_path.rglob("manifest.jsonl")
    runs = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    assert sorted(one["row"] for one in runs) == list(range(12))
    # How long it ran is not known of the few that ran while nobody followed them. A driver that has
    # no processor for a while sees a run begin late.
    assert len([one for one in runs if one["seconds"] and one["seconds"] > 0.1]) >= 9
    with page.window.expect_popup() as opened:
        batch.get_by_role("link", name="Sheet").click()
    sheet = opened.value
    expect(sheet.locator("body")).to_contain_text("12 runs")
    expect(sheet.locator("img").first).to_be_visible()
    sheet.screenshot(path=page.artefacts / f"{page.name}-sheet.png")
    assert not page.complaints
