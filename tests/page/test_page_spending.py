"""Caps on spending in the page: a run that is refused, a yes to one, the form, what was spent."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage
from page_server import PackServer
from playwright.sync_api import Locator, Response, expect

from comfy_remote.events import JobState
from comfy_remote.jobs.record import Record
from comfy_remote.schedule.money import Charge, Price

pytest_plugins = ["page_fixtures"]

INVERT = Path(__file__).resolve().parent / "invert.json"


@pytest.fixture
def home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One with a cap, and a target that is billed, where nobody answers."""
    settings = home / "comfy-remote.toml"
    settings.write_text(
        f"cap_per_day = 7\n{settings.read_text()}"
        '[targets.paid]\ntarget = "modal:x"\nbase_url = "https://paid.invalid"\n'
        "price_per_hour = 36\n"
        'headers_env = { Modal-Key = "PAGE_TEST_KEY", Modal-Secret = "PAGE_TEST_KEY" }\n'
    )
    monkeypatch.setenv("PAGE_TEST_KEY", "a-key-for-this-test")
    return home


def ran(home: Path) -> None:
    """Note a run that was expected to cost $0.75, and cost $1.50."""
    with Record(home) as record:
        job_id, price = str(uuid.uuid4()), Price(36.0, "your settings")
        charge = Charge("paid", price, bound=600.0, expected=75.0)
        record.add(job_id, target="paid", source="cat.json", folder=None, prompt={}, charge=charge)
        record.state(job_id, JobState.SUCCEEDED, run_seconds=150.0, billed=150.0)


def dialog(page: ComfyPage) -> Locator:
    return page.window.locator("dialog.comfy-remote-modal")


def test_a_run_over_a_cap_is_refused_and_runs_after_a_yes(
    page: ComfyPage, server: PackServer
) -> None:
    ran(server.home)
    answers: list[Response] = []
    page.window.on(
        "response", lambda one: answers.append(one) if one.url.endswith("/prompt") else None
    )
    page.load(INVERT)
    page.open_panel()
    expect(page.panel.locator(".comfy-remote-today")).to_have_text("$1.50 of $7.00 today")
    row = page.panel.locator("[data-ended-id]").first
    expect(row).to_contain_text("2:30 · $1.50")
    expect(row).to_contain_text("expected: about 75 s and $0.75")
    page.panel.get_by_label("Target", exact=True).select_option("paid")
    page.switch_on("Remote: paid")
    page.picture("today")

    page.run()
    expect(dialog(page)).to_contain_text(
        "This run may cost $6.00 on paid, and $1.50 is spent or reserved today. "
        "The cap is $7.00 a day."
    )
    page.picture("over")
    dialog(page).get_by_role("button", name="Change the caps").click()
    page.dismiss_dialog()
    form = page.panel.locator(".comfy-remote-spending")
    expect(form.get_by_label("A day")).to_have_value("7")
    expect(form).to_contain_text("$7.00 a day, $1.50 of it spent")
    form.get_by_label("A run").fill("0.5")
    form.get_by_label("A day").fill("")
    form.get_by_role("button", name="Save caps").click()
    expect(form).to_contain_text("Saved in")
    expect(page.panel.locator(".comfy-remote-today")).to_have_text("$1.50 today")
    assert "cap_per_job = 0.5" in (server.home / "comfy-remote.toml").read_text()
    form.get_by_label("Caps for").select_option("gpu")
    expect(form.get_by_label("A run")).to_have_value("")
    page.picture("caps")

    page.run()
    expect(dialog(page)).to_contain_text("The cap is $0.50 a run.")
    refused = len(answers)
    dialog(page).get_by_role("button", name="Run once over the cap").click()
    expect(dialog(page)).to_have_count(0)
    page.dismiss_dialog()
    expect(page.toasts.filter(has_text="paid.invalid").first).to_be_visible()
    assert len(answers) == refused + 1
    page.dismiss_dialog()
    # One yes, one run.
    page.run()
    expect(dialog(page)).to_contain_text("The cap is $0.50 a run.")
    page.window.keyboard.press("Escape")
    expect(dialog(page)).to_have_count(0)
    assert not page.complaints


def test_a_result_from_the_cache_is_shown_as_one(page: ComfyPage, server: PackServer) -> None:
    page.window.evaluate("() => app.extensionManager.setting.set('ComfyRemote.Cache', 'use')")
    page.load(INVERT)
    page.switch_on()
    page.open_panel()
    ended = page.panel.locator("[data-ended-id]")
    page.run()
    expect(ended).to_have_count(1)
    with Record(server.home) as record:
        for _ in range(900):
            if record.results.all():
                break
            page.window.wait_for_timeout(100)
    page.run()
    expect(ended).to_have_count(2)
    expect(ended.first).to_contain_text(re.compile("from [0-9]+ (s|min) ago"))
    [first, again] = [entry["outputs"] for entry in page.wait_for_history(2)]
    assert first.keys() == again.keys()
    ended.first.get_by_role("button", name="Open").click()
    page.window.wait_for_function("() => document.querySelector('dialog img')?.naturalWidth > 0")
    page.picture("cached")
    assert not page.complaints
