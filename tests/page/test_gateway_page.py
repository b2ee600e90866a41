"""The gateway's page in a browser, as its owner uses it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

pytest.importorskip("playwright", reason="skipped: no playwright (pip install -e '.[dev]')")

from comfy_page import ACTION_MS, ARTEFACTS
from gateway_in_thread import Gateway, gateway_in_thread
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.wire.joined import Hello, Report

pytest_plugins = ["page_fixtures"]

TOKEN = "a-token-for-this-test"
DESK = {"width": 1400, "height": 900}
PHONE = {"width": 390, "height": 844}


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with gateway_in_thread() as gateway:
        yield gateway


@pytest.fixture
def guarded() -> Iterator[Gateway]:
    with gateway_in_thread(TOKEN) as gateway:
        yield gateway


@pytest.fixture
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    size, scheme = getattr(request, "param", (DESK, "light"))
    context = browser.new_context(viewport=size, color_scheme=scheme)
    context.set_default_timeout(ACTION_MS)
    yield context
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    for number, window in enumerate(context.pages):
        window.screenshot(path=ARTEFACTS / f"{name}-{number}.png")
    context.close()


@pytest.fixture
def window(context: BrowserContext) -> Iterator[Page]:
    """A window that must see no error: not in our scripts, nor of the content's policy."""
    window = context.new_page()
    complaints: list[str] = []
    window.on("pageerror", lambda error: complaints.append(str(error)))
    window.on(
        "console",
        lambda said: complaints.append(said.text) if "Content Security" in said.text else None,
    )
    yield window
    assert not complaints


def rows(window: Page, table: str) -> Locator:
    return window.locator(f"#{table} tbody tr")


def row_of(window: Page, table: str, words: str) -> Locator:
    return rows(window, table).filter(has_text=words)


def open_with_token(window: Page, gateway: Gateway, token: str = TOKEN) -> None:
    window.goto(gateway.url)
    window.get_by_label("Token").fill(token)
    window.get_by_role("button", name="Open").click()


def test_it_asks_for_the_token_and_stores_it_nowhere(guarded: Gateway, window: Page) -> None:
    job = guarded.submit()
    open_with_token(window, guarded, "not-the-right-token")
    expect(window.get_by_role("alert")).to_contain_text("not the token")
    expect(window.locator("#open")).to_be_hidden()
    assert job not in window.content()
    assert "desk" not in window.content()

    window.get_by_label("Token").fill(TOKEN)
    window.keyboard.press("Enter")
    expect(row_of(window, "waiting", job)).to_be_visible()
    expect(window.get_by_role("alert")).to_be_hidden()
    stored = "() => JSON.stringify([localStorage, sessionStorage, document.cookie])"
    assert TOKEN not in window.evaluate(stored)
    assert TOKEN not in window.url
    assert TOKEN not in window.content()

    window.get_by_role("button", name="Forget the token").click()
    expect(window.get_by_label("Token")).to_be_visible()
    assert job not in window.content()


def test_it_asks_for_no_token_where_others_could_read_it(guarded: Gateway, window: Page) -> None:
    def pass_on(route: Route) -> None:
        there = route.request.url.replace("http://box.lan/", guarded.url)
        headers = {name: value for name, value in route.request.headers.items() if name != "origin"}
        route.fulfill(response=route.fetch(url=there, headers=headers))

    window.route("http://box.lan/**", pass_on)
    window.goto("http://box.lan/")
    expect(window.get_by_text("opened over plain http")).to_be_visible()
    expect(window.get_by_label("Token")).to_be_hidden()


def test_jobs_from_the_line_to_their_end(gateway: Gateway, window: Page) -> None:
    first = gateway.submit(client="laptop", batch="styles")
    second = gateway.submit(priority=5)
    window.goto(gateway.url)
    waiting = row_of(window, "waiting", first)
    expect(waiting).to_contain_text("laptop")
    expect(waiting).to_contain_text("batch styles")
    expect(waiting).to_contain_text("No worker is connected.")
    expect(rows(window, "waiting").first).to_contain_text(second)
    expect(window.get_by_text("Nothing runs.")).to_be_visible()

    assert gateway.take() == second
    gateway.done(
        second,
        {
            "status": "IN_PROGRESS",
            "output": {"nodes_done": 1, "nodes_total": 4, "step": 10, "steps": 20},
        },
    )
    running = row_of(window, "running", second)
    expect(running).to_contain_text("37 %")
    expect(running.get_by_role("progressbar")).to_have_js_property("value", 0.375)
    expect(row_of(window, "workers", "Runs a job")).to_contain_text(second)

    outputs = [{"kind": "image", "filename": "secret-name.png", "size": 2_000_000}]
    gateway.done(second, {"output": {"status": "success", "outputs": outputs}})
    ended = row_of(window, "ended", second)
    expect(ended).to_contain_text("Completed")
    expect(ended).to_contain_text("2.0 MB")
    expect(rows(window, "running")).to_have_count(0)
    assert gateway.take() == first
    gateway.done(first, {"error": "it broke"})
    expect(row_of(window, "ended", first)).to_contain_text("execution_failed")
    assert "secret-name" not in window.content()


def test_cancelling(gateway: Gateway, window: Page) -> None:
    runs, waits, stays = gateway.submit(), gateway.submit(), gateway.submit()
    assert gateway.take() == runs
    window.goto(gateway.url)
    row_of(window, "waiting", waits).get_by_role("button", name="Cancel").click()
    expect(row_of(window, "ended", waits)).to_contain_text("Cancelled")
    row_of(window, "running", runs).get_by_role("button", name="Cancel").click()
    expect(row_of(window, "ended", runs)).to_contain_text("Cancelled")
    states = [gateway.status(job) for job in (runs, waits, stays)]
    assert states == ["CANCELLED", "CANCELLED", "IN_QUEUE"]


def test_cancelling_all_is_asked_first(gateway: Gateway, window: Page) -> None:
    runs = gateway.submit()
    assert gateway.take() == runs
    jobs = [gateway.submit() for _ in range(3)]
    window.goto(gateway.url)
    purge = window.get_by_role("button", name="Cancel all that wait")
    purge.click()
    expect(window.get_by_role("dialog")).to_contain_text("Jobs that run go on")
    window.keyboard.press("Escape")
    expect(window.get_by_role("dialog")).to_be_hidden()
    purge.click()
    window.get_by_role("button", name="Do nothing").click()
    assert {gateway.status(job) for job in jobs} == {"IN_QUEUE"}
    purge.click()
    window.get_by_role("button", name="Cancel them").click()
    expect(rows(window, "waiting")).to_have_count(0)
    expect(window.get_by_text("Nothing waits.")).to_be_visible()
    assert {gateway.status(job) for job in jobs} == {"CANCELLED"}
    assert gateway.status(runs) == "IN_PROGRESS"


def test_a_job_goes_to_the_front(gateway: Gateway, window: Page) -> None:
    jobs = [gateway.submit() for _ in range(3)]
    window.goto(gateway.url)
    row_of(window, "waiting", jobs[2]).get_by_role("button", name="To the front").click()
    expect(rows(window, "waiting").first).to_contain_text(jobs[2])
    expect(rows(window, "waiting").first).to_contain_text("front")
    assert gateway.take() == jobs[2]


def test_draining_a_worker(gateway: Gateway, window: Page) -> None:
    assert gateway.take("w") is None
    window.goto(gateway.url)
    worker = row_of(window, "workers", "w")
    expect(worker).to_contain_text("Idle")
    worker.get_by_role("button", name="Drain").click()
    expect(worker).to_contain_text("Drained")
    job = gateway.submit()
    assert gateway.take("w") is None
    expect(row_of(window, "waiting", job)).to_contain_text("draining")
    worker.get_by_role("button", name="Take jobs again").click()
    expect(worker).to_contain_text("Idle")
    assert gateway.take("w") == job


def test_saying_that_a_worker_is_gone(window: Page) -> None:
    boot = f"{'0' * 32}.{'1' * 32}"
    with gateway_in_thread(limits=GatewayLimits(poll_wait=0.1, worker_silence=0.5)) as gateway:
        queue, journal = gateway.server.queue, gateway.server.journal
        gateway.run(journal.change_workers(lambda listed: listed.add("attic", "0" * 64)))
        gateway.run(queue.hello("attic", boot, []))
        job = gateway.submit()
        assert gateway.run(queue.take("attic", wait=1))
        window.goto(gateway.url)
        worker = row_of(window, "workers", "attic")
        expect(worker).to_contain_text("Silent")
        expect(worker).to_contain_text("Its job waits for it.")
        worker.get_by_role("button", name="It is gone").click()
        expect(window.get_by_role("dialog")).to_contain_text("the work is done twice")
        window.get_by_role("button", name="It is gone", exact=True).click()
        waiting = row_of(window, "waiting", job)
        expect(waiting).to_contain_text("attempt 2")
        expect(rows(window, "workers")).to_have_count(0)
        assert gateway.status(job) == "IN_QUEUE"


def test_what_strangers_say_is_text(gateway: Gateway, window: Page) -> None:
    evil = "<img src=x onerror=document.title='owned'>"
    job = gateway.submit(client=evil, batch="<b>x</b>")
    window.goto(gateway.url)
    waiting = row_of(window, "waiting", job)
    expect(waiting).to_contain_text(evil)
    expect(waiting).to_contain_text("<b>x</b>")
    assert window.locator("main img, main b").count() == 0
    assert "owned" not in window.title()


def test_what_a_worker_says_is_text(gateway: Gateway, window: Page) -> None:
    evil = "<img src=x onerror=document.title='owned'>"
    tricks = f"{evil}\x1b[2J\u202e\n"
    server = gateway.server
    report = Report(engine=tricks, device=tricks, labels=[tricks], nodes=[tricks])
    hello = Hello(boot=f"{'a' * 32}.{'b' * 32}", report=report, version=tricks, broken=tricks)

    async def join() -> None:
        await server.journal.change_workers(lambda listed: listed.add("attic", "0" * 64))
        await server.joined.read_words()
        await server.joined.hello("attic", hello)

    gateway.run(join())
    job = gateway.submit()
    assert gateway.take() == job
    gateway.done(job, {"error": {"error_type": evil, "error_message": evil}})
    window.goto(gateway.url)
    worker = row_of(window, "workers", "attic")
    expect(worker).to_contain_text(evil)
    expect(row_of(window, "ended", job)).to_contain_text("Failed")
    assert not {"\x1b", "\u202e"} & set(worker.inner_text())
    assert window.locator("main img").count() == 0
    assert "owned" not in window.title()


def test_a_page_of_another_site_neither_reads_nor_presses(
    gateway: Gateway, context: BrowserContext
) -> None:
    """It is a page of this browser, and so it reaches a gateway that wants no token."""
    job = gateway.submit()
    other = context.new_page()
    port = int(gateway.url.rstrip("/").rpartition(":")[2])
    other.route(
        "http://evil.test/**", lambda route: route.fulfill(body="<p>", content_type="text/html")
    )
    other.goto("http://evil.test/")
    said = other.evaluate(
        """async (url) => {
            const tried = []
            const attempt = (work) => work.then((r) => tried.push(r), () => tried.push('refused'))
            const seen = (r) => r.type === 'opaque' ? 'opaque' : r.text()
            const post = { method: 'POST', body: '{}' }
            for (const mode of ['cors', 'no-cors']) {
                await attempt(fetch(`${url}overview`, { mode }).then(seen))
                await attempt(fetch(`${url}v2/local/purge-queue`, { mode, ...post }).then(seen))
            }
            const form = document.createElement('form')
            const action = `${url}v2/local/cancel/JOB`
            Object.assign(form, { method: 'POST', action, target: 'f' })
            const frame = document.createElement('iframe')
            frame.name = 'f'
            document.body.append(frame, form)
            form.submit()
            await new Promise((done) => { frame.onload = done; setTimeout(done, 3000) })
            return tried
        }""".replace("JOB", job),
        f"http://127.0.0.1:{port}/",
    )
    assert {one for one in said if one not in ("refused", "opaque")} == set()
    assert gateway.status(job) == "IN_QUEUE"


def test_a_gateway_that_is_away_for_a_while(window: Page) -> None:
    with gateway_in_thread() as gateway:
        port = int(gateway.url.rstrip("/").rpartition(":")[2])
        job = gateway.submit()
        window.goto(gateway.url)
        expect(row_of(window, "waiting", job)).to_be_visible()
    expect(window.get_by_role("status")).to_contain_text("No answer")
    expect(row_of(window, "waiting", job)).to_be_visible()
    with gateway_in_thread(port=port):
        expect(window.get_by_role("status")).to_contain_text("Updated", timeout=90_000)
        expect(rows(window, "waiting")).to_have_count(0)


def test_a_page_that_nobody_sees_asks_nothing(gateway: Gateway, window: Page) -> None:
    asked: list[str] = []
    window.on("request", lambda request: asked.append(request.url))
    window.goto(gateway.url)
    expect(window.get_by_role("status")).to_contain_text("Updated")
    hide = (
        "(value) => {Object.defineProperty(document, 'hidden', {value, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange'))}"
    )
    window.evaluate(hide, True)
    window.wait_for_timeout(300)
    before = len(asked)
    window.wait_for_timeout(4000)
    assert len(asked) == before
    with window.expect_request("**"):  # what is seen again is brought up to date
        window.evaluate(hide, False)


def test_the_keyboard_is_enough(gateway: Gateway, window: Page) -> None:
    jobs = [gateway.submit() for _ in range(3)]
    window.goto(gateway.url)
    expect(rows(window, "waiting")).to_have_count(3)
    cancel = row_of(window, "waiting", jobs[1]).get_by_role("button", name="Cancel")
    focused = "() => document.activeElement?.getAttribute('aria-label') ?? ''"
    for _ in range(40):
        window.keyboard.press("Tab")
        if window.evaluate(focused) == f"Cancel: {jobs[1]}":
            break
    else:
        pytest.fail("Tab does not lead there")
    expect(cancel).to_be_focused()
    window.wait_for_timeout(2500)
    expect(cancel).to_be_focused()  # what is shown anew takes no focus away
    window.keyboard.press("Enter")
    expect(rows(window, "waiting")).to_have_count(2)
    assert jobs[2] in window.evaluate(focused), "the focus is on the row that took its place"


async def take_one_each(server: GatewayServer, workers: list[str]) -> None:
    taken = await asyncio.gather(*(server.queue.take(worker, wait=5) for worker in workers))
    assert all(taken)


@pytest.mark.parametrize(
    "context",
    [
        pytest.param((DESK, "light"), id="desk"),
        pytest.param((DESK, "dark"), id="desk-dark"),
        pytest.param((PHONE, "light"), id="phone"),
        pytest.param((PHONE, "dark"), id="phone-dark"),
    ],
    indirect=True,
)
def test_a_full_gateway_fits_on_the_screen(gateway: Gateway, window: Page) -> None:
    gateway.submit_many(
        {"client": f"client-{number % 5}", "batch": "x" * 64} for number in range(64)
    )
    gateway.run(take_one_each(gateway.server, [f"worker-{number}" for number in range(64)]))
    gateway.submit_many(
        {"client": "w" * 64, "batch": f"batch {number}", "priority": number % 7}
        for number in range(500)
    )
    window.goto(gateway.url)
    expect(rows(window, "workers")).to_have_count(64)
    expect(rows(window, "running")).to_have_count(64)
    expect(rows(window, "waiting")).to_have_count(500)
    sideways = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert window.evaluate(sideways) == 0
    jobs = window.locator("#waiting tbody tr td:nth-child(2)")
    first = str(jobs.first.text_content())
    row_of(window, "waiting", first).get_by_role("button", name="Cancel").click()
    expect(rows(window, "waiting")).to_have_count(499)
