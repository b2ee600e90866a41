"""A route, made in the panel, and a job that it has sent."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage
from page_server import PackServer
from playwright.sync_api import expect

pytest_plugins = ["page_fixtures"]

INVERT = Path(__file__).resolve().parent / "invert.json"


def test_a_route_is_made_of_targets_and_says_where_it_sent_a_job(
    page: ComfyPage, server: PackServer
) -> None:
    page.load(INVERT)
    page.open_panel()
    page.panel.get_by_role("button", name="Add a target").click()
    page.panel.locator("[data-kind=route]").click()
    form = page.panel.locator("form[data-kind=route]")
    members = form.locator("li")
    # The first one cannot be used: its key is missing.
    form.get_by_role("button", name="Move gpu up").press("Enter")
    expect(members.first).to_contain_text("gpu")
    for name in ("gpu", "there"):
        form.get_by_role("checkbox", name=name, exact=True).check()
    form.get_by_label("Name (optional)").fill("any")
    page.picture("form")
    form.get_by_role("button", name="Test and add").click()
    expect(page.switch).to_contain_text("Remote: any")
    assert 'route = ["gpu", "there"]' in (server.home / "comfy-remote.toml").read_text()
    page.wait_until_listed()

    expect(page.window.locator(".comfy-remote-cost")).to_have_text("not run there yet")
    expect(page.panel).to_contain_text("As far as is known here, it goes to there.")
    page.run()
    row = page.panel.locator("[data-ended-id]").first
    expect(row).to_contain_text("any (there)")
    row.get_by_role("button", name="Open").click()
    expect(page.window.locator("dialog")).to_contain_text("Sent to there: gpu cannot be used")
    page.picture("why")
    page.window.keyboard.press("Escape")
    page.panel.get_by_role("button", name="Change", exact=True).click()
    expect(form.get_by_role("checkbox", name="there", exact=True)).to_be_checked()
    expect(form.get_by_role("checkbox", name="quiet", exact=True)).not_to_be_checked()
    assert not page.complaints
