"""The panel's jobs: a batch in progress, what has ended, and what can be done with each."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage, OpenPage
from page_server import PackServer
from playwright.sync_api import Locator, expect

from comfy_remote.errors import ExecutionFailed
from comfy_remote.events import JobState
from comfy_remote.jobs.record import Record

pytest_plugins = ["page_fixtures"]

SLOW = Path(__file__).resolve().parents[2] / "examples" / "page" / "slow.json"
"""LoadImage 1 → SandboxSlow 2 → ImageInvert 3 → SaveImage 4."""

PROMPT = {"1": {"class_type": "SandboxSlow", "inputs": {"steps": 3}}}


@pytest.fixture
def home(home: Path) -> Path:
    """One whose target has a price."""
    settings = home / "comfy-remote.toml"
    text = settings.read_text().replace("[targets.gpu]", "price_per_hour = 36.0\n[targets.gpu]", 1)
    settings.write_text(text)
    return home


def ended(page: ComfyPage) -> Locator:
    return page.panel.locator("[data-ended-id]")


def running(page: ComfyPage) -> Locator:
    return page.panel.locator("[data-prompt-id]")


def record_failure(home: Path) -> str:
    """A job that a terminal has sent, and that failed."""
    job_id = str(uuid.uuid4())
    with Record(home) as record:
        record.add(
            job_id, target="there", source="poster.json", folder=home / "elsewhere", prompt=PROMPT
        )
        record.state(
            job_id,
            JobState.FAILED,
            ExecutionFailed("The GPU is out of memory.", advice="Make the picture smaller."),
        )
    return job_id


def test_a_batch_is_listed_and_what_has_ended_is_opened_and_run_again(
    page: ComfyPage, server: PackServer
) -> None:
    page.switch_on()
    page.load(SLOW, {2: [6, 0.2, False, 0, "fixed"]})
    page.open_panel()
    page.run()
    expect(ended(page)).to_have_count(1)
    first = ended(page).first
    # The page's own name for what was never saved.
    expect(first).to_contain_text("Unsaved Workflow")
    expect(first).to_contain_text("there")
    expect(first).to_contain_text("$0.0")
    page.picture("ended")

    first.get_by_role("button", name="Open").click()
    picture = page.window.locator("dialog img")
    expect(picture).to_be_visible()
    page.window.wait_for_function("() => document.querySelector('dialog img').naturalWidth > 0")
    page.picture("opened")
    page.window.keyboard.press("Escape")

    first.get_by_role("button", name="Run again").click()
    expect(ended(page)).to_have_count(2)
    expect(ended(page).first).to_contain_text("(run 2)")
    [one, two] = [entry["prompt"] for entry in page.wait_for_history(2)]
    assert one[2] == two[2]
    assert one[3]["extra_pnginfo"] == two[3]["extra_pnginfo"]
    assert len(list((server.directory / "output").glob("night_*.png"))) == 2

    page.load(SLOW, {2: [3000, 0.2, False, 0, "randomize"]})
    page.run(batch=9)
    # One runs and eight wait: the five that are next are shown.
    expect(running(page)).to_have_count(6)
    expect(page.panel).to_contain_text("1 running, 8 waiting")
    expect(page.panel.locator("progress[value]").first).to_be_visible()
    expect(running(page).first).to_contain_text("left")
    expect(running(page).last).to_contain_text("takes about")
    page.picture("batch")
    page.panel.get_by_role("button", name="Show 3 more").click()
    expect(running(page)).to_have_count(9)
    page.panel.get_by_role("button", name="Cancel all").click()
    page.window.locator("dialog").get_by_role("button", name="Cancel all").click()
    expect(running(page)).to_have_count(0, timeout=90_000)
    expect(page.panel.locator("[data-ended-id]", has_text="cancelled").first).to_be_visible()
    page.wait_for_history(11)
    expect(page.panel.get_by_role("button", name="Show more")).to_be_visible()
    page.panel.get_by_role("button", name="Show more").click()
    expect(ended(page)).to_have_count(11)
    page.picture("cancelled")
    assert not page.complaints


def test_what_failed_in_a_terminal_says_why(
    page: ComfyPage, server: PackServer, open_page: OpenPage
) -> None:
    job_id = record_failure(server.home)
    page.open_panel()
    row = page.panel.locator(f"[data-ended-id='{job_id}']")
    expect(row).to_contain_text("poster.json")
    expect(row).to_contain_text("The GPU is out of memory.")
    row.get_by_role("button", name="Why").click()
    dialog = page.window.locator("dialog")
    expect(dialog).to_contain_text("Make the picture smaller.")
    page.picture("why")
    page.window.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
