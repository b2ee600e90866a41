"""The page in the other languages: nothing of ours is left in English."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage
from playwright.sync_api import Locator, expect

from comfy_remote.advice import Hint
from comfy_remote.errors import TargetError
from comfy_remote.node_pack.advice import error_json

pytest_plugins = ["page_fixtures"]

HERE = Path(__file__).resolve().parent
INVERT = HERE / "invert.json"
"""LoadImage 1 → ImageInvert 3 → SaveImage 4."""

NAMES = frozenset(
    re.findall(
        r"\w+",
        "there gpu quiet RunPod Pod Modal sandbox localhost runpod abc123 comfy-remote.toml trust "
        "--list --remove .env http host Comfy ComfyUI Remote ENDPOINT URL GPU cpu ON OFF OK Alt "
        "PNG WebP bit IMAGE",
    )
)
"""Names of things, and what is written alike in every language."""


def english(text: str) -> set[str]:
    """The English words in a text."""
    text = re.sub(r"https?://\S+|\w+_\w+|\d+ ?[kM]?B", "", text)
    return set(re.findall(r"[A-Za-z]\w+", text)) - NAMES


def all_words(part: Locator) -> str:
    """What is shown in a part of the page, and what it says to a pointer or a screen reader."""
    words: str = part.evaluate(
        """(root) => [root, ...root.querySelectorAll('*')].flatMap((one) =>
             ['title', 'aria-label', 'placeholder'].map((name) => one.getAttribute(name))
           ).concat(root.innerText).filter(Boolean).join('\\n')"""
    )
    return words


@pytest.mark.parametrize(
    ("language", "name", "off", "show"),
    [
        ("ja", "リモート", "リモート OFF", "実行場所を表示"),
        ("zh", "远程", "远程：关", "查看各节点的运行位置"),  # noqa: RUF001
    ],
    ids=["ja", "zh"],
)
def test_switch_panel_dialogs_and_settings_are_translated(
    page: ComfyPage, there: str, language: str, name: str, off: str, show: str
) -> None:
    page.window.evaluate(
        "(language) => window.app.extensionManager.setting.set('Comfy.Locale', language)", language
    )
    page.reload()
    page.load(INVERT)
    expect(page.switch).to_have_text(off)
    switch = page.window.locator(".comfy-remote-switch")
    assert english(all_words(switch)) == set()

    page.open_panel()
    target = page.panel.locator("select").first
    expect(page.panel.locator("dd").nth(1)).to_contain_text("1")
    page.picture("panel")
    assert english(all_words(page.panel)) == set()
    target.select_option("gpu")
    expect(page.panel).to_contain_text("RUNPOD_API_KEY")
    page.picture("no key")
    assert english(all_words(page.panel)) == set()
    target.select_option("there")
    # Its state has come: the panel is not drawn again while the address is typed.
    expect(page.panel.locator("dd").nth(2)).to_contain_text("1")

    dialog = page.window.locator("dialog.comfy-remote-modal")
    target.select_option("\0other")
    page.panel.locator("input[type=text]").fill(there.replace("127.0.0.1", "localhost"))
    page.panel.locator("input[type=text]").press("Enter")
    expect(dialog).to_contain_text("localhost")
    page.picture("address")
    assert english(all_words(dialog)) == set()
    page.window.keyboard.press("Escape")

    page.node(3, "node.properties.comfy_remote = { part: 'there' }")
    page.window.evaluate(
        "() => { const { canvas, graph } = window.app; canvas.selectItems([graph.getNodeById(3)]) }"
    )
    page.window.evaluate(
        "() => window.app.extensionManager.command.execute('ComfyRemote.MarkSelectionWhere')"
    )
    expect(dialog.locator("input[value=sandbox]")).to_be_visible()
    page.picture("target")
    assert english(all_words(dialog)) == set()
    page.window.keyboard.press("Escape")

    page.panel.locator("button", has_text=show).click()
    expect(dialog.locator("table").first).to_be_visible()
    page.picture("cut")
    titles = str(page.node(1, "window.app.graph.nodes.map((node) => node.title).join()"))
    classes = "LoadImage ImageInvert SaveImage"
    assert english(all_words(dialog)) <= english(f"{titles} {classes} lighthouse png")
    page.window.keyboard.press("Escape")

    page.panel.locator(".comfy-remote-wide").click()
    expect(dialog.locator(".comfy-remote-bring > *").first).to_be_visible()
    page.picture("bring")
    assert english(all_words(dialog)) == set()
    page.window.keyboard.press("Escape")

    page.window.keyboard.press("Control+Comma")
    settings = page.window.locator("[role=dialog]").last
    settings.get_by_text(name, exact=True).first.click()
    expect(settings.locator(".comfy-remote-panel")).to_be_visible()
    page.picture("settings")
    assert not page.complaints


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("ja", "リモートパネルで別のターゲットを"),
        ("zh", "请在远程面板中选择其他目标"),
        ("fr", "Choose another"),
    ],
    ids=["ja", "zh", "fr"],
)
def test_advice_is_shown_in_the_language_of_the_page(
    page: ComfyPage, language: str, words: str
) -> None:
    error = error_json(TargetError("It refused.", advice=Hint.OTHER_TARGET()))
    assert error["advice"] == "Choose another target in the Remote panel."
    state = {"name": "there", "address": "http://x", "health": None, "known": None}
    page.window.route(
        "**/remote/targets/*",
        lambda route: route.fulfill(json={**state, "device": None, "engine": None, "error": error}),
    )
    page.window.evaluate(
        "(language) => window.app.extensionManager.setting.set('Comfy.Locale', language)", language
    )
    page.reload()
    page.open_panel()
    expect(page.panel.get_by_text(f"It refused. {words}").last).to_be_visible()
