"""The Remote switch in ComfyUI's own page, in a browser.

The page of a real ComfyUI is looked at, too, where there is one (``COMFYUI_DIR``,
``COMFYUI_PYTHON``). ``COMFYUI_FRONTEND`` names another page for the sandbox to serve than the
``comfyui-frontend-package`` that is installed. Screenshots are kept in ``test-artefacts/page``.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage, OpenPage
from page_server import PackServer, start_server
from playwright.sync_api import Route, expect
from richer_sandbox import MODEL_ONLY_THERE, ODD_ONLY_THERE, ONLY_THERE

from comfy_remote.jobs.record import Record

pytest_plugins = ["page_fixtures"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

SLOW = ROOT / "examples" / "page" / "slow.json"
"""LoadImage 1 → SandboxSlow 2 → ImageInvert 3 → SaveImage 4."""

INVERT = HERE / "invert.json"
"""LoadImage 1 → ImageInvert 3 → SaveImage 4: for any ComfyUI."""

SCALE = HERE / "scale_and_invert.json"
"""LoadImage 1 → ImageScale 2 → InvertOnlyThere 3 → SaveImage 4."""

IMAGES = "node.imgs?.length > 0 && node.imgs[0].naturalWidth > 0"


def jobs_recorded(home: Path) -> int:
    """How many jobs the pack has sent anywhere."""
    with Record(home) as record:
        return len(record.newest())


@contextmanager
def busy(url: str) -> Iterator[None]:
    """The engine there runs a prompt of somebody else, so that the page's wait."""
    empty = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
    slow = {"steps": 9999, "seconds_per_step": 0.1, "preview": False, "seed": 0}
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "SandboxSlow", "inputs": {"image": ["1", 0], **slow}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    post(f"{url}/prompt", {"prompt": prompt})
    yield
    post(f"{url}/interrupt", {})


def post(url: str, body: object) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


def test_a_batch_runs_remotely_and_shows_up_like_any_other(
    page: ComfyPage, server: PackServer, there: str
) -> None:
    page.switch_on()
    page.load(SLOW, {2: [10, 0.2, True, 0, "randomize"]})
    page.open_panel()
    jobs = page.panel.locator("[data-prompt-id]")
    with busy(there):
        page.run(batch=4)
        expect(jobs).to_have_count(4)
        expect(page.switch).to_contain_text("4")
        # The newest is the last: it waits for the others.
        cancelled = str(jobs.last.get_attribute("data-prompt-id"))
        jobs.last.get_by_role("button").click()
        expect(page.panel.locator(f"[data-prompt-id='{cancelled}']")).to_have_count(0)
    page.wait_for_node(2, "node.progress > 0")
    expect(page.panel.locator("progress[value]").first).to_be_visible()
    page.picture("progress")

    page.wait_for_node(4, IMAGES)
    page.picture("first picture")
    history = page.wait_for_history(4)
    states = {entry["prompt"][1]: entry["status"]["status_str"] for entry in history}
    assert states.pop(cancelled) == "error"
    assert list(states.values()) == ["success"] * 3
    assert len(list((server.directory / "output").glob("night_*.png"))) == 3
    expect(jobs).to_have_count(0)
    pictures = page.open_history()
    expect(pictures.last).to_be_visible()
    page.picture("history")
    sources = "".join(str(pictures.nth(i).get_attribute("src")) for i in range(pictures.count()))
    # Older pages draw those that fit.
    listed = set(re.findall(r"night_\d+_\.png", sources))
    assert listed
    assert listed <= {f"night_0000{i}_.png" for i in (1, 2, 3)}
    assert not page.complaints


def test_off_means_off(page: ComfyPage, server: PackServer) -> None:
    expect(page.switch).to_have_text("Remote OFF")
    page.window.keyboard.press("Alt+r")
    expect(page.switch).to_contain_text("Remote: there")
    page.window.keyboard.press("Alt+r")
    expect(page.switch).to_have_text("Remote OFF")

    page.load(INVERT)
    page.run()
    [entry] = page.wait_for_history(1)
    assert entry["status"]["status_str"] == "success"
    # A job of the lane's would be in its record.
    assert jobs_recorded(server.home) == 0


def test_a_reload_in_the_middle_of_a_job_loses_nothing(page: ComfyPage, server: PackServer) -> None:
    page.switch_on()
    # Longer than a busy machine takes to load the page of a real ComfyUI.
    page.load(SLOW, {2: [60 if server.process is None else 120, 0.3, True, 0, "fixed"]})
    page.run()
    page.wait_for_node(2, "node.progress > 0")

    page.reload()

    expect(page.switch).to_contain_text("Remote: there")
    expect(page.switch.locator(".comfy-remote-count")).to_have_text("1")
    page.load(SLOW)
    page.wait_for_node(2, "node.progress > 0.2")
    page.picture("progress")
    [entry] = page.wait_for_history(1)
    assert entry["status"]["status_str"] == "success"
    expect(page.switch.locator(".comfy-remote-count")).to_be_hidden()
    page.wait_for_node(4, IMAGES)


def test_models_and_nodes_of_the_target_can_be_used(page: ComfyPage, server: PackServer) -> None:
    page.load(SCALE)
    methods = "node.widgets[0].options.values.join()"
    assert MODEL_ONLY_THERE not in str(page.node(2, methods))

    page.switch_on()
    page.wait_for_node(2, f"{methods}.includes('{MODEL_ONLY_THERE}')")
    page.reload()
    page.load(SCALE, {2: [MODEL_ONLY_THERE, 96, 64, "disabled"]})
    # One whose description lacks fields costs neither itself nor the others.
    assert page.window.evaluate(f"() => '{ODD_ONLY_THERE}' in LiteGraph.registered_node_types")
    title = page.window.evaluate(f"() => LiteGraph.registered_node_types.{ONLY_THERE}.title")
    assert title == "Invert, only there (remote)"
    assert page.node(3, "node.type") == ONLY_THERE
    page.picture("graph")
    page.run()
    page.wait_for_node(4, IMAGES)
    assert page.node(4, "[node.imgs[0].naturalWidth, node.imgs[0].naturalHeight]") == [96, 64]

    page.switch.click()
    expect(page.switch).to_have_text("Remote OFF")
    page.wait_for_node(2, f"!{methods}.includes('{MODEL_ONLY_THERE}')")
    # What the target has was in the lists only: nothing of it is here.
    found = [path for path in server.directory.rglob("*") if MODEL_ONLY_THERE in path.name]
    assert not found


def test_a_target_without_its_key_says_what_to_do(page: ComfyPage) -> None:
    page.open_panel()
    page.panel.get_by_label("Target", exact=True).select_option("gpu")
    expect(page.panel).to_contain_text("RUNPOD_API_KEY is not set. Give the key here")
    expect(page.panel.get_by_role("button", name="Give the key")).to_be_visible()
    page.switch.click()
    expect(page.toasts.filter(has_text="RUNPOD_API_KEY").first).to_be_visible()
    page.picture("toast")
    expect(page.switch).to_have_text("Remote OFF")


def test_an_endpoint_that_does_not_tell_what_it_has_is_nothing_to_warn_of(page: ComfyPage) -> None:
    page.open_panel()
    page.panel.get_by_label("Target", exact=True).select_option("quiet")
    page.switch_on("Remote: quiet")
    page.window.wait_for_timeout(500)
    expect(page.toasts.filter(has_text="lists")).to_have_count(0)


def test_an_address_can_be_typed_in(page: ComfyPage, there: str) -> None:
    page.open_panel()
    page.panel.get_by_label("Target", exact=True).select_option(label="Another address …")
    page.panel.get_by_label("Address of a target").fill(f"{there}/")
    page.panel.get_by_label("Address of a target").press("Enter")
    # The list shows the name of that address, which it did before.
    page.window.wait_for_function(
        "(url) => app.extensionManager.setting.get('ComfyRemote.Target') === url", arg=there
    )
    page.switch_on(f"Remote: {there}")
    page.picture("on")


def test_the_settings_have_a_page_for_remote(page: ComfyPage) -> None:
    page.window.keyboard.press("Control+Comma")
    dialog = page.window.locator("[role=dialog]").last
    dialog.get_by_text("Remote", exact=True).first.click()
    expect(dialog.locator(".comfy-remote-panel")).to_contain_text("1 ready")
    page.picture("settings")


def test_a_restarted_server_is_told_again(
    tmp_path: Path, home: Path, open_page: OpenPage, port: int
) -> None:
    with start_server("sandbox", tmp_path, port) as server:
        page = open_page(server.url)
        page.switch_on()
    with start_server("sandbox", tmp_path, port) as server:
        client_id = page.window.evaluate("() => window.app.api.clientId")
        assert server.pack is not None
        for _ in range(600):
            if server.pack.switch.target_of(client_id) == "there":
                break
            page.window.wait_for_timeout(100)
        assert server.pack.switch.target_of(client_id) == "there"
        expect(page.switch).to_contain_text("Remote: there")


def test_two_windows_are_two_clients(page: ComfyPage, open_page: OpenPage) -> None:
    other = open_page(page.url)
    page.switch_on()
    other.open_panel()
    expect(other.switch).to_have_text("Remote OFF")

    page.load(SLOW, {2: [3000, 0.2, True, 0, "fixed"]})
    page.run()
    expect(other.panel).to_contain_text("another tab")
    expect(other.switch).to_have_text("Remote OFF1")
    other.panel.locator("[data-prompt-id]").get_by_role("button").click()
    [entry] = page.wait_for_history(1)
    assert entry["status"]["status_str"] == "error"


def test_an_estimate_is_called_one(page: ComfyPage) -> None:
    # The server knows no such job: its own list would take it out of the panel.
    page.window.route("**/remote/status*", lambda route: route.abort())
    page.open_panel()
    job = {"prompt_id": "0", "target": "gpu", "state": "running", "message": ""}
    for fraction, estimated, words in ((0.4, True, "about 40 % (estimated)"), (0.5, False, "50 %")):
        page.window.evaluate(
            "(detail) => window.app.api.dispatchEvent("
            "new CustomEvent('comfy_remote.job', { detail }))",
            {**job, "fraction": fraction, "estimated": estimated},
        )
        expect(page.panel.locator("[data-prompt-id] > .comfy-remote-quiet")).to_contain_text(words)


def test_an_output_that_is_missing_is_told(page: ComfyPage) -> None:
    page.open_panel()
    problem = {
        "node_id": "7",
        "node_class": "Save3D",
        "filename": "model.glb",
        "reason": "it is gone.",
    }
    job = {"prompt_id": "0", "target": "gpu", "state": "succeeded", "message": "", "fraction": 1}
    page.window.evaluate(
        "(detail) => window.app.api.dispatchEvent(new CustomEvent('comfy_remote.job', { detail }))",
        {**job, "estimated": False, "problems": [problem]},
    )
    told = page.toasts.filter(has_text="Node 7: model.glb: it is gone.").first
    expect(told).to_be_visible()
    expect(told).to_contain_text("An output is missing or damaged")


def test_warnings_of_an_answer_are_shown(page: ComfyPage) -> None:
    warning = "The models of repo_list are not fetched: gpu is a ComfyUI."
    job = {"prompt_id": "0", "target": "gpu", "message": "", "fraction": 1, "estimated": False}
    for state in ("succeeded", "failed"):
        page.window.evaluate(
            "(detail) => window.app.api.dispatchEvent("
            "new CustomEvent('comfy_remote.job', { detail }))",
            {**job, "state": state, "warnings": [f"{state}: {warning}"]},
        )
        told = page.toasts.filter(has_text=f"{state}: {warning}").first
        expect(told).to_contain_text("Remote job on gpu")


def test_one_run_can_skip_the_list_of_models(page: ComfyPage, tmp_path: Path) -> None:
    asked: list[bool] = []

    def note(route: Route) -> None:
        asked.append(route.request.post_data_json["repo_list"])
        route.continue_()

    page.window.route("**/remote/switch", note)
    page.load(INVERT)
    page.open_panel()
    skip = page.panel.get_by_label("Skip repo_list for the next run")
    expect(skip).to_be_hidden()  # there is no such list
    document = json.loads(INVERT.read_text())
    document["nodes"][1]["title"] = "repo_list"
    (tmp_path / "listed.json").write_text(json.dumps(document))
    page.switch_on()
    page.load(tmp_path / "listed.json")
    expect(skip).to_be_visible()
    skip.check()
    page.picture("skip")
    page.run()
    page.wait_for_history(1)
    expect(skip).not_to_be_checked()
    assert asked == [True, False, True]


def test_all_that_can_be_used_has_a_name(page: ComfyPage) -> None:
    page.open_panel()
    page.load(INVERT)
    page.window.evaluate("() => app.canvas.selectNode(app.graph.getNodeById(3))")
    page.window.wait_for_timeout(500)
    nameless = page.window.evaluate(
        """() => [...document.querySelectorAll(
            '[class*=comfy-remote] :is(button, input, select, progress), [aria-label=""]')]
          .filter((one) => one.getAttribute('aria-label') === '' || !(
            one.hidden || one.getAttribute('aria-label') || one.textContent.trim()
              || one.labels?.length
          )).map((one) => one.outerHTML.slice(0, 300))"""
    )
    assert nameless == []
