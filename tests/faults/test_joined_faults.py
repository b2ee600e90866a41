"""A joined worker behind a network that goes wrong: each job runs once, and has its result."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import until
from proxy import Answer, Cut, Delay, Drip, Drop, Fault, FaultProxy, NotHttp, Stall, name_of
from pydantic import JsonValue, SecretStr

from comfy_remote.errors import LocalStorageError
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.gateway.job import Submission
from comfy_remote.gateway.tokens import new_token, sha256_of_token
from comfy_remote.media.receive import Received
from comfy_remote.net.retry import Backoff
from comfy_remote.wire.joined import Report
from comfy_remote.worker.joined import client
from comfy_remote.worker.joined.client import Gateway
from comfy_remote.worker.joined.delivery import DeliveryTimes, SpoolStore
from comfy_remote.worker.joined.spool import Spool, SpoolLimits
from comfy_remote.worker.joined.worker import JoinedTimes, JoinedWorker

QUICK = Backoff(first=0.02, longest=0.2, jitter=0.0)
TIMES = JoinedTimes(
    outage=QUICK,
    room=0.1,
    least=0.01,
    report=60.0,
    delivery=DeliveryTimes(backoff=QUICK, spool=0.1, retention=60.0),
)
CONTENT = b"a large output " * 200_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Box:
    """A gateway, a proxy that goes wrong, and a worker that has joined through it."""

    def __init__(self, gateway: GatewayServer, proxy: FaultProxy, folder: Path) -> None:
        self.gateway = gateway
        self.proxy = proxy
        self.folder = folder
        self.token = new_token("desk")
        self.runs: Counter[str] = Counter()
        self.stopped: list[str] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.spool = Spool(folder, SpoolLimits(free=0))
        self.task: asyncio.Task[None] | None = None
        self.worker: JoinedWorker | None = None
        self.store = SpoolStore(self.spool, "desk")

    async def admit(self) -> None:
        def add(listed: Any) -> None:
            listed.add("desk", sha256_of_token(self.token))

        await self.gateway.journal.change_workers(add)
        await self.gateway.joined.read_words()

    async def handle(self, job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        self.runs[job_id] += 1
        try:
            await report({"sequence": 1})
            await self.go_on.wait()
            if payload == "large":
                path = self.folder / "made"
                path.write_bytes(CONTENT)
                file = Received(path, len(CONTENT), SHA256)
                return {"url": (await self.store.put(job_id, "out", file)).url}
        except asyncio.CancelledError:
            self.stopped.append(job_id)
            raise
        return {"echo": payload}

    async def start(self) -> None:
        self.spool.open(self.token)

        async def report() -> Report:
            return Report(engine="none")

        async def run() -> None:
            async with Gateway(
                self.proxy.url,
                endpoint="local",
                worker="desk",
                token=SecretStr(self.token),
                boot=self.spool.boot(),
            ) as gateway:
                self.worker = JoinedWorker(gateway, self.spool, report, self.store, TIMES)
                await self.worker.run(self.handle)

        self.task = asyncio.create_task(run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        self.spool.close()

    async def submit(self, payload: object) -> str:
        submission = Submission.model_validate({"input": payload})
        found = await self.gateway.endpoint.submit(submission, sync=False, idempotency_key=None)
        return str(found["id"])

    async def begin(self, payload: object) -> str:
        """Start the worker, and a job on it that ends once `go_on` is set."""
        self.go_on.clear()
        await self.start()
        job = await self.submit(payload)
        await until(lambda: self.runs[job])
        return job

    async def ends(self, job: str, seconds: float = 30.0) -> dict[str, Any]:
        await self.gateway.queue.wait_until_final(job, seconds)
        found = await self.gateway.queue.get(job)
        whole: dict[str, Any] = json.loads(await self.gateway.endpoint.whole_status(found))
        return whole


@pytest.fixture
async def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Box]:
    # A poll that stalls is given up after a second here.
    for name in ("_POLLS", "_TRANSFERS"):
        monkeypatch.setattr(client, name, replace(getattr(client, name), patience=1.0))
    limits = GatewayLimits(poll_wait=0.5, free_bytes=0)
    async with (
        GatewayServer(limits=limits, folder=tmp_path / "head") as gateway,
        FaultProxy(gateway.url.removesuffix("/v2")) as proxy,
    ):
        made = Box(gateway, proxy, tmp_path / "box")
        await made.admit()
        yield made
        await made.stop()


FAULTS: list[Fault] = [
    Drop(),
    Drop(forwarded=True),
    Answer(500),
    Answer(503, forwarded=True),
    Answer(429, headers={"Retry-After": "0"}),
    Answer(404),
    Answer(302, headers={"Location": "http://127.0.0.1:9/elsewhere"}),
    Answer(200, b"<html>a captive portal</html>"),
    NotHttp(),
    NotHttp(forwarded=True),
    Cut(1),
    Delay(0.3),
    Stall(),
    Stall(forwarded=True),
]


@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
@pytest.mark.parametrize("path", ["/hello", "/take", "/ping", "/progress", "/done", "/files/"])
async def test_each_job_runs_once_and_has_its_result(box: Box, path: str, fault: Fault) -> None:
    box.proxy.plan(path, fault, times=2, method=None)
    await box.start()
    jobs = [await box.submit(payload) for payload in ("a", "large", "b")]
    found = [await box.ends(job) for job in jobs]
    assert [one["status"] for one in found] == ["COMPLETED"] * 3
    assert [one["output"] for one in found] == [
        {"echo": "a"},
        {"url": f"files/{jobs[1]}/{SHA256}"},
        {"echo": "b"},
    ]
    assert [one.get("attempt") for one in found] == [None] * 3
    assert box.runs == Counter(jobs)
    assert box.gateway.endpoint.files.path(SHA256).read_bytes() == CONTENT
    await until(lambda: not box.spool.waiting())
    assert not list((box.folder / "results").rglob("*.json"))


async def test_a_job_goes_on_while_the_network_is_cut(box: Box) -> None:
    job = await box.begin("a")
    async with box.proxy.gone():
        await asyncio.sleep(0.5)
        box.go_on.set()
        await until(box.spool.waiting)
        await asyncio.sleep(0.3)
        assert (await box.gateway.queue.get(job)).state.value == "IN_PROGRESS"
    found = await box.ends(job)
    assert (found["status"], found["output"], found.get("attempt")) == (
        "COMPLETED",
        {"echo": "a"},
        None,
    )
    assert box.runs[job] == 1


async def test_a_cancel_during_a_cut_stops_the_job_when_the_network_is_back(box: Box) -> None:
    job = await box.begin("a")
    async with box.proxy.gone():
        await box.gateway.queue.cancel(job)
        await asyncio.sleep(0.2)
    await until(lambda: box.stopped == [job])
    box.go_on.set()
    after = await box.submit("b")
    assert (await box.ends(after))["output"] == {"echo": "b"}


async def test_a_result_after_its_cancel_is_dropped(box: Box) -> None:
    job = await box.begin("a")
    async with box.proxy.gone():
        box.go_on.set()
        await until(box.spool.waiting)
        await box.gateway.queue.cancel(job)
    await until(lambda: not box.spool.waiting())
    assert (await box.ends(job))["status"] == "CANCELLED"


async def test_answers_without_an_end_are_given_up(box: Box) -> None:
    box.proxy.plan("/ping", Drip(size=1000, every=0.0005, endless=True), times=2)
    box.proxy.plan("/hello", Drip(size=1000, every=0.0005, endless=True), times=1)
    await box.start()
    job = await box.submit("a")
    assert (await box.ends(job))["output"] == {"echo": "a"}


async def test_the_network_comes_and_goes(box: Box) -> None:
    await box.start()
    jobs = []
    for number in range(10):
        jobs += [await box.submit(f"{number}-{one}") for one in range(3)]
        async with box.proxy.gone():
            await asyncio.sleep(0.05 * (number % 3))
        await asyncio.sleep(0.1 * (number % 4))
    found = [await box.ends(job) for job in jobs]
    assert [one["status"] for one in found] == ["COMPLETED"] * 30
    assert box.runs == Counter(jobs)


async def test_a_gateway_without_room_gets_large_outputs_later(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = box.gateway.endpoint.files
    roomy = files._limits
    box.go_on.clear()
    await box.start()
    job, after = await box.submit("large"), await box.submit("small")
    await until(lambda: box.runs[job])
    monkeypatch.setattr(files, "_limits", replace(roomy, store_bytes=1000))
    box.go_on.set()
    await until(lambda: any("/files/" in one.path and one.status == 429 for one in box.proxy.seen))
    assert (await box.gateway.queue.get(job)).state.value == "IN_PROGRESS"
    await until(lambda: box.runs[after])  # the next job does not wait for that
    monkeypatch.setattr(files, "_limits", roomy)
    async with box.proxy.gone():  # it asks again when it has connected again
        pass
    assert (await box.ends(job))["status"] == "COMPLETED"
    assert files.path(SHA256).read_bytes() == CONTENT


async def test_an_output_that_no_gateway_takes_fails_its_job(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = box.gateway.endpoint.files
    monkeypatch.setattr(files, "_limits", replace(files._limits, file_bytes=1000))
    await box.start()
    found = await box.ends(await box.submit("large"))
    assert found["status"] == "FAILED"
    assert "does not take an output" in json.loads(found["error"])["error_message"]
    assert (await box.ends(await box.submit("small")))["status"] == "COMPLETED"


async def test_a_result_for_which_the_gateway_has_no_room_is_delivered_later(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(content: bytes) -> str:
        raise LocalStorageError("The disk is full.")

    job = await box.begin("x" * 200_000)
    monkeypatch.setattr(box.gateway.endpoint.files, "put", full)
    box.go_on.set()
    await until(lambda: any("/done" in one.path and one.status == 507 for one in box.proxy.seen))
    assert (await box.gateway.queue.get(job)).state.value == "IN_PROGRESS"
    monkeypatch.undo()
    assert (await box.ends(job))["status"] == "COMPLETED"
