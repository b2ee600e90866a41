"""Marking nodes to run elsewhere, and looking at the cut, in ComfyUI's own page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage
from playwright.sync_api import Locator, expect

pytest_plugins = ["page_fixtures"]

HERE = Path(__file__).resolve().parent

INVERT = HERE / "invert.json"
"""LoadImage 1 → ImageInvert 3 → SaveImage 4."""

WITH_MENUS = (1, 28)
"""The first version of the page that lets extensions add to the menu of a node."""


def point_at(page: ComfyPage, expression: str) -> tuple[float, float]:
    """Where a place of the graph is on the screen: ``expression`` over ``app.graph``."""
    x, y = page.window.evaluate(
        f"""() => {{
          const graph = window.app.graph
          const [x, y] = {expression}
          const {{ scale, offset }} = window.app.canvas.ds
          const box = window.app.canvas.canvas.getBoundingClientRect()
          return [box.left + (x + offset[0]) * scale, box.top + (y + offset[1]) * scale]
        }}"""
    )
    return x, y


def title_of(page: ComfyPage, node_id: int) -> tuple[float, float]:
    node = f"graph.getNodeById({node_id})"
    return point_at(page, f"[{node}.pos[0] + {node}.size[0] / 2, {node}.pos[1] - 15]")


def marks(page: ComfyPage) -> dict[str, Any]:
    """The marks in the workflow, as it is sent with a prompt."""
    workflow = page.window.evaluate("async () => (await window.app.graphToPrompt()).workflow")
    named = {str(n["id"]): n.get("properties", {}) for n in workflow["nodes"]}
    named |= {g["title"]: g.get("flags", {}) for g in workflow["groups"]}
    return {k: v["comfy_remote"]["part"] for k, v in named.items() if "comfy_remote" in v}


def badges(page: ComfyPage, node_id: int) -> list[str]:
    """What a node shows above its title."""
    found = page.node(
        node_id,
        "node.badges.map((one) => (typeof one === 'function' ? one() : one).text)"
        ".filter((text) => text.startsWith('☁'))",
    )
    assert isinstance(found, list)
    return found


def toolbox_button(page: ComfyPage) -> Locator:
    """The cloud in the toolbox over what is selected."""
    return page.window.locator("button:has(.pi-cloud):not(.comfy-remote-toggle):visible").last


def run_command(page: ComfyPage, name: str) -> None:
    """As the menu bar and the keys do."""
    page.window.evaluate(
        "(name) => window.app.extensionManager.command.execute(name)", f"ComfyRemote.{name}"
    )


@pytest.fixture
def dialog(page: ComfyPage) -> Locator:
    return page.window.locator("dialog.comfy-remote-modal")


def test_a_node_is_marked_by_the_toolbox_and_looks_it(page: ComfyPage) -> None:
    page.load(INVERT)
    page.window.mouse.click(*title_of(page, 3))
    toolbox_button(page).click()
    assert marks(page) == {"3": ""}
    assert (badges(page, 3), badges(page, 4)) == (["☁ there"], [])
    told = page.window.get_by_text(re.compile(r"^1 node on there\. Crosses: about .*B\.$"))
    expect(told).to_be_visible()  # before anything runs
    page.picture("marked")
    toolbox_button(page).click()
    assert (marks(page), badges(page, 3)) == ({}, [])


def test_a_node_is_marked_by_its_menu(page: ComfyPage) -> None:
    if page.version < WITH_MENUS:
        pytest.skip("this version of the page lets nobody add to the menu of a node")
    page.load(INVERT)
    for label, marked in (("Run remotely", {"3": ""}), ("Run here again", {})):
        page.window.mouse.click(*title_of(page, 3), button="right")
        entry = page.window.get_by_text(label, exact=True).last
        expect(entry).to_be_visible()
        page.picture(f"menu-{label}")
        entry.click()
        assert marks(page) == marked


def test_a_target_can_be_chosen(page: ComfyPage, dialog: Locator) -> None:
    page.load(INVERT)
    page.window.mouse.click(*title_of(page, 3))
    run_command(page, "MarkSelectionWhere")
    expect(dialog.get_by_label("Where the Remote switch sends to (now there)")).to_be_visible()
    expect(dialog.get_by_label("Here", exact=True)).to_be_checked()
    dialog.get_by_label("sandbox").check()
    page.picture("targets")
    dialog.get_by_role("button", name="OK").click()
    expect(dialog).to_have_count(0)
    assert (marks(page), badges(page, 3)) == ({"3": "sandbox"}, ["☁ sandbox"])
    run_command(page, "MarkSelectionWhere")
    dialog.get_by_label("gpu").check()
    page.window.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert marks(page) == {"3": "sandbox"}


def test_a_group_marks_what_is_in_it_but_not_what_shall_stay(page: ComfyPage) -> None:
    page.load(INVERT)
    page.window.evaluate(
        """() => {
          const graph = window.app.graph
          const group = new window.LiteGraph.LGraphGroup('upscale')
          const [one, two] = [3, 4].map((id) => graph.getNodeById(id))
          group.pos = [one.pos[0] - 20, one.pos[1] - 100]
          group.size = [two.size[0] + 200, two.pos[1] + two.size[1] - one.pos[1] + 150]
          graph.add(group)
        }"""
    )
    group = point_at(page, "[graph.groups[0].pos[0] + 150, graph.groups[0].pos[1] + 12]")
    if page.version < WITH_MENUS:
        page.window.mouse.click(*group)
        run_command(page, "MarkSelection")
    else:
        page.window.mouse.click(*group, button="right")
        page.window.get_by_text("Run this group remotely", exact=True).last.click()
    assert marks(page) == {"upscale": ""}
    assert [badges(page, one) for one in (1, 3, 4)] == [[], ["☁ there"], ["☁ there"]]
    page.window.mouse.click(*title_of(page, 4))
    toolbox_button(page).click()
    assert marks(page) == {"upscale": "", "4": None}
    assert badges(page, 4) == []
    page.picture("group")


def test_marks_outlive_a_reload_and_can_be_undone(page: ComfyPage) -> None:
    page.load(INVERT)
    page.window.mouse.click(*title_of(page, 3))
    toolbox_button(page).click()
    assert marks(page) == {"3": ""}
    # The page keeps its draft a moment later.
    page.window.wait_for_function(
        """() => [localStorage, sessionStorage].some((store) => Object.keys(store)
            .some((key) => store[key].includes('comfy_remote')))"""
    )
    page.reload()
    page.wait_for_node(3, "node?.properties.comfy_remote?.part === ''")
    assert badges(page, 3) == ["☁ there"]
    page.window.mouse.click(*title_of(page, 3))
    toolbox_button(page).click()
    assert marks(page) == {}
    page.window.keyboard.press("Control+z")
    page.wait_for_node(3, "node?.properties.comfy_remote?.part === ''", seconds=30)


def test_the_cut_is_shown_before_anything_runs(page: ComfyPage, dialog: Locator) -> None:
    page.load(INVERT)
    page.open_panel()
    show = page.panel.get_by_role("button", name="Show what runs where")
    show.click()
    expect(dialog).to_contain_text("all of it runs here")
    dialog.get_by_role("button", name="Close").click()
    page.window.mouse.click(*title_of(page, 3))
    toolbox_button(page).click()
    show.click()
    expect(dialog.get_by_role("heading", name="On there")).to_be_visible()
    expect(dialog).to_contain_text("(3)")
    row = dialog.locator("table", has_text="Goes there").locator("tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text(re.compile(r"IMAGE.*Load Image.*1\.2 MB", re.IGNORECASE))
    expect(dialog).to_contain_text("Here: 2 nodes")
    page.picture("cut")
    assert page.history() == []


def test_what_is_marked_runs_there_and_is_shown_here(page: ComfyPage, dialog: Locator) -> None:
    page.load(INVERT)
    page.node(3, "node.properties.comfy_remote = { part: 'there' }")
    page.node(4, "node.properties.comfy_remote = { part: 'there' }")
    page.run()
    (entry,) = page.wait_for_history(1)
    assert entry["status"]["status_str"] == "success"
    assert [n["class_type"] for n in entry["prompt"][2].values()] == [
        "LoadImage",
        "ComfyRemotePart",
    ]
    page.wait_for_node(4, "node.imgs?.length === 1 && node.imgs[0].naturalWidth > 0")
    page.picture("ran")


def test_pictures_may_travel_smaller(page: ComfyPage, dialog: Locator) -> None:
    page.load(INVERT)
    page.node(3, "node.properties.comfy_remote = { part: 'there' }")
    run_command(page, "ShowCut")
    choice = dialog.get_by_label("Pictures travel")
    expect(choice).to_have_value("exact")
    choice.select_option("png")
    expect(dialog).to_contain_text("nearest of 256")
    expect(dialog.get_by_label("Pictures travel")).to_have_value("png")
    page.picture("images")
    extra = page.window.evaluate("async () => (await window.app.graphToPrompt()).workflow.extra")
    assert extra["comfy_remote"] == {"images": "png"}
    dialog.get_by_label("Pictures travel").select_option("exact")
    expect(dialog).not_to_contain_text("nearest of 256")


def test_why_a_cut_cannot_be_is_told(page: ComfyPage, dialog: Locator) -> None:
    page.load(INVERT)
    page.node(3, "node.properties.comfy_remote = { part: 'gpu' }")
    run_command(page, "ShowCut")
    expect(dialog.get_by_role("alert")).to_contain_text("RUNPOD_API_KEY")
    page.picture("refused")
