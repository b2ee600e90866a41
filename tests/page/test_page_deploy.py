"""An endpoint at RunPod that is made and removed in the page, on a double of its REST API."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ComfyPage, OpenPage
from page_server import start_server
from playwright.sync_api import Locator, expect
from runpod_double import KEY, RunPodDouble
from test_page_languages import all_words, english

from comfy_remote.deploy.runpod import image
from comfy_remote.deploy.runpod.image import ImageFacts

pytest_plugins = ["page_fixtures"]

INVERT = Path(__file__).resolve().parent / "invert.json"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing is configured."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(home))
    for name in [name for name in os.environ if name.startswith(("RUNPOD_", "COMFY_API_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    before = {*os.environ}
    yield home
    # What the server stores is in its own environment at once: here, that of the tests.
    for name in {*os.environ} - before:
        del os.environ[name]


@pytest.fixture
def double(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunPodDouble]:
    async def facts(_named: str) -> ImageFacts:
        return ImageFacts("public", 5_100_000_000)

    monkeypatch.setattr(image, "image_facts", facts)
    with RunPodDouble() as one:
        monkeypatch.setenv("RUNPOD_API_BASE_URL", one.url)
        monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", "http://127.0.0.1:9/v2")  # nobody is there
        yield one


def the_form(page: ComfyPage) -> Locator:
    return page.panel.locator("[data-kind=deploy]")


def press(page: ComfyPage, name: str) -> None:
    page.panel.get_by_role("button", name=name, exact=True).click()


def open_form(page: ComfyPage, button: str = "Make a new endpoint …") -> Locator:
    """From the panel of somebody who has no target yet."""
    page.switch.click()
    page.panel.locator("[data-kind=runpod]").click()
    if "RUNPOD_API_KEY" not in os.environ:
        page.panel.locator("input[type=password]").fill(KEY)
    press(page, button)
    expect(the_form(page).locator("fieldset")).to_be_visible()
    return the_form(page)


def test_an_endpoint_is_made_for_the_open_workflow_chosen_and_removed_again(
    double: RunPodDouble, open_page: OpenPage, tmp_path: Path, port: int, home: Path
) -> None:
    with start_server("sandbox", tmp_path, port) as server:
        page = open_page(server.url)
        page.load(INVERT)
        form = open_form(page)
        page.picture("1 form")
        assert KEY in (home / ".env").read_text()
        form.get_by_label("Name of the endpoint and of the target").fill("portraits")
        for name in ("RTX A4000", "RTX A4500"):  # the smallest: the workflow loads no models
            form.get_by_role("checkbox", name=name).uncheck()
        taken = form.get_by_role("checkbox", name="H100 SXM 80 GB, $4.18 an hour, none free now")
        expect(taken).not_to_be_checked()
        form.get_by_role("checkbox", name="RTX 4090 24 GB, $1.10 an hour").check()
        form.get_by_label("Network volume for models").select_option("A new one")
        form.get_by_label("Size in GB").fill("100")
        form.get_by_label("Data centre").select_option("EU-RO-1")
        page.picture("2 filled in")
        press(page, "Show the plan")
        expect(form).to_contain_text("Make a volume: 100 GB in EU-RO-1")
        page.picture("3 plan")
        expect(form).to_contain_text("It costs $7.00 a month, used or not.")
        expect(form).to_contain_text("$1.10 an hour for each worker that runs, nothing while none")
        assert double.changes == []

        asked, go_on = threading.Event(), threading.Event()

        def before(method: str, path: str) -> None:
            if (method, path) == ("POST", "/v2/serverless"):
                asked.set()
                go_on.wait(60)

        double.before = before
        press(page, "Make it")
        assert asked.wait(60)
        expect(form).to_contain_text("Make the endpoint portraitsunder way")
        page.picture("3 under way")
        page.reload()  # it goes on
        page.switch.click()
        press(page, "Show")
        expect(form).to_contain_text("Make the endpoint portraitsunder way")
        go_on.set()
        expect(page.switch).to_contain_text("Remote: portraits")
        page.picture("4 made")
        assert len(double.endpoints) == len(double.volumes) == 1
        expect(page.panel.locator("select").first).to_have_value("portraits")

        press(page, "Remove")
        press(page, "Remove it at RunPod, too …")
        expect(form).to_contain_text("stays: 100 GB in EU-RO-1")
        page.picture("5 removal")
        form.get_by_role("checkbox", name="Remove the volume, too").click()
        expect(form).to_contain_text("everything on it is lost")
        page.picture("6 with volume")
        press(page, "Remove")
        expect(page.switch).to_have_text("Remote OFF")
        expect(page.panel.locator("[data-kind=comfyui]")).to_be_visible()
        assert (double.endpoints, double.volumes) == ({}, {})
        shown = page.window.evaluate(
            "async () => JSON.stringify([{...localStorage}, {...sessionStorage},"
            " document.documentElement.outerHTML, await (await fetch('/settings')).text()])"
        )
        assert KEY not in shown
        assert not page.complaints


def test_what_was_begun_is_said_after_a_restart_and_gone_on_with(
    double: RunPodDouble, open_page: OpenPage, tmp_path: Path, port: int
) -> None:
    double.balance = False
    with start_server("sandbox", tmp_path, port) as server:
        page = open_page(server.url)
        form = open_form(page)
        form.get_by_label("Network volume for models").select_option("A new one")
        press(page, "Show the plan")
        press(page, "Make it")
        problem = form.get_by_role("alert")
        expect(problem).to_contain_text("the account's balance is too low")
        page.picture("1 refused")
        [volume] = double.volumes
        expect(form).to_contain_text(f"At RunPod: the volume {volume}")
    double.balance = True
    with start_server("sandbox", tmp_path, port) as server:
        page.reload()
        page.switch.click()
        page.picture("2 after a restart")
        expect(page.panel).to_contain_text("incomplete: gpu")
        page.panel.get_by_role("button", name="Show", exact=True).click()
        expect(form).to_contain_text(f"At RunPod: the volume {volume}")
        page.picture("3 what was made")
        press(page, "Go on")
        expect(form).to_contain_text(f"The volume {volume} stays")
        press(page, "Make it")
        expect(page.switch).to_contain_text("Remote: gpu")
        assert len(double.endpoints) == len(double.volumes) == 1
        expect(page.panel.get_by_text("incomplete: gpu")).to_be_hidden()
        assert not page.complaints


@pytest.mark.parametrize(
    ("language", "make", "plan", "go"),
    [
        ("ja", "新しいエンドポイントを作成…", "プランを表示", "作成"),
        ("zh", "新建端点…", "显示计划", "创建"),
    ],
    ids=["ja", "zh"],
)
def test_form_plan_and_refusal_are_translated(
    double: RunPodDouble,
    open_page: OpenPage,
    tmp_path: Path,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    language: str,
    make: str,
    plan: str,
    go: str,
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    double.balance = False
    names = "GB RTX SXM EU RO CZ KS TX US gpu worker image ghcr io remote comfyui cuda13"
    with start_server("sandbox", tmp_path, port) as server:
        page = open_page(server.url)
        page.window.evaluate(
            "(language) => window.app.extensionManager.setting.set('Comfy.Locale', language)",
            language,
        )
        page.reload()
        form = open_form(page, make)
        form.locator("select").nth(1).select_option("\0new")
        form.locator("summary").first.click()
        page.picture("form")

        def left() -> set[str]:
            words = all_words(form).replace(str(tmp_path / "home"), "")
            return {
                word
                for word in english(words)
                if word not in names.split() and not any(one.isdigit() for one in word)
            }

        assert left() == set()
        press(page, plan)
        expect(form.locator("ol")).to_be_visible()
        page.picture("plan")
        assert left() == set()
        press(page, go)
        problem = form.get_by_role("alert")
        expect(problem).to_be_visible()
        page.picture("refused")
        problem.evaluate("(one) => one.remove()")  # in RunPod's own words
        assert left() == set()
        assert not page.complaints
