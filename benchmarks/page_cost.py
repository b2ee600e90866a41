"""What showing the cost of a run costs the page's thread, each time that the graph changes."""

from __future__ import annotations

import statistics
from typing import Any

from page_typing import large_graph

_CHANGES = 20
_OURS = "/extensions/"
_NOT_OURS = "graphToPrompt"
_SETTLED = 300  # milliseconds
_EVERY = 100  # microseconds between two samples

_CHANGE = """(width) => {
  const { app } = window
  app.graph.getNodeById(2).widgets[1].value = width
  app.api.dispatchCustomEvent('graphChanged', null)
}"""


def bench_page_cost() -> None:
    """Milliseconds of our scripts for a change, without the page's own graphToPrompt."""
    with large_graph() as page:
        window = page.window
        session = window.context.new_cdp_session(window)
        session.send("Profiler.enable")
        session.send("Profiler.setSamplingInterval", {"interval": _EVERY})
        page.switch_on("Remote: gpu")
        window.locator(".comfy-remote-cost").wait_for()
        times = []
        for number in range(-2, _CHANGES):
            session.send("Profiler.start")
            with window.expect_response(lambda one: one.url.endswith("/remote/estimate")):
                window.evaluate(_CHANGE, 64 + number)
            window.wait_for_timeout(_SETTLED)
            profile = session.send("Profiler.stop")["profile"]
            if number >= 0:
                times.append(_milliseconds(profile))
        print(
            f"page-cost: {statistics.median(times):.1f} ms a change in the median of "
            f"{_CHANGES}, {max(times):.1f} ms at most, on 500 nodes"
        )


def _milliseconds(profile: dict[str, Any]) -> float:
    """Of our functions and all that they call, but for what the page makes of its graph."""
    nodes = {node["id"]: node for node in profile["nodes"]}
    spent = dict.fromkeys(nodes, 0)
    for sample, delta in zip(profile["samples"], profile["timeDeltas"], strict=True):
        spent[sample] += delta

    def below(node: dict[str, Any], ours: bool) -> float:
        frame = node["callFrame"]
        if frame["functionName"] == _NOT_OURS:
            return 0.0
        ours = ours or _OURS in frame["url"]
        rest = sum(below(nodes[child], ours) for child in node.get("children", ()))
        return rest + (spent[node["id"]] if ours else 0)

    return below(profile["nodes"][0], ours=False) / 1000
