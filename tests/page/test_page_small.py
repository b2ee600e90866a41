"""The switch in a small window and in App mode: an icon, in sight."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage
from playwright.sync_api import expect

pytest_plugins = ["page_fixtures"]

LABEL_WIDTH = "() => document.querySelector('.comfy-remote-label').getBoundingClientRect().width"
APP_MODE = "Comfy.ToggleLinear"


def in_sight(page: ComfyPage) -> None:
    """Whether the switch can be clicked where it is."""
    expect(page.switch).to_be_in_viewport(ratio=0.9)


def test_in_a_small_window_the_switch_is_an_icon(page: ComfyPage) -> None:
    for width in (760, 400):
        page.window.set_viewport_size({"width": width, "height": 800})
        in_sight(page)
        assert page.window.evaluate(LABEL_WIDTH) <= 1
        page.switch.click()
        # Read by a screen reader, and by tests.
        expect(page.switch).to_contain_text("Remote: there")
        page.picture(f"on-{width}")
        page.wait_until_listed()
        page.switch.click()
        expect(page.switch).to_have_text("Remote OFF")
        page.wait_until_listed()
    page.window.set_viewport_size({"width": 1400, "height": 900})
    in_sight(page)
    page.window.wait_for_function(f"() => ({LABEL_WIDTH})() > 20")
    expect(page.window.locator(".comfy-remote-floating")).to_have_count(0)


def test_app_mode_has_the_switch(page: ComfyPage) -> None:
    known = page.window.evaluate(
        "(id) => app.extensionManager.command.commands.some((one) => one.id === id)", APP_MODE
    )
    if not known:
        pytest.skip("skipped: this page has no App mode")
    page.window.evaluate("(id) => app.extensionManager.command.execute(id)", APP_MODE)
    expect(page.window.locator(".comfy-remote-floating")).to_have_count(1)
    in_sight(page)
    page.switch.click()
    expect(page.switch).to_contain_text("Remote: there")
    page.window.locator(".comfy-remote-more").click()
    page.window.wait_for_timeout(2000)
    expect(page.window.locator(".comfy-remote-panel:visible")).to_have_count(1)
    expect(page.window.locator("dialog[open]")).to_have_count(0)
    page.picture("app mode")
    page.window.set_viewport_size({"width": 400, "height": 800})
    in_sight(page)
    page.picture("app mode, small")
    page.window.set_viewport_size({"width": 1400, "height": 900})
    page.window.evaluate("(id) => app.extensionManager.command.execute(id)", APP_MODE)
    expect(page.window.locator(".comfy-remote-floating")).to_have_count(0)
    in_sight(page)
    assert not page.complaints
