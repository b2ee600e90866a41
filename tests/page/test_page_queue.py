"""ComfyUI's own buttons for the queue, while jobs run and wait on a target."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage
from playwright.sync_api import expect

pytest_plugins = ["page_fixtures"]

SLOW = Path(__file__).resolve().parents[2] / "examples" / "page" / "slow.json"
"""LoadImage 1 → SandboxSlow 2 → ImageInvert 3 → SaveImage 4."""

# What the pages call the button, by version.
CANCEL = "button[aria-label='Cancel current run'], button[aria-label='Interrupt']"


def states(page: ComfyPage) -> tuple[int, int]:
    """How many jobs the server says run and wait."""
    queue = page.window.evaluate("async () => (await fetch('/queue')).json()")
    return len(queue["queue_running"]), len(queue["queue_pending"])


def wait_for_states(page: ComfyPage, wanted: tuple[int, int]) -> None:
    for _ in range(450):
        if states(page) == wanted:
            return
        page.window.wait_for_timeout(200)
    raise AssertionError(f"{states(page)} run and wait, not {wanted}")


def test_waiting_jobs_can_be_cleared_while_one_runs(page: ComfyPage) -> None:
    page.switch_on()
    page.load(SLOW, {2: [3000, 0.2, False, 0, "randomize"]})
    page.run(batch=3)
    wait_for_states(page, (1, 2))
    page.window.evaluate("() => app.extensionManager.command.execute('Comfy.ClearPendingTasks')")
    wait_for_states(page, (1, 0))
    page.picture("cleared")
    cancel = page.window.locator(CANCEL).first
    expect(cancel).to_be_enabled()
    cancel.click()
    wait_for_states(page, (0, 0))
    states_of = [entry["status"]["status_str"] for entry in page.wait_for_history(3)]
    assert states_of == ["error"] * 3


def test_the_run_that_goes_on_can_be_cancelled(page: ComfyPage) -> None:
    page.switch_on()
    page.load(SLOW, {2: [3000, 0.2, False, 0, "fixed"]})
    page.run()
    wait_for_states(page, (1, 0))
    page.open_panel()
    page.panel.get_by_label("Target", exact=True).select_option("sandbox")
    expect(page.switch).to_contain_text("Remote: sandbox")
    page.wait_until_listed()
    page.load(SLOW, {2: [5, 0.2, False, 0, "fixed"]})
    page.run()
    page.wait_for_history(1)
    wait_for_states(page, (1, 0))
    page.picture("one-ended")
    cancel = page.window.locator(CANCEL).first
    expect(cancel).to_be_enabled()
    cancel.click()
    page.wait_for_history(2)
