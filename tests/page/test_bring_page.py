"""*Bring it to NAME* in ComfyUI's page: the plan, the yes, how far it is, stopped, gone on with."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from comfy_page import WITH_ERRORS_TAB, ComfyPage, OpenPage
from model_server import safetensors
from page_server import PackServer, start_server
from playwright.sync_api import Locator, expect
from sync_kit import TOKEN, Box, Gate, box, comfyui_with, gate

from comfy_remote.errors import NodesUnavailable
from comfy_remote.ready.plan import There
from comfy_remote.ready.sync.steps import Ways
from comfy_remote.ready.sync.ways import ways_to
from comfy_remote.sandbox.folders import Folders
from comfy_remote.sandbox.nodes import NODES
from comfy_remote.targets.base import Target
from comfy_remote.wire.nodes import NodesAnswer, PackWanted

__all__ = ["gate"]

pytest_plugins = ["page_fixtures"]

SCALE = Path(__file__).resolve().parent / "scale_and_invert.json"
STYLE = safetensors(300_000, fill=b"style")
STRANGE = "https://models.example/strange.safetensors"


class InThread:
    """A box of somebody's, with a loop of its own."""

    def __init__(self, folder: Path) -> None:
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        self._ready = threading.Event()
        self.made: Box
        self._thread = threading.Thread(target=self._run, args=[folder], daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    def _run(self, folder: Path) -> None:
        self._loop.run_until_complete(self._serve(folder))

    async def _serve(self, folder: Path) -> None:
        (folder / "input").mkdir(parents=True)
        nodes = {name: node.schema.to_json(Folders(folder)) for name, node in NODES.items()}
        async with box(folder, nodes) as self.made:
            self._ready.set()
            await self._stop.wait()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        self._loop.close()


@pytest.fixture
def there_box(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """The target ``box``, which lacks everything."""
    running = InThread(tmp_path / "box")
    with (home / "comfy-remote.toml").open("a") as file:
        file.write(
            f'[targets.box]\ntarget = "runpod:ep"\nbase_url = "{running.made.gateway.url}"\n'
        )
        file.write('key_env = "BOX_TOKEN"\n')
    monkeypatch.setenv("BOX_TOKEN", TOKEN.get_secret_value())
    # Nobody out there is asked: neither Civitai nor the registry.
    monkeypatch.setenv("CIVITAI_ENDPOINT", "https://127.0.0.1:9")
    monkeypatch.setenv("COMFY_REMOTE_REGISTRY", "off")
    try:
        yield running.made
    finally:
        running.stop()


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """It names ``mine.safetensors``, and where a stranger's model can be had."""
    document = json.loads(SCALE.read_text().replace("InvertOnlyThere", "ImageInvert"))
    models = [
        {"name": "mine.safetensors", "directory": "loras", "url": ""},
        {"name": "strange.safetensors", "directory": "vae", "url": STRANGE},
    ]
    for node in document["nodes"]:
        if node["id"] == 2:
            node["properties"]["models"] = models
            node["widgets_values"][0] = "mine.safetensors"
        if node["id"] == 4:
            node["widgets_values"][0] = "strange.safetensors"
    path = tmp_path / "needs.json"
    path.write_text(json.dumps(document))
    return path


@contextmanager
def serving(kind: str, folder: Path, port: int) -> Iterator[PackServer]:
    """The page's server, with the model that the box lacks."""
    if kind == "comfyui":
        (folder / "models/loras").mkdir(parents=True)
        (folder / "models/loras/mine.safetensors").write_bytes(STYLE)
        with start_server(kind, folder) as server:
            yield server
        return
    here = comfyui_with(folder, loras__mine=STYLE)
    (here.base / "comfy").mkdir(exist_ok=True)
    (here.base / "main.py").write_text("")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("COMFYUI_DIR", str(here.base))
        with start_server(kind, folder, port) as server:
            yield server


@pytest.fixture
def page_of(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    there_box: Box,
    port: int,
    open_page: OpenPage,
) -> Iterator[Callable[[], ComfyPage]]:
    """Opens the page of the sandbox, or of what the test names."""
    with serving(getattr(request, "param", "sandbox"), tmp_path, port) as server:
        yield lambda: open_page(server.url)


def shown(page: ComfyPage) -> Locator:
    return page.window.locator("dialog.comfy-remote-modal")


def refused_on_box(page: ComfyPage, workflow: Path) -> Locator:
    """Run what the box cannot; the card that offers to bring it."""
    page.open_panel()
    page.panel.get_by_label("Target", exact=True).select_option("box")
    page.switch_on("Remote: box")
    page.load(workflow)
    page.run()
    expect(page.toasts.filter(has_text="Not run on box").first).to_be_visible()
    offer = page.window.locator(".comfy-remote-offer")
    expect(offer).to_contain_text("box lacks something that this workflow needs")
    if page.version < WITH_ERRORS_TAB:  # its own dialog lies over everything
        dialog = page.window.locator(".p-dialog-mask")
        expect(dialog.first).to_be_visible()
        page.window.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
    return offer


@pytest.mark.parametrize(
    "page_of",
    [
        "sandbox",
        pytest.param("comfyui", marks=[pytest.mark.comfyui, pytest.mark.timeout(240)]),
    ],
    indirect=True,
)
def test_a_model_that_is_missing_is_brought_after_a_yes(
    page_of: Callable[[], ComfyPage], there_box: Box, workflow: Path
) -> None:
    page = page_of()
    offer = refused_on_box(page, workflow)
    page.picture("offer")
    offer.get_by_role("button", name="Bring it to box").click()
    dialog = shown(page)
    mine = dialog.locator("tr[data-name='loras/mine.safetensors']")
    expect(mine).to_contain_text("300 kB")
    expect(mine).to_contain_text("sent from here")
    expect(mine.get_by_role("checkbox")).to_be_checked()
    strange = dialog.locator("tr[data-name='vae/strange.safetensors']")
    expect(strange).to_contain_text(STRANGE)
    # Its address may be anybody's.
    expect(strange.get_by_role("checkbox")).not_to_be_checked()
    expect(dialog).to_contain_text("tick it only if you trust it")
    expect(dialog).to_contain_text("300 kB are sent from here: about 0.1 s on a line of 100 Mbit/s")
    page.picture("plan")
    assert [*there_box.models.rglob("*.safetensors")] == []
    dialog.get_by_role("button", name="Bring 1 to box").click()
    expect(dialog.locator(".comfy-remote-brought")).to_have_attribute("data-state", "ended")
    expect(dialog).to_contain_text("Brought to box: 1")
    page.picture("brought")
    assert (there_box.models / "loras/mine.safetensors").read_bytes() == STYLE
    dialog.get_by_role("button", name="Close").click()
    listed = page.panel.locator(".comfy-remote-brought")
    expect(listed).to_contain_text("Brought to box: 1")
    expect(listed.locator(".comfy-remote-problem")).to_be_hidden()
    page.picture("panel")
    listed.get_by_role("button", name="Remove").click()
    expect(listed).to_have_count(0)


def test_it_goes_on_without_its_window_and_is_stopped_and_gone_on_with(
    page_of: Callable[[], ComfyPage],
    open_page: OpenPage,
    there_box: Box,
    workflow: Path,
    gate: Gate,
) -> None:
    page = page_of()
    refused_on_box(page, workflow).get_by_role("button", name="Bring it to box").click()
    dialog = shown(page)
    dialog.get_by_role("button", name="Bring 1 to box").click()
    assert gate.reached.wait(60)
    expect(dialog.locator(".comfy-remote-brought")).to_have_attribute("data-state", "running")
    page.reload()
    page.open_panel()
    listed = page.panel.locator(".comfy-remote-brought")
    expect(listed).to_contain_text("On the way to box: 1")
    page.picture("running")
    # The door shows what runs, and begins nothing.
    page.panel.get_by_role("button", name=re.compile("Bring what the workflow needs")).click()
    expect(shown(page)).to_contain_text("On the way to box: 1")
    shown(page).get_by_role("button", name="Close").click()
    listed.get_by_role("button", name="Stop").click()
    expect(listed).to_have_attribute("data-state", "stopped")
    expect(listed).to_contain_text("What has arrived stays")
    page.picture("stopped")
    gate.open.set()
    listed.get_by_role("button", name="Go on").click()
    shown(page).get_by_role("button", name="Bring 1 to box").click()
    expect(shown(page)).to_contain_text("Brought to box: 1")
    assert (there_box.models / "loras/mine.safetensors").read_bytes() == STYLE


def test_after_a_restart_of_comfyui_the_panel_says_that_it_stopped(
    tmp_path: Path, there_box: Box, workflow: Path, gate: Gate, port: int, open_page: OpenPage
) -> None:
    with ExitStack() as first:
        page = open_page(first.enter_context(serving("sandbox", tmp_path, port)).url)
        refused_on_box(page, workflow).get_by_role("button", name="Bring it to box").click()
        shown(page).get_by_role("button", name="Bring 1 to box").click()
        assert gate.reached.wait(60)
    gate.open.set()
    with serving("sandbox", tmp_path, port):
        page.reload()
        page.open_panel()
        listed = page.panel.locator(".comfy-remote-brought")
        expect(listed).to_contain_text("ComfyUI ended on the way to box. What has arrived stays.")
        page.picture("interrupted")
        listed.get_by_role("button", name="Go on").click()
        shown(page).get_by_role("button", name="Bring 1 to box").click()
        expect(shown(page)).to_contain_text("Brought to box: 1")
    assert (there_box.models / "loras/mine.safetensors").read_bytes() == STYLE


def test_a_node_that_nobody_has_is_offered_as_soon_as_its_workflow_is_open(
    page_of: Callable[[], ComfyPage],
    there_box: Box,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed: list[str] = []
    fails = threading.Event()

    async def install(target: Target, packs: Iterable[PackWanted], say: object) -> NodesAnswer:
        if not fails.is_set():
            fails.set()
            details = {"pack": "some-pack", "step": "import", "log": "OSError: no such card\n"}
            raise NodesUnavailable("some-pack cannot be imported.", details=details)
        installed.extend(str(one) for one in packs)
        return NodesAnswer(set="s1", installed=["some-pack"])

    async def allowed(target: Target, there: There, **given: str) -> Ways:
        ways = await ways_to(target, there, **given)
        return replace(ways, install="", installs=frozenset({"registry"}))

    monkeypatch.setattr("comfy_remote.ready.sync.planning.ways_to", allowed)
    monkeypatch.setattr("comfy_remote.ready.sync.carrying.install_packs", install)
    document = json.loads(SCALE.read_text().replace("InvertOnlyThere", "NobodyHasThis"))
    document["nodes"][2]["properties"] |= {"cnr_id": "some-pack", "ver": "1.0.5"}
    (tmp_path / "shell.json").write_text(json.dumps(document))
    page = page_of()
    page.open_panel()
    page.panel.get_by_label("Target", exact=True).select_option("box")
    page.switch_on("Remote: box")
    page.load(tmp_path / "shell.json")
    page.picture("offer")
    page.window.locator(".comfy-remote-offer").get_by_role("button", name="Bring it to box").click()
    row = shown(page).locator("tr[data-name='some-pack']")
    expect(row).to_contain_text("some-pack@1.0.5")
    expect(shown(page)).to_contain_text("A node pack is code that runs on box")
    expect(shown(page).get_by_role("button", name="Bring 0 to box")).to_be_disabled()
    row.get_by_role("checkbox").check()
    page.picture("plan")
    shown(page).get_by_role("button", name="Bring 1 to box").click()
    failed = shown(page).locator("li[data-name='some-pack']")
    expect(failed).to_contain_text("some-pack cannot be imported.")
    expect(failed.locator("pre")).to_have_text("OSError: no such card")
    page.picture("failed")
    shown(page).get_by_role("button", name="Go on").click()
    # It has had its yes.
    expect(row.get_by_role("checkbox")).to_be_checked()
    shown(page).get_by_role("button", name="Bring 1 to box").click()
    expect(shown(page).locator("li[data-name='some-pack']")).to_contain_text("installed")
    assert installed == ["some-pack@1.0.5"]
