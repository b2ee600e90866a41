"""How long the page's thread is busy while somebody types what varies, in a graph of 500 nodes."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from page_window import server_and_browser

_NODES = 500
_TYPED = "16,17,18,19,20,21,22,23"
_SETTLED = 2500  # milliseconds

# The browser's own word for what holds the thread for more than 50 ms.
_OBSERVE = """() => {
  window.longTasks = []
  window.observer = new PerformanceObserver((list) => note(list.getEntries()))
  const note = (entries) => window.longTasks.push(...entries.map((one) => one.duration))
  window.observer.observe({ entryTypes: ['longtask'] })
  const field = document.createElement('input')
  field.id = 'plain'
  field.style = 'position: fixed; top: 0; left: 40%; z-index: 9999'
  document.body.append(field)
}"""
_TAKE = """() => {
  window.longTasks.push(...window.observer.takeRecords().map((one) => one.duration))
  return window.longTasks.splice(0)
}"""


@contextmanager
def large_graph() -> Iterator[Any]:
    """The page (a `ComfyPage`) with the graph open; its server has a target ``gpu``, which is off.

    Raises:
        Skipped: There is no browser, or only a tiny run is wanted.
    """
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made,
        _home(Path(made, "home")),
        server_and_browser(Path(made)) as (url, browser),
    ):
        from comfy_page import ComfyPage

        workflow = Path(made) / "large.json"
        workflow.write_text(json.dumps(_graph()), encoding="utf-8")
        window = browser.new_page(viewport={"width": 1400, "height": 900})
        page = ComfyPage(window, url, Path(made), "typing")
        page.open()
        page.load(workflow)
        yield page


@contextmanager
def _home(folder: Path) -> Iterator[None]:
    """Settings of its own."""
    folder.mkdir()
    settings = '[targets.gpu]\ntarget = "http://127.0.0.1:9"\nprice_per_hour = 0.7\n'
    (folder / "comfy-remote.toml").write_text(settings, encoding="utf-8")
    before = os.environ.get("COMFY_REMOTE_HOME")
    os.environ["COMFY_REMOTE_HOME"] = str(folder)
    try:
        yield
    finally:
        del os.environ["COMFY_REMOTE_HOME"]
        if before is not None:
            os.environ["COMFY_REMOTE_HOME"] = before


def bench_page_typing() -> None:
    """Long tasks while values are typed into Vary, against a plain field, twice in turn."""
    with large_graph() as page:
        window = page.window
        vary = _vary(page)
        window.evaluate(_OBSERVE)
        plain = window.locator("#plain")
        for what, field in (("a plain field", plain), ("Vary", vary)) * 2:
            field.click()
            window.wait_for_timeout(_SETTLED)
            window.evaluate(_TAKE)
            field.press_sequentially(f"{_TYPED},", delay=60)
            while_typed = window.evaluate(_TAKE)
            window.wait_for_timeout(_SETTLED)
            print(
                f"page-typing, {_NODES} nodes, {what}: {_said(while_typed)} while typing "
                f"{len(_TYPED) + 1} characters, {_said(window.evaluate(_TAKE))} after it"
            )


def _vary(page: Any) -> Any:
    """The field of a node's input that varies."""
    page.window.evaluate(
        "() => { const { app } = window; app.canvas.selectNode(app.graph.getNodeById(2));"
        " void app.extensionManager.command.execute('ComfyRemote.Vary') }"
    )
    dialog = page.window.locator("dialog.comfy-remote-modal")
    dialog.get_by_label("width", exact=True).check()
    dialog.get_by_role("button", name="OK").click()
    return page.panel.locator("[data-name='2.width']").get_by_role("textbox")


def _said(tasks: list[float]) -> str:
    return f"{len(tasks)} long tasks ({max(tasks, default=0):.0f} ms at most)"


def _graph() -> dict[str, Any]:
    """EmptyImage, and nodes that scale, one after the other."""
    image = {"name": "IMAGE", "type": "IMAGE"}
    nodes: list[dict[str, Any]] = []
    for number in range(1, _NODES + 1):
        first = number == 1
        nodes.append(
            {
                "id": number,
                "type": "EmptyImage" if first else "ImageScale",
                "pos": [number % 25 * 260, number // 25 * 220],
                "size": [250, 150],
                "mode": 0,
                "inputs": [] if first else [{"name": "image", "type": "IMAGE", "link": number}],
                "outputs": [{**image, "links": [number + 1] if number < _NODES else []}],
                "widgets_values": [16, 16, 1, 0] if first else ["bilinear", 16, 16, "disabled"],
            }
        )
    links = [[n, n - 1, 0, n, 0, "IMAGE"] for n in range(2, _NODES + 1)]
    return {
        "version": 0.4,
        "last_node_id": _NODES,
        "last_link_id": _NODES,
        "nodes": nodes,
        "links": links,
        "extra": {"ds": {"scale": 0.2, "offset": [50, 50]}},
    }
