"""Remote API in a real ComfyUI's page: its inputs grow, have names, and are saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ARTEFACTS, BROWSERS, ComfyPage
from page_server import PackServer, start_server
from playwright.sync_api import sync_playwright

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(240)]

INPUTS = "node.inputs.filter(i => !i.widget).map(i => i.label || i.name).join()"
NAMES = "node.inputs.filter(i => !i.widget).map(i => i.name).join()"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackServer]:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    with start_server("comfyui", tmp_path) as server:
        yield server


@pytest.fixture
def page(server: PackServer) -> Iterator[ComfyPage]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).is_file():
            pytest.skip("skipped: no Chromium (or: playwright install chromium)")
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu"]
        )
        window = browser.new_page(viewport={"width": 1400, "height": 900})
        page = ComfyPage(window, server.url, ARTEFACTS, "remote-api")
        page.open()
        yield page
        browser.close()
    assert page.complaints == []


def _made(page: ComfyPage) -> tuple[int, int]:
    """A Remote API, and an EmptyImage beside it."""
    made: Any = page.window.evaluate(
        """() => {
            const graph = window.app.graph
            graph.clear()
            const api = window.LiteGraph.createNode('ComfyRemoteNode')
            const image = window.LiteGraph.createNode('EmptyImage')
            graph.add(api)
            graph.add(image)
            api.pos = [500, 200]
            image.pos = [100, 200]
            return [api.id, image.id]
        }"""
    )
    return made[0], made[1]


def _connect(page: ComfyPage, image: int, api: int, name: str) -> None:
    page.window.evaluate(
        """([image, api, name]) => {
            const graph = window.app.graph
            const to = graph.getNodeById(api)
            const slot = to.inputs.findIndex((input) => input.name === name)
            graph.getNodeById(image).connect(0, to, slot)
        }""",
        [image, api, name],
    )


def test_inputs_grow_and_are_saved(page: ComfyPage) -> None:
    api, image = _made(page)
    page.wait_for_node(api, f"{NAMES} === 'input_0'")
    for number in range(18):  # more than the definition has
        _connect(page, image, api, f"input_{number}")
        page.wait_for_node(api, f"{NAMES}.endsWith('input_{number + 1}')")
    page.window.evaluate(
        """(api) => {
            const node = window.app.graph.getNodeById(api)
            for (const [name, value] of [['keys', 'image, mask'], ['output_type', 'IMAGE']]) {
                const widget = node.widgets.find((one) => one.name === name)
                widget.value = value
                widget.callback?.(value)
            }
        }""",
        api,
    )
    page.wait_for_node(api, f"{INPUTS}.startsWith('image,mask,input_2')")
    assert page.node(api, "node.outputs[0].type") == "IMAGE"
    page.window.wait_for_timeout(500)
    page.picture("grown")
    prompt: Any = page.window.evaluate("async () => (await window.app.graphToPrompt()).output")
    sent = prompt[str(api)]["inputs"]
    assert [name for name in sent if name.startswith("input_")] == [
        f"input_{number}" for number in range(18)
    ]
    saved: Any = page.window.evaluate("() => window.app.graph.serialize()")
    page.window.evaluate("(saved) => window.app.loadGraphData(saved)", saved)
    page.wait_for_node(api, f"{NAMES}.endsWith('input_18')")
    assert page.node(api, "node.inputs.filter(i => i.link != null).length") == 18
    assert page.node(api, "node.outputs[0].type") == "IMAGE"
    again: Any = page.window.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert again == prompt


def test_inputs_that_are_free_again_go(page: ComfyPage) -> None:
    api, image = _made(page)
    page.wait_for_node(api, f"{NAMES} === 'input_0'")
    for number in range(3):
        _connect(page, image, api, f"input_{number}")
        page.wait_for_node(api, f"{NAMES}.endsWith('input_{number + 1}')")
    for name, left in (("input_1", 4), ("input_2", 2), ("input_0", 1)):
        page.window.evaluate(
            """([api, name]) => {
                const node = window.app.graph.getNodeById(api)
                node.disconnectInput(node.inputs.findIndex((input) => input.name === name))
            }""",
            [api, name],
        )
        page.wait_for_node(api, f"node.inputs.filter(i => !i.widget).length === {left}")


def test_a_workflow_of_anothers_version_keeps_its_links(page: ComfyPage) -> None:
    api, image = _made(page)
    page.wait_for_node(api, f"{NAMES} === 'input_0'")
    _connect(page, image, api, "input_0")
    page.wait_for_node(api, f"{NAMES} === 'input_0,input_1'")
    saved = json.dumps(page.window.evaluate("() => window.app.graph.serialize()"))
    saved = saved.replace('"input_0"', '"input_0_$remote_inputs_ag$"')
    page.window.evaluate("(saved) => window.app.loadGraphData(saved)", json.loads(saved))
    page.window.wait_for_timeout(1000)
    prompt: Any = page.window.evaluate("async () => (await window.app.graphToPrompt()).output")
    links = {k: v for k, v in prompt[str(api)]["inputs"].items() if isinstance(v, list)}
    assert list(links.values()) == [[str(image), 0]]
    page.picture("old-names")
