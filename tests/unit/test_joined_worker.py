"""A joined worker against a stand-in for its gateway: outages, restarts, stops, results."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import logging
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fake_head import TOKEN, FakeHead, answers
from helpers import until
from pydantic import JsonValue, SecretStr

from comfy_remote.errors import AuthenticationError, EngineCrashed, TargetError
from comfy_remote.media.receive import Received
from comfy_remote.net.retry import Backoff
from comfy_remote.wire.joined import Report, home_of
from comfy_remote.worker.joined.client import Gateway
from comfy_remote.worker.joined.delivery import DeliveryTimes, SpoolStore
from comfy_remote.worker.joined.spool import Spool, SpoolLimits
from comfy_remote.worker.joined.worker import JoinedTimes, JoinedWorker

ROOMY = SpoolLimits(free=0)
QUICK = Backoff(first=0.01, longest=0.05, jitter=0.0)
TIMES = JoinedTimes(
    outage=QUICK,
    name_patience=0.3,
    room=0.05,
    least=0.01,
    farewell=1.0,
    report=0.05,
    delivery=DeliveryTimes(backoff=QUICK, spool=0.02, retention=0.05),
)

Work = Callable[[str, Any, Any], Awaitable[dict[str, JsonValue]]]


class Handler:
    """Runs what the test gives it, and can be made not ready."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.broken: EngineCrashed | None = None

    async def ready(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def __call__(self, job_id: str, payload: JsonValue, report: Any) -> dict[str, JsonValue]:
        return await self._work(job_id, payload, report)


async def double(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
    return {"doubled": payload * 2}


async def for_ever(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
    await asyncio.sleep(60)
    return {}


@pytest.fixture
async def head() -> AsyncIterator[FakeHead]:
    async with FakeHead() as fake:
        yield fake


class Running:
    """A worker that runs, with what belongs to it."""

    def __init__(self, worker: JoinedWorker, spool: Spool, store: SpoolStore) -> None:
        self.worker = worker
        self.spool = spool
        self.store = store
        self.task: asyncio.Task[None]
        self.report = Report(engine="fake", nodes=["A"], labels=["fast"])


@asynccontextmanager
async def joined(
    head: FakeHead,
    folder: Path,
    work: Work = double,
    limits: SpoolLimits = ROOMY,
    token: str = TOKEN,
    handler: Handler | None = None,
) -> AsyncIterator[Running]:
    spool = Spool(folder, limits)
    spool.open(token)
    gateway = Gateway(
        head.url,
        endpoint="local",
        worker="desk",
        token=SecretStr(token),
        boot=spool.boot(),
    )
    store = SpoolStore(spool, "desk")

    async def report() -> Report:
        return running.report

    try:
        async with gateway:
            running = Running(JoinedWorker(gateway, spool, report, store, TIMES), spool, store)
            running.task = asyncio.create_task(running.worker.run(handler or Handler(work)))
            yield running
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
    finally:
        spool.close()


async def test_a_job_from_take_to_result(head: FakeHead, tmp_path: Path) -> None:
    async def work(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        await report({"sequence": 1})
        return {"doubled": payload * 2}

    async with joined(head, tmp_path, work) as running:
        head.jobs.put_nowait(("job-1", 1, 21))
        await until(lambda: head.results)
        assert head.results == [("job-1", "1", {"output": {"doubled": 42}})]
        assert head.progress == [("job-1", "1", {"sequence": 1})]
        await until(lambda: not running.spool.waiting())
    first, *_, last = head.hellos
    assert [one["number"] for one in head.hellos] == list(range(1, len(head.hellos) + 1))
    assert first["holds"] == []
    assert last["report"]["labels"] == ["fast"]
    assert home_of(first["boot"]) == running.spool.home


async def test_what_fails_is_delivered_as_an_error(head: FakeHead, tmp_path: Path) -> None:
    async def work(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        if payload == "raises":
            raise ValueError("bad")
        return {"error": "no", "rest": 1}

    async with joined(head, tmp_path, work):
        head.jobs.put_nowait(("a", 1, "raises"))
        head.jobs.put_nowait(("b", 1, "says"))
        await until(lambda: len(head.results) == 2)
    by_job = {job: result for job, _, result in head.results}
    assert "ValueError: bad" in by_job["a"]["error"]
    assert by_job["b"] == {"output": {"rest": 1}, "error": "no"}


async def test_a_running_job_goes_on_through_a_restart_of_the_gateway(
    head: FakeHead, tmp_path: Path
) -> None:
    go_on = asyncio.Event()

    async def work(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        await go_on.wait()
        return {"done": True}

    async with joined(head, tmp_path, work):
        head.jobs.put_nowait(("job-1", 2, 0))
        await until(head.runs_one)
        hellos = len(head.hellos)
        await head.leave()
        await asyncio.sleep(0.1)
        await head.come_back()
        await until(lambda: len(head.hellos) > hellos)
        assert head.hellos[-1]["holds"] == [{"job": "job-1", "attempt": 2, "state": "running"}]
        assert head.hellos[-1]["boot"] == head.hellos[0]["boot"]
        go_on.set()
        await until(lambda: head.results)
    assert head.results == [("job-1", "2", {"output": {"done": True}})]


async def test_a_result_waits_for_the_gateway_and_the_next_job_does_not_wait_for_it(
    head: FakeHead, tmp_path: Path
) -> None:
    head.instead["done"] = answers(507)
    async with joined(head, tmp_path) as running:
        head.jobs.put_nowait(("a", 1, 1))
        head.jobs.put_nowait(("b", 1, 2))
        await until(lambda: {one.job for one in running.spool.waiting()} == {"a", "b"})
        assert head.results == []
        head.instead.clear()
        await until(lambda: len(head.results) == 2)
        await until(lambda: not running.spool.waiting())
    assert {job for job, *_ in head.results} == {"a", "b"}


async def test_a_new_start_delivers_what_the_one_before_had_finished(
    head: FakeHead, tmp_path: Path
) -> None:
    head.instead["done"] = answers(507)
    async with joined(head, tmp_path) as running:
        head.jobs.put_nowait(("a", 3, 1))
        await until(running.spool.waiting)
    head.instead.clear()
    head.hellos.clear()
    async with joined(head, tmp_path):
        await until(lambda: head.results)
    assert head.results == [("a", "3", {"output": {"doubled": 2}})]
    assert head.hellos[0]["holds"] == [{"job": "a", "attempt": 3, "state": "ended"}]
    assert not list((tmp_path / "results").rglob("*.json"))


async def test_large_outputs_come_before_their_result_and_only_once(
    head: FakeHead, tmp_path: Path
) -> None:
    content = b"large " * 100_000
    sha256 = hashlib.sha256(content).hexdigest()
    path = tmp_path / "made"
    path.write_bytes(content)

    async def work(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        file = Received(path, len(content), sha256)
        stored = await running.store.put(job_id, "out.png", file)
        return {"url": stored.url}

    order: list[str] = []

    async def fails_once(request: web.Request) -> web.StreamResponse:
        order.append("put")
        del head.instead["put"]
        await request.read()
        head.files[sha256] = content  # it arrived, and its answer did not
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    head.instead["put"] = fails_once
    async with joined(head, tmp_path / "spool", work) as running:
        head.jobs.put_nowait(("a", 1, 0))
        await until(lambda: head.results)
    assert head.files == {sha256: content}
    assert head.results == [("a", "1", {"output": {"url": f"files/a/{sha256}"}})]
    assert head.asked.count("put") == 1
    assert head.asked.index("put") < head.asked.index("done")


async def test_a_stop_ends_the_job_and_leaves_nothing(head: FakeHead, tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def work(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        if payload == "next":
            return {"ok": True}
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return {}

    async with joined(head, tmp_path, work):
        head.jobs.put_nowait(("a", 1, 0))
        await until(head.runs_one)
        head.stop("a")
        await asyncio.wait_for(ended.wait(), 60)
        head.jobs.put_nowait(("b", 1, "next"))
        await until(lambda: head.results)
    assert [job for job, *_ in head.results] == ["b"]
    assert head.backs == []


async def test_a_stop_that_comes_before_its_job_counts(head: FakeHead, tmp_path: Path) -> None:
    async with joined(head, tmp_path, for_ever):
        await until(lambda: head.pings)
        head.stop("a")
        await until(lambda: len(head.pings) >= 2)
        head.jobs.put_nowait(("a", 1, 0))
        head.jobs.put_nowait(("b", 1, 0))
        await until(lambda: any(p["holds"] and p["holds"][0]["job"] == "b" for p in head.pings))


async def test_what_a_hello_says_is_dropped(head: FakeHead, tmp_path: Path) -> None:
    started = asyncio.Event()

    async def work(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        started.set()
        return await for_ever(job_id, payload, report)

    async with joined(head, tmp_path, work):
        head.jobs.put_nowait(("a", 1, 0))
        await asyncio.wait_for(started.wait(), 60)
        head.drop = [{"job": "a", "attempt": 1, "state": "running"}]
        head.forget()
        started.clear()
        head.jobs.put_nowait(("b", 1, 0))
        await asyncio.wait_for(started.wait(), 60)
    assert "b" in head.backs
    assert head.results == []


async def test_a_lost_answer_with_a_job_is_followed_by_a_hello(
    head: FakeHead, tmp_path: Path
) -> None:
    hellos: list[int] = []

    async def lost(request: web.Request) -> web.StreamResponse:
        hellos.append(len(head.hellos))
        del head.instead["take"]
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    async with joined(head, tmp_path):
        head.instead["take"] = lost
        await until(lambda: hellos)
        head.jobs.put_nowait(("a", 1, 1))
        await until(lambda: head.results)
        assert len(head.hellos) > hellos[0]
        assert head.hellos[-1]["holds"] == []


async def test_drained_it_ends_when_its_job_is_delivered(head: FakeHead, tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def work(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        await go_on.wait()
        return {"done": True}

    async with joined(head, tmp_path, work) as running:
        head.jobs.put_nowait(("a", 1, 0))
        await until(head.runs_one)
        running.worker.drain()
        head.jobs.put_nowait(("b", 1, 0))
        await asyncio.sleep(0.1)
        assert not running.task.done()
        go_on.set()
        await asyncio.wait_for(running.task, 60)
    assert [job for job, *_ in head.results] == ["a"]
    assert head.jobs.qsize() == 1
    assert head.hellos[-1] | {"report": None} == {
        "boot": head.hellos[0]["boot"],
        "number": len(head.hellos),
        "version": head.hellos[0]["version"],
        "report": None,
        "holds": [],
        "draining": True,
        "broken": "",
    }


async def test_drained_while_it_waits_for_a_job_it_ends_at_once(
    head: FakeHead, tmp_path: Path
) -> None:
    async with joined(head, tmp_path) as running:
        await until(lambda: "take" in head.asked)
        running.worker.drain()
        await asyncio.wait_for(running.task, 60)
    assert head.hellos[-1]["draining"]


async def test_cancelled_it_gives_its_job_back(head: FakeHead, tmp_path: Path) -> None:
    async with joined(head, tmp_path, for_ever) as running:
        head.jobs.put_nowait(("a", 1, 0))
        await until(head.runs_one)
        running.task.cancel()
        await asyncio.gather(running.task, return_exceptions=True)
    assert head.backs == ["a"]
    assert head.results == []


async def test_a_token_that_is_not_taken_any_more_ends_it(head: FakeHead, tmp_path: Path) -> None:
    stopped = asyncio.Event()

    async def work(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        try:
            return await for_ever(job_id, payload, report)
        finally:
            stopped.set()

    async with joined(head, tmp_path, work) as running:
        head.jobs.put_nowait(("a", 1, 0))
        await until(head.runs_one)
        for name in ("ping", "back", "hello", "take"):
            head.instead[name] = answers(401)
        with pytest.raises(AuthenticationError) as caught:
            await asyncio.wait_for(running.task, 60)
    assert stopped.is_set()
    assert TOKEN not in str(caught.value)


async def test_a_proxy_that_refuses_for_a_while_ends_neither_worker_nor_job(
    head: FakeHead, tmp_path: Path
) -> None:
    """Only the gateway's own 401 says that the token is not taken."""
    go_on = asyncio.Event()

    async def work(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        await go_on.wait()
        return {"done": True}

    async with joined(head, tmp_path, work) as running:
        head.jobs.put_nowait(("a", 1, 0))
        await until(head.runs_one)
        for name in ("ping", "hello", "take", "done"):
            head.instead[name] = answers(403)
        asked = len(head.asked)
        go_on.set()
        await until(lambda: {"hello", "done"} <= set(head.asked[asked:]))
        assert not running.task.done()
        head.instead.clear()
        await until(lambda: head.results)
    assert head.results == [("a", "1", {"output": {"done": True}})]


async def test_a_name_that_another_has_is_waited_for_and_then_an_error(
    head: FakeHead, tmp_path: Path
) -> None:
    head.instead["hello"] = answers(409, "desk is taken.", "worker_name_taken")
    async with joined(head, tmp_path) as running:
        with pytest.raises(TargetError, match="desk is taken"):
            await asyncio.wait_for(running.task, 60)
    assert head.asked.count("hello") > 1
    async with joined(head, tmp_path) as running:
        await until(lambda: "hello" in head.asked)
        head.instead.clear()
        head.jobs.put_nowait(("a", 1, 1))
        await until(lambda: head.results)


async def test_a_full_spool_takes_no_further_job(head: FakeHead, tmp_path: Path) -> None:
    head.instead["done"] = answers(507)
    async with joined(head, tmp_path, limits=SpoolLimits(size=10, free=0)) as running:
        head.jobs.put_nowait(("a", 1, 1))
        head.jobs.put_nowait(("b", 1, 2))
        await until(running.spool.waiting)
        await asyncio.sleep(0.2)
        assert head.jobs.qsize() == 1
        head.instead.clear()
        await until(lambda: len(head.results) == 2)


async def test_a_result_for_which_the_disk_has_no_room_is_delivered_from_memory(
    head: FakeHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head.instead["done"] = answers(507)
    async with joined(head, tmp_path) as running:
        await until(lambda: "take" in head.asked)
        (tmp_path / "results").write_text("in the way")
        head.jobs.put_nowait(("a", 1, 1))
        head.jobs.put_nowait(("b", 1, 2))
        await until(lambda: "done" in head.asked)
        await asyncio.sleep(0.1)
        assert head.jobs.qsize() == 1
        head.forget()
        await until(lambda: head.hellos[-1]["holds"])
        assert head.hellos[-1]["holds"] == [{"job": "a", "attempt": 1, "state": "ended"}]
        (tmp_path / "results").unlink()
        await until(running.spool.waiting)
        head.instead.clear()
        await until(lambda: len(head.results) == 2)


async def test_a_full_disk_does_not_hold_up_the_results_that_are_on_it(
    head: FakeHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with joined(head, tmp_path) as running:
        monkeypatch.setattr(running.spool, "save_clock", full)
        head.jobs.put_nowait(("a", 1, 1))
        await until(lambda: head.results)


async def test_a_result_that_the_gateway_cannot_take_now_holds_up_no_other(
    head: FakeHead, tmp_path: Path
) -> None:
    async def full_for_a(request: web.Request) -> web.StreamResponse:
        if request.match_info["job"] == "a":
            return web.json_response({"error": "full"}, status=507)
        return await head._done(request)

    head.instead["done"] = full_for_a
    async with joined(head, tmp_path):
        for job in ("a", "b", "c"):
            head.jobs.put_nowait((job, 1, 1))
        await until(lambda: len(head.results) == 2)
        assert {job for job, *_ in head.results} == {"b", "c"}
        head.instead.clear()
        await until(lambda: len(head.results) == 3)


async def test_a_result_that_somebody_deletes_fails_its_job(head: FakeHead, tmp_path: Path) -> None:
    deleted = asyncio.Event()

    async def no_room(_: web.Request) -> web.StreamResponse:
        await deleted.wait()  # what was read before is on its way
        return web.json_response({"error": "full"}, status=507)

    head.instead["done"] = no_room
    async with joined(head, tmp_path) as running:
        head.jobs.put_nowait(("a", 1, 1))
        await until(lambda: "done" in head.asked)
        shutil.rmtree(tmp_path / "results")
        head.instead.clear()
        deleted.set()
        await until(lambda: head.results and not running.spool.waiting())
        head.jobs.put_nowait(("b", 1, 1))
        await until(lambda: len(head.results) == 2)
    (_, _, lost), (_, _, after) = head.results
    assert json.loads(lost["error"])["comfy_remote"]["code"] == "output_lost"
    assert after == {"output": {"doubled": 2}}


async def test_a_result_that_is_given_up_is_said_to_the_gateway(
    head: FakeHead, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else, it would take the job for one that never arrived, and have it run again."""
    head_has_no_room = True

    async def busy(request: web.Request) -> web.StreamResponse:
        if head_has_no_room:
            return web.json_response({"error": "full"}, status=507)
        return await head._done(request)

    head.instead["done"] = busy
    async with joined(head, tmp_path, limits=SpoolLimits(free=0, retention=0.3)) as running:
        head.jobs.put_nowait(("a", 1, 1))
        await until(lambda: "is deleted" in caplog.text)
        await until(running.spool.waiting)
        head_has_no_room = False
        await until(lambda: head.results)
    (_, _, result), *_ = head.results
    assert json.loads(result["error"])["comfy_remote"]["code"] == "output_lost"


async def test_a_result_that_a_proxy_refuses_fails_its_job(head: FakeHead, tmp_path: Path) -> None:
    """Else, the gateway would wait for it for ever, or have the job run again and again."""

    async def proxy(request: web.Request) -> web.StreamResponse:
        if len(await request.read()) > 1000:
            return web.Response(text="<h1>Request Entity Too Large</h1>", status=413)
        return await head._done(request)

    async def work(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        return {"large": "x" * 2000}

    head.instead["done"] = proxy
    async with joined(head, tmp_path, work) as running:
        head.jobs.put_nowait(("a", 1, 1))
        await until(lambda: head.results)
        await until(lambda: not running.spool.waiting())
    ((_, _, result),) = head.results
    assert "on its way to the gateway" in json.loads(result["error"])["error_message"]


async def test_an_output_that_was_damaged_on_the_disk_fails_its_job(
    head: FakeHead, tmp_path: Path
) -> None:
    path = tmp_path / "made"
    path.write_bytes(b"good")
    sha256 = hashlib.sha256(b"good").hexdigest()

    async def work(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        await running.store.put(job_id, "out.png", Received(path, 4, sha256))
        (file,) = (tmp_path / "spool").rglob(sha256)
        file.write_bytes(b"evil")
        return {"ok": True}

    head.instead["put"] = answers(502, code="output_corrupt")
    async with joined(head, tmp_path / "spool", work) as running:
        head.jobs.put_nowait(("a", 1, 0))
        await until(lambda: head.results)
    (_, _, result), *_ = head.results
    assert "damaged" in json.loads(result["error"])["error_message"]


async def test_why_no_job_is_taken_is_said_and_taken_back(head: FakeHead, tmp_path: Path) -> None:
    handler = Handler(double)
    handler.broken = EngineCrashed("It does not start.")
    async with joined(head, tmp_path, handler=handler):
        await until(lambda: any(hello["broken"] for hello in head.hellos))
        assert head.hellos[-1]["broken"] == "It does not start."
        assert "take" not in head.asked
        handler.broken = None
        head.jobs.put_nowait(("a", 1, 1))
        await until(lambda: head.results)
    assert head.hellos[-1]["broken"] == ""


async def test_a_report_that_changes_is_said_again(head: FakeHead, tmp_path: Path) -> None:
    async with joined(head, tmp_path) as running:
        await until(lambda: any(hello["report"]["nodes"] == ["A"] for hello in head.hellos))
        running.report = running.report.model_copy(update={"nodes": ["A", "B"]})
        await until(lambda: head.hellos[-1]["report"]["nodes"] == ["A", "B"])


NONSENSE = {
    "no JSON": web.Response(body=b"<html>"),
    "another JSON": web.json_response([1, 2]),
    "wrong types": web.json_response({"drop": 7, "stop": {}}),
    "a bomb": web.Response(body=b"[" * 600_000),
    "many values": web.Response(body=b'{"drop": [' + b"1," * 600_000 + b"1]}"),
    "a redirect": web.Response(status=302, headers={"Location": "http://127.0.0.1:1/evil"}),
    "500": web.Response(status=500),
    "too much": web.Response(body=b"x" * (5 * 2**20)),
    "nothing": web.Response(status=200),
}


@pytest.mark.parametrize("name", NONSENSE)
@pytest.mark.parametrize("route", ["hello", "ping", "take", "done", "progress"])
async def test_nonsense_from_the_gateway_is_survived(
    head: FakeHead, tmp_path: Path, name: str, route: str
) -> None:
    answer = NONSENSE[name]

    async def nonsense(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=answer.body, status=answer.status, headers=answer.headers)

    async def work(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        try:
            await report({"sequence": 1})
        except TargetError:
            raise AssertionError("progress is never the job's failure") from None
        return {"ok": True}

    head.instead[route] = nonsense
    async with joined(head, tmp_path, work) as running:
        if route in ("hello", "ping", "take"):
            await until(lambda: head.asked.count(route) >= 2)
        head.jobs.put_nowait(("a", 1, 1))
        if route in ("done", "progress"):
            await until(lambda: route in head.asked)
        assert not running.task.done()
        head.instead.clear()
        if not (route == "done" and name in ("wrong types", "nothing")):
            await until(lambda: head.results)
        assert not running.task.done()


async def test_a_gateway_that_answers_at_once_is_not_asked_without_a_pause(
    head: FakeHead, tmp_path: Path
) -> None:
    head.poll_wait = 0.001
    began = time.monotonic()
    async with joined(head, tmp_path):
        await asyncio.sleep(0.5)
    most = 120 * (time.monotonic() - began)
    assert head.asked.count("take") < most
    assert head.asked.count("ping") < most


async def test_one_that_always_wants_a_hello_is_not_asked_without_a_pause(
    head: FakeHead, tmp_path: Path
) -> None:
    head.instead["ping"] = answers(409, "who?", "say_hello")
    began = time.monotonic()
    async with joined(head, tmp_path):
        await asyncio.sleep(0.5)
    assert head.asked.count("hello") < 120 * (time.monotonic() - began)


async def test_the_token_is_in_no_log_and_no_file(
    head: FakeHead, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with joined(head, tmp_path):
        head.jobs.put_nowait(("a", 1, 1))
        await until(lambda: head.results)
        await head.leave()
        await asyncio.sleep(0.1)
    assert TOKEN not in caplog.text
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
