"""What a run would cost, beside Run: it follows the graph, the queue's count and the switch."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage
from page_server import PackServer
from playwright.sync_api import Locator, Request, expect

from comfy_remote.events import JobState
from comfy_remote.jobs.record import Record
from comfy_remote.targets.base import RemoteRef
from comfy_remote.workflow.prompt import Prompt

pytest_plugins = ["page_fixtures"]

SLOW = Path(__file__).resolve().parents[2] / "examples" / "page" / "slow.json"
"""LoadImage 1 → SandboxSlow 2 → ImageInvert 3 → SaveImage 4."""


@pytest.fixture
def home(home: Path) -> Path:
    """One whose targets have prices: a dollar a minute, but for ``quiet``."""
    settings = home / "comfy-remote.toml"
    text = settings.read_text()
    for name in ("there", "gpu"):
        text = text.replace(f"[targets.{name}]", f"[targets.{name}]\nprice_per_hour = 60", 1)
    settings.write_text(text)
    return home


def cost(page: ComfyPage) -> Locator:
    return page.window.locator(".comfy-remote-cost")


def slow_prompt(steps: int) -> Prompt:
    """What the page makes of the workflow."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": "lighthouse.png"}},
        "2": {"class_type": "SandboxSlow", "inputs": {"image": ["1", 0], "steps": steps}},
        "3": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
    }


def ran(home: Path, url: str, seconds: float, steps: int) -> None:
    """Note a past run of the workflow on ``there``."""
    with Record(home) as record:
        job_id = str(uuid.uuid4())
        prompt = slow_prompt(steps)
        record.add(job_id, target="there", source="slow.json", folder=None, prompt=prompt)
        record.submitted(RemoteRef(job_id, job_id, {"url": url}))
        record.state(job_id, JobState.SUCCEEDED, run_seconds=seconds)


def set_steps(page: ComfyPage, steps: int) -> None:
    """As a script does: nobody notes it."""
    page.window.evaluate("(steps) => { app.graph.getNodeById(2).widgets[0].value = steps }", steps)


def type_steps(page: ComfyPage, steps: int) -> None:
    """Change a widget as a person does: the page notes it when the mouse is released."""
    set_steps(page, steps)
    page.window.mouse.click(800, 700)


def test_the_cost_of_a_run_stands_beside_run_and_follows_the_graph(
    page: ComfyPage, server: PackServer, there: str
) -> None:
    asked: list[object] = []  # the steps in each question

    def note(request: Request) -> None:
        if request.url.endswith("/remote/estimate"):
            nodes = request.post_data_json["prompt"]
            asked.append(nodes.get("2", {}).get("inputs", {}).get("steps"))

    page.window.on("request", note)
    expect(cost(page)).to_be_hidden()
    page.switch_on()
    page.load(SLOW, {2: [20, 0.01, False, 0, "fixed"]})
    expect(cost(page)).to_have_text("not run there yet")
    page.picture("unknown")

    ran(server.home, there, 30.0, 20)
    type_steps(page, 40)
    expect(cost(page)).to_have_text("about $0.93")
    expect(cost(page)).to_have_attribute(
        "title", "1 run: about 56 s and $0.93, by 1 run like it. Scaled by steps 20 → 40."
    )
    page.set_count(3)
    expect(cost(page)).to_have_text("about $2.80")
    page.open_panel()
    expect(page.panel).to_contain_text("3 runs: about 3 min and $2.80, by 1 run like it.")
    page.picture("panel")

    # Nothing is asked while something is dragged.
    page.window.mouse.move(800, 700)
    page.window.mouse.down()
    set_steps(page, 10)
    page.window.evaluate("() => app.api.dispatchCustomEvent('graphChanged', null)")
    page.window.mouse.move(820, 720)
    page.window.wait_for_timeout(1500)
    assert 10 not in asked
    page.window.mouse.up()
    expect(cost(page)).to_have_text("about $0.85")

    # Another target, then here again.
    page.panel.get_by_label("Target", exact=True).select_option("quiet")
    expect(cost(page)).to_have_text("not run there yet")
    page.switch.click()
    expect(cost(page)).to_be_hidden()
    assert not page.complaints
