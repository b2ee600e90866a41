"""A batch's sheet in a browser: opened from a file, and served."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ACTION_MS, ARTEFACTS
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect
from sheet_kit import PROMPT, BatchFolder

from comfy_remote.batch.sheet import SheetServer, make_sheet

pytest_plugins = ["page_fixtures"]


SAVED = Path(__file__).resolve().parents[1] / "data" / "saved"
EVIL = "</script><img src=//evil.example/x onerror=\"document.title='owned'\"><b>x</b>"
SPELL = 'it\'s "q" $HOME `id` \\ %PATH%\nnew line\x1b[201~; echo owned\t\u202eé'
DESK = {"width": 1366, "height": 768}
PHONE = {"width": 390, "height": 844}
WAV = b"RIFF\x24\x01\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0@\x1f\0\0@\x1f\0\0\x01\0\x08\0data\0\x01\0\0"


@pytest.fixture
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    size, scheme = getattr(request, "param", (DESK, "dark"))
    context = browser.new_context(
        viewport=size, color_scheme=scheme, permissions=["clipboard-read", "clipboard-write"]
    )
    context.set_default_timeout(ACTION_MS)
    yield context
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    for number, window in enumerate(context.pages):
        window.screenshot(path=ARTEFACTS / f"{name}-{number}.png")
    context.close()


@pytest.fixture
def asked() -> list[str]:
    """The addresses that the page has asked for."""
    return []


@pytest.fixture
def window(context: BrowserContext, asked: list[str]) -> Iterator[Page]:
    """A window that must see no error: not in our script, nor of the content's policy."""
    window = context.new_page()
    complaints: list[str] = []
    window.on("pageerror", lambda error: complaints.append(str(error)))
    window.on("dialog", lambda dialog: complaints.append(dialog.message))
    window.on(
        "console",
        lambda said: complaints.append(said.text) if "Content Security" in said.text else None,
    )
    window.on("request", lambda request: asked.append(request.url))
    yield window
    assert not complaints


def cell(window: Page, row: int) -> Locator:
    return window.locator(f"#cell-{row}")


def count_of(window: Page, label: str) -> Locator:
    return window.locator("#shows button", has_text=label).locator("b")


def labels(window: Page) -> tuple[list[str], list[str]]:
    """What stands above the columns, and before the lines."""
    heads = window.locator(".columnhead").all_inner_texts()
    return heads, window.locator(".label").all_inner_texts()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a sheet, served by a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = SheetServer(folder)
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(60)
    try:
        yield server.url
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()


def cats(path: Path) -> BatchFolder:
    """Three axes; one run has failed, two have not run yet."""
    axes = {"prompt": ["a cat", "a dog"], "KSampler.cfg": [5, 7.5], "KSampler.seed": [1, 2, 3]}
    batch = BatchFolder(path, axes)
    for row in range(len(batch.rows) - 2):
        error = {"code": "out_of_memory", "message": "The GPU is full.", "advice": "Use less."}
        if row == 4:
            batch.add(batch.line(row, state="failed", error=error, seconds=None, cost=None))
        else:
            outputs = [batch.output(f"{row:04}/p{'x' * row}.png")]
            batch.add(batch.line(row, outputs=outputs, seconds=20.0 - row))
    return batch


def test_a_sheet_is_looked_through_with_keys(tmp_path: Path, window: Page) -> None:
    batch = cats(tmp_path / "cats")
    sheet = make_sheet(batch.path).html.as_uri()
    window.goto(sheet)
    expect(window.get_by_role("heading", level=1)).to_have_text("cats")
    expect(window.locator("#about")).to_contain_text("10 of 12 runs")
    heads, lines = labels(window)
    assert heads == ["1", "2", "3"]
    assert lines == [
        *("a cat\ncfg 5", "a cat\ncfg 7.5"),
        *("a dog\ncfg 5", "a dog\ncfg 7.5"),
    ]
    grid = window.get_by_role("grid")
    expect(grid).to_be_focused()
    expect(grid.get_by_role("gridcell", name="The GPU is full")).to_contain_text("Failed")
    expect(cell(window, 11)).to_contain_text("Not run yet")
    pictures = "() => [...document.querySelectorAll('.cell img')].every((one) => one.naturalWidth)"
    window.wait_for_function(pictures)

    # Row 1 is kept, row 4 (below it) rejected, and one that has not run can be neither.
    for key in ("ArrowRight", "k", "ArrowDown", "x", "End", "k"):
        window.keyboard.press(key)
    expect(count_of(window, "Kept")).to_have_text("1")
    expect(count_of(window, "Rejected")).to_have_text("1")
    expect(cell(window, 1)).to_have_attribute("aria-label", re.compile("kept$"))
    expect(grid).to_have_attribute("aria-activedescendant", "cell-11")
    window.reload()
    expect(count_of(window, "Kept")).to_have_text("1")
    with window.expect_download() as saved:
        window.get_by_role("button", name="Export keeps.json").click()
    assert saved.value.suggested_filename == "keeps.json"
    keeps = json.loads(saved.value.path().read_text())
    assert keeps == {"version": 1, "keep": [1], "reject": [4]}

    # What the folder's own file says later counts, where this browser has not decided since.
    (batch.path / "keeps.json").write_text('{"version": 1, "keep": [1, 2], "reject": []}')
    window.goto(make_sheet(batch.path).html.as_uri())
    expect(count_of(window, "Kept")).to_have_text("2")
    expect(count_of(window, "Rejected")).to_have_text("1")

    window.locator("#shows button", has_text="Failed").click()
    expect(window.locator(".cell:not(.none)")).to_have_count(1)
    window.locator("#shows button", has_text="Failed").click()
    window.get_by_label("Find").fill("dog")
    expect(window.locator(".label")).to_have_count(2)
    window.get_by_label("Find").fill("no such word")
    window.get_by_role("button", name="Show all").click()
    expect(window.locator(".label")).to_have_count(4)

    # Other rows and columns; one value of the third axis; then a plain grid, sorted.
    window.locator("#rows").select_option(label="seed")
    window.locator("#columns").select_option(label="prompt")
    window.locator("#others").get_by_label("cfg").select_option(label="7.5")
    assert labels(window) == (["a cat", "a dog"], ["1", "2", "3"])
    window.get_by_role("button", name="Exchange").click()
    assert labels(window)[0] == ["1", "2", "3"]
    window.locator("#rows").select_option("none")
    window.locator("#columns").select_option("none")
    window.locator("#others").get_by_label("cfg").select_option(label="all")
    window.get_by_label("Sort").select_option(label="by time")
    expect(window.locator(".cell").first).to_have_id("cell-9")
    window.get_by_role("button", name="Largest first").click()
    expect(window.locator(".cell").first).to_have_id("cell-0")
    expect(window.locator(".cell").first).to_contain_text("20 s · $0.0012")
    expect(window.locator(".cell").last).to_have_id("cell-11")


def test_a_run_large_and_two_compared(tmp_path: Path, window: Page) -> None:
    batch = cats(tmp_path / "cats")
    window.goto(make_sheet(batch.path).html.as_uri())
    window.keyboard.press("Enter")
    viewer = window.get_by_role("dialog")
    expect(viewer).to_contain_text("prompt a cat · cfg 5 · seed 1")
    picture = viewer.locator("#stage img")
    expect(picture).to_have_attribute("src", "./0000/p.png")
    window.keyboard.press("ArrowDown")
    expect(picture).to_have_attribute("src", "./0003/pxxx.png")
    window.keyboard.press("k")
    expect(viewer.get_by_role("button", name="Keep")).to_have_attribute("aria-pressed", "true")
    window.keyboard.press("ArrowRight")
    expect(viewer.locator(".error")).to_contain_text("The GPU is full.Use less.")
    expect(viewer.locator("#stage")).to_contain_text("Failed: The GPU is full.")
    window.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(window.get_by_role("grid")).to_have_attribute("aria-activedescendant", "cell-4")

    window.keyboard.press("ArrowLeft")
    window.keyboard.press("c")
    expect(window.get_by_role("status")).to_contain_text("Choose a second one")
    cell(window, 6).click()
    panes = viewer.locator(".pane")
    expect(panes).to_have_count(2)
    expect(viewer.locator(".side h3").first).to_have_text("prompt a cat · cfg 7.5")
    expect(window.locator("#viewer-title")).to_have_text("seed 1")
    moved = "() => [...document.querySelectorAll('.content')].map((one) => one.style.transform)"
    box = panes.first.bounding_box()
    assert box is not None
    window.mouse.move(box["x"] + 30, box["y"] + 200)
    window.mouse.wheel(0, -600)
    window.wait_for_function("() => document.querySelector('.zoomed')")
    first, second = window.evaluate(moved)
    assert first == second != "translate(0%, 0%) scale(1)"
    window.mouse.down()
    window.mouse.move(box["x"] + 90, box["y"] + 230)
    window.mouse.up()
    panned, other = window.evaluate(moved)
    assert panned == other != first
    window.keyboard.press("s")
    clip = "() => document.querySelectorAll('.pane')[1].style.clipPath"
    assert window.evaluate(clip) == "inset(0px 0px 0px 50%)"
    viewer.get_by_label("How much of the left").fill("20")
    assert window.evaluate(clip) == "inset(0px 0px 0px 20%)"
    window.keyboard.press("Escape")
    window.keyboard.press("?")
    expect(window.get_by_role("dialog")).to_contain_text("keep, or take that back")


def test_what_strangers_wrote_runs_nowhere(tmp_path: Path, window: Page, asked: list[str]) -> None:
    argv = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", EVIL]
    texts = [SPELL, EVIL]
    sets = {"prompt": [["6", "text"]], "__proto__.x": [["6", "__proto__"]]}
    batch = BatchFolder(
        tmp_path / "evil #1%", {"prompt": texts, "__proto__.x": [EVIL, "-rf"]},
        name=EVIL, workflow=EVIL, target=EVIL, command=argv, sets=sets,
    )  # fmt: skip
    error = {"code": EVIL, "message": EVIL, "advice": EVIL}
    svg = (
        b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(2)</script></svg>'
    )
    batch.add(
        batch.line(
            0,
            run=EVIL,
            outputs=[
                batch.output("0000/it's #1 100% 'x' &lt;b&gt;.png"),
                batch.output("0000/evil.svg", svg),
                batch.output("0000/a.txt", EVIL.encode(), kind="text"),
                batch.output("0000/evil.html", EVIL.encode(), kind="file"),
            ],
            texts=[{"node": EVIL, "text": EVIL}],
            problems=[EVIL],
        ),
        batch.line(1, state="failed", error=error),
        batch.line(2, state=EVIL, outputs=[batch.output("2/evil.svg", svg)]),
    )
    window.goto(make_sheet(batch.path).html.as_uri())
    expect(window.get_by_role("heading", level=1)).to_have_text(EVIL)
    expect(cell(window, 1)).to_contain_text(EVIL)
    assert not {"\u202e", "\x1b"} & set(window.locator("body").inner_text())
    window.wait_for_function("() => document.querySelector('#cell-2 img')?.naturalWidth")
    window.keyboard.press("Enter")
    viewer = window.get_by_role("dialog")
    loaded = "() => document.querySelector('#stage img')?.naturalWidth === 60"
    window.wait_for_function(loaded)

    # The command is taken by a shell as it is.
    shown = viewer.locator("#command").inner_text()
    assert "\x1b" not in shown
    assert "\n" not in shown
    viewer.get_by_role("button", name="Copy the command").click()
    expect(window.locator("#said")).to_have_text("Copied.")
    copied = window.evaluate("() => navigator.clipboard.readText()")
    assert copied == shown
    if bash := shutil.which("bash"):
        ran = subprocess.run([bash, "-c", shown], capture_output=True, text=True, check=True)
        assert json.loads(ran.stdout) == [
            *(EVIL, "--prompt", SPELL),
            *("--set", f"__proto__.x={EVIL}"),
        ]
    viewer.get_by_label("The shell").select_option(label="PowerShell")
    line = viewer.locator("#command").inner_text()
    assert "('it''s \"q\" $HOME `id` \\ %PATH%' + [char]10 + 'new line' + [char]27" in line
    assert "\x1b" not in line
    expect(viewer).to_contain_text("It needs PowerShell 7.3")
    with window.expect_download() as saved:
        viewer.get_by_role("button", name="Save the workflow").click()
    workflow = json.loads(saved.value.path().read_text())
    assert workflow["6"]["inputs"] == {"text": SPELL, "clip": ["4", 1], "__proto__": EVIL}
    assert workflow["3"] == PROMPT["3"]

    # Its other outputs: none of them runs, and none that would is a link.
    for _ in range(4):
        window.keyboard.press("n")
    links = [one.get_attribute("href") or "" for one in viewer.locator("a").all()]
    assert all(re.fullmatch(r"\./0000/[\w%'().-]+\.(png|txt)", link) for link in links)
    for _ in range(2):
        window.keyboard.press("ArrowRight")
        expect(viewer).to_contain_text(EVIL, use_inner_text=True)
    window.keyboard.press("Escape")
    window.locator("#rows").select_option("none")
    window.locator("#columns").select_option("none")
    assert window.title() == EVIL
    assert window.locator("main b:text-is('x')").count() == 0
    outside = [url for url in asked if not url.startswith(("data:", "blob:", batch.path.as_uri()))]
    assert outside == []


def test_a_served_sheet_writes_keeps_and_shows_what_comes(tmp_path: Path, window: Page) -> None:
    batch = BatchFolder(tmp_path / "mixed", {"seed": range(8)})
    film = (SAVED / "0.33.0.webm").read_bytes()
    outputs = [
        batch.output("0/film.webm", film, kind="video"),
        batch.output("1/a.wav", WAV + b"\x80" * 256, kind="audio"),
        batch.output("2/mesh.glb", b"glTF", kind="3d"),
        batch.output("3/caption.txt", b"a lighthouse at night", kind="text"),
        batch.output("4/broken.webm", b"\x1a\x45\xdf\xa3", kind="video"),
    ]
    batch.add(*(batch.line(row, outputs=[one]) for row, one in enumerate(outputs)))
    with served(batch.path) as url:
        window.goto(url)
        playing = "(row) => document.querySelector(`#cell-${row} video`)?.readyState >= 2"
        window.wait_for_function(playing, arg=0)
        expect(cell(window, 1)).to_contain_text("WAV")
        expect(cell(window, 2)).to_contain_text("GLB")
        expect(cell(window, 3)).to_contain_text("a lighthouse at night")
        expect(cell(window, 4)).to_contain_text("WEBM")
        expect(window.get_by_role("button", name="Export")).to_be_hidden()
        window.keyboard.press("k")
        window.keyboard.press("ArrowRight")
        window.keyboard.press("x")
        expect(window.get_by_role("status")).to_have_text("Saved to keeps.json")
        window.wait_for_function("() => document.querySelector('#shows .reject b')")
        expect(count_of(window, "Rejected")).to_have_text("1")

        window.keyboard.press("Enter")
        expect(window.get_by_role("dialog").locator("audio")).to_have_js_property("duration", 0.032)
        window.keyboard.press("ArrowLeft")
        window.wait_for_function("() => document.querySelector('#stage video')?.readyState >= 2")
        window.keyboard.press("ArrowRight")
        window.keyboard.press("ArrowRight")
        link = window.get_by_role("dialog").get_by_role("link", name="Open the file")
        expect(link).to_have_attribute("href", "./2/mesh.glb")
        window.keyboard.press("Escape")

        batch.add(batch.line(5, outputs=[batch.output("5/late.png")]))
        window.wait_for_function(
            "() => document.querySelector('#cell-5 img')?.naturalWidth", timeout=60_000
        )
        expect(count_of(window, "Kept")).to_have_text("1")
        window.reload()
        expect(count_of(window, "Rejected")).to_have_text("1")
    assert json.loads((batch.path / "keeps.json").read_text()) == {
        "version": 1,
        "keep": [0],
        "reject": [1],
    }


@pytest.mark.parametrize("context", [(PHONE, "light")], indirect=True, ids=["phone"])
def test_ten_thousand_runs_on_a_phone(tmp_path: Path, window: Page) -> None:
    # Of a damaged batch.json there may be neither a command nor a prompt.
    axes = {"seed": range(10_000)}
    batch = BatchFolder(tmp_path / "many", axes, command=[], prompt={}, sets={})
    one = batch.output("p.png")
    batch.add(*(batch.line(row, outputs=[one]) for row in range(10_000)))
    window.goto(make_sheet(batch.path, png=False).html.as_uri())
    expect(count_of(window, "Undecided")).to_have_text("10,000")
    assert window.evaluate("() => document.querySelectorAll('*').length") < 1500
    window.keyboard.press("End")
    expect(cell(window, 9999)).to_be_visible()
    window.wait_for_function("() => document.querySelector('#cell-9999 img').naturalWidth === 60")
    assert window.evaluate("() => document.querySelectorAll('*').length") < 1500
    assert window.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]
    window.keyboard.press("u")
    expect(window.get_by_role("dialog")).to_contain_text("seed 9999")
    window.keyboard.press("Escape")
    cell(window, 9999).click()
    window.get_by_role("dialog").get_by_role("button", name="Reject").click()
    expect(window.get_by_role("dialog").get_by_role("button", name="Reject")).to_be_focused()
    window.get_by_role("dialog").get_by_role("button", name="Close").click()
    expect(count_of(window, "Rejected")).to_have_text("1")
