"""A packed workflow opened in ComfyUI's own page, with its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage
from PIL import Image
from playwright.sync_api import expect

from comfy_remote.workflow.packed import write_packed

pytest_plugins = ["page_fixtures"]

WORKFLOW = Path(__file__).resolve().parent / "scale_and_invert.json"


def test_a_packed_workflow_opens_with_its_picture(page: ComfyPage, tmp_path: Path) -> None:
    document = json.loads(
        WORKFLOW.read_text(encoding="utf-8").replace("InvertOnlyThere", "ImageInvert")
    )
    load = next(node for node in document["nodes"] if node["type"] == "LoadImage")
    load["widgets_values"][0] = "only in the zip.png"
    models = [{"name": "m", "directory": "vae", "url": "https://example.com/m.safetensors"}]
    load["properties"] = {**load.get("properties", {}), "models": models}
    Image.new("RGB", (8, 8), "red").save(tmp_path / "picture.png")
    packed = tmp_path / "portrait.zip"
    files = {"only in the zip.png": tmp_path / "picture.png"}
    write_packed(packed, json.dumps(document).encode(), None, files)
    with page.window.expect_file_chooser() as choosing:
        page.window.evaluate(
            "() => void window.app.extensionManager.command.execute('ComfyRemote.OpenPacked')"
        )
    choosing.value.set_files(packed)
    expect(page.toasts.filter(has_text="portrait is open").first).to_contain_text(
        "which are left out, as the file may be anybody's: "
        "model vae/m: https://example.com/m.safetensors"
    )
    page.wait_for_node(load["id"], "node.widgets[0].value === 'only in the zip.png'")
    choices = page.node(load["id"], "node.widgets[0].options.values")
    assert isinstance(choices, list)
    assert "only in the zip.png" in choices
    assert "example.com" not in json.dumps(
        page.window.evaluate("() => window.app.graph.serialize()")
    )
    page.run()
    entries = page.wait_for_history(1)
    assert entries[0]["status"]["status_str"] == "success"
