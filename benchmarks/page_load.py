"""How long ComfyUI's page takes to load with the pack, and without its scripts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from common import report, size
from page_window import server_and_browser

_LOADS = size(20, 1)

# The workflow is put into the graph once all extensions are set up.
_LOADED = """() => new Promise((resolve) => {
  const look = () => {
    const graph = window.app?.graph
    const nodes = graph?.nodes ?? graph?._nodes ?? []
    if (nodes.length > 0) resolve(performance.now())
    else setTimeout(look, 5)
  }
  look()
})"""


def bench_page_load() -> None:
    """Loads with an empty cache, in turn: on the same server, whose list of scripts differs."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        server_and_browser(Path(folder)) as (url, browser),
    ):
        times: dict[bool, list[float]] = {True: [], False: []}
        work: dict[bool, list[float]] = {True: [], False: []}
        for number in range(-1, _LOADS):
            for with_pack in (True, False) if number % 2 else (False, True):
                seconds, busy = _load(browser, url, with_pack=with_pack)
                if number >= 0:
                    times[with_pack].append(seconds)
                    work[with_pack].append(busy)
    report("page-load", times[True], times[False], "without the pack's scripts")
    report("page-load, processor", work[True], work[False], "without the pack's scripts")


def _load(browser: Any, url: str, *, with_pack: bool) -> tuple[float, float]:
    """Seconds until the workflow is there, and those of processor time of the page's thread."""
    context = browser.new_context()
    page = context.new_page()
    if not with_pack:

        def without(route: Any) -> None:
            scripts = route.fetch().json()
            route.fulfill(json=[one for one in scripts if "comfy-remote" not in _words(one)])

        page.route("**/extensions", without)
    session = context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(url, wait_until="commit", timeout=120_000)
    seconds = page.evaluate(_LOADED) / 1000
    found = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    context.close()
    return seconds, found["TaskDuration"]


def _words(script: str) -> str:
    return script.lower().replace("_", "-").replace("%2d", "-")
