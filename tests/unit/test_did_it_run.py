"""Each kind of target says of a job without a result how certain it is that it did not run.

The cases are the table of grades, one line each, against servers that answer as the case says and
a real gateway; what is compared is what a client sees, and what the record holds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import fake_comfy_api as api
import pytest
from aiohttp import web
from fake_comfyui import PROMPT, FakeComfyUI
from helpers import until
from pydantic import JsonValue, SecretStr
from scripted_server import Answer, Handler, ScriptedServer, drop

from comfy_remote import Client
from comfy_remote.errors import ComfyRemoteError
from comfy_remote.events import DidItRun, Finished, event_to_json
from comfy_remote.gateway import GatewayServer
from comfy_remote.jobs.job import Job
from comfy_remote.jobs.record import Record
from comfy_remote.net.http import HttpLimits
from comfy_remote.net.retry import Backoff, Polling
from comfy_remote.targets.base import RemoteRef, Target
from comfy_remote.targets.comfy_api.target import ComfyApiTarget, ComfyApiTimes
from comfy_remote.targets.comfyui.follow import FollowTimes
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.modal import ModalKind
from comfy_remote.targets.runpod.kind import EndpointKind, RunPodKind
from comfy_remote.targets.runpod.target import EndpointTimes, RunPodTarget

NEVER, WITHDRAWN = DidItRun.NEVER_ACCEPTED, DidItRun.WITHDRAWN
STOPPED, UNKNOWN = DidItRun.STOPPED, DidItRun.UNKNOWN
KEY = SecretStr("planted-key-0123456789")
JOB = "11111111-2222-4333-8444-555555555555"
QUICK = Backoff(attempts=2, first=0.005, longest=0.01, jitter=0.0)
POLLING = Polling(first=0.01, longest=0.02, patience=0.3, backoff=QUICK)
SOON = FollowTimes(requests=HttpLimits(backoff=QUICK), polling=POLLING, reconnect=QUICK, search=0.1)
RUN, STATUS, CANCEL = "POST /v2/ep/run", "GET /v2/ep/status/abc-e1", "POST /v2/ep/cancel/abc-e1"
Script = Callable[[FakeComfyUI, Job], Awaitable[None]]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    with Record(tmp_path / "home") as made:
        yield made


async def grade(
    target: Target, record: Record, then: Callable[[Job], Awaitable[None]] | None = None
) -> DidItRun | None:
    """What a client is told of a job; the record holds the same."""
    async with Client(target, record=record, on_interrupt=None) as client:
        try:
            job = await client.submit({**PROMPT}, job_id=JOB)
            playing = asyncio.ensure_future(then(job)) if then is not None else None
            events = [event async for event in job]
            if playing is not None:
                await playing
            assert isinstance(events[-1], Finished)
            told = job.did_it_run
            assert told is not None
            assert event_to_json(events[-1])["did_it_run"] == told.value
        except ComfyRemoteError as error:
            told = DidItRun.of(error)
    assert record.get(JOB).did_it_run is told
    return told


# --- ComfyUI ------------------------------------------------------------------------------

REFUSED = {"error": {"type": "invalid", "message": "no"}, "node_errors": {}}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(REFUSED, 400), NEVER),
        (Answer(None, 401), NEVER),
        (Answer(None, 403), NEVER),
        (Answer(None, 404), NEVER),
        (Answer(None, 413), NEVER),
        (Answer(None, 429), NEVER),
        (drop, UNKNOWN),  # the answer is lost, and the id is in neither list
        (Answer(None, 502), UNKNOWN),
        (Answer(None, 408), UNKNOWN),  # a proxy that gave up waiting for ComfyUI
        (Answer(b"<html>"), UNKNOWN),
    ],
)
async def test_a_submission_to_comfyui(
    record: Record, answer: Answer | Handler, expected: DidItRun
) -> None:
    async with FakeComfyUI() as server:
        server.on("POST /prompt", answer)
        assert await grade(ComfyUITarget(server.url, times=SOON), record) is expected


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://nobody.invalid:8188"])
async def test_a_comfyui_that_cannot_be_connected_to(record: Record, url: str) -> None:
    assert await grade(ComfyUITarget(url, times=SOON), record) is NEVER


async def test_a_comfyui_that_does_not_speak_tls(record: Record) -> None:
    async with FakeComfyUI() as server:
        url = server.url.replace("http:", "https:")
        assert await grade(ComfyUITarget(url, times=SOON), record) is NEVER


async def _cancelled_while_it_waits(server: FakeComfyUI, job: Job) -> None:
    await job.cancel()


async def _cancelled_after_a_restart(server: FakeComfyUI, job: Job) -> None:
    server.pending = []  # ComfyUI's queue is in memory
    await job.cancel()


async def _restarted_before_it_began(server: FakeComfyUI, job: Job) -> None:
    server.pending = []


async def _restarted_while_it_ran(server: FakeComfyUI, job: Job) -> None:
    server.start(job.id)
    await until(lambda: job.state.value == "running")
    server.running = []


async def _interrupted(server: FakeComfyUI, job: Job) -> None:
    server.start(job.id)
    await job.cancel()
    server.finish(job.id, {}, [["execution_interrupted", {"node_id": "1"}]])


async def _began_while_it_was_cancelled(server: FakeComfyUI, job: Job) -> None:
    async def too_late(request: web.Request) -> web.StreamResponse:
        server.finish(job.id, {}, [["execution_interrupted", {"node_id": "1"}]])
        server.pending = []
        return web.Response()

    server.on("POST /queue", too_late)
    await job.cancel()


async def _failed(server: FakeComfyUI, job: Job) -> None:
    server.finish(job.id, {}, [["execution_error", {"node_id": "1"}]])
    server.pending = []


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (_cancelled_while_it_waits, WITHDRAWN),
        (_cancelled_after_a_restart, UNKNOWN),
        (_restarted_before_it_began, UNKNOWN),
        (_restarted_while_it_ran, STOPPED),
        (_interrupted, STOPPED),
        (_began_while_it_was_cancelled, STOPPED),
        (_failed, STOPPED),
    ],
)
async def test_a_job_on_comfyui(record: Record, script: Script, expected: DidItRun) -> None:
    async with FakeComfyUI() as server:
        target = ComfyUITarget(server.url, times=SOON)
        assert await grade(target, record, lambda job: script(server, job)) is expected


async def test_what_a_comfyui_is_to_take_back_waits_there_or_runs_on(record: Record) -> None:
    async with FakeComfyUI() as server:
        target = ComfyUITarget(server.url, times=SOON)
        assert await grade(target, record, lambda job: target.withdraw(job.ref)) is WITHDRAWN
    record.remove([JOB])

    async def while_it_runs(job: Job) -> None:
        server.start(job.id)
        await until(lambda: job.state.value == "running")
        await target.withdraw(job.ref)
        server.finish(job.id, {}, [["execution_error", {"node_id": "1"}]])

    async with FakeComfyUI() as server:
        target = ComfyUITarget(server.url, times=SOON)
        assert await grade(target, record, while_it_runs) is STOPPED
        assert (server.count("POST /interrupt"), server.count("POST /queue")) == (0, 0)


# --- RunPod and Modal ---------------------------------------------------------------------


def _endpoint(url: str, kind: EndpointKind, key: SecretStr = KEY) -> RunPodTarget:
    times = EndpointTimes(requests=HttpLimits(backoff=QUICK), polling=POLLING)
    return RunPodTarget("ep", key, kind=kind, base_url=f"{url}/v2", times=times)


def _status(state: str, **more: JsonValue) -> Answer:
    return Answer({"id": "abc-e1", "status": state, **more})


@pytest.mark.parametrize("kind", [RunPodKind(), ModalKind()], ids=["runpod", "modal"])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        *((Answer(None, status), NEVER) for status in (400, 401, 404, 413, 429)),
        (Answer(None, 409), UNKNOWN),
        (Answer(None, 500), UNKNOWN),
        (Answer(b"<html>"), UNKNOWN),
        (drop, UNKNOWN),
    ],
)
async def test_a_submission_to_an_endpoint(
    record: Record, kind: EndpointKind, answer: Answer | Handler, expected: DidItRun
) -> None:
    async with ScriptedServer() as server:
        server.on(RUN, answer)
        assert await grade(_endpoint(server.url, kind), record) is expected


async def test_an_endpoint_that_cannot_be_connected_to(record: Record) -> None:
    assert await grade(_endpoint("http://127.0.0.1:9", RunPodKind()), record) is NEVER


@pytest.mark.parametrize(
    ("statuses", "runpod", "modal"),
    [
        ([_status("CANCELLED")], WITHDRAWN, WITHDRAWN),
        ([_status("IN_QUEUE"), _status("CANCELLED")], WITHDRAWN, WITHDRAWN),
        # On Modal, only a call that has left its first note has waited for so long.
        ([_status("CANCELLED", delayTime=7)], WITHDRAWN, STOPPED),
        ([_status("CANCELLED", executionTime=7)], STOPPED, STOPPED),
        ([_status("CANCELLED", workerId="w")], STOPPED, STOPPED),
        ([_status("IN_PROGRESS"), _status("CANCELLED")], STOPPED, STOPPED),
        # RunPod puts a job back whose worker died.
        (
            [_status("IN_PROGRESS"), _status("IN_QUEUE"), _status("CANCELLED")],
            STOPPED,
            STOPPED,
        ),
        ([_status("FAILED", error="no")], STOPPED, STOPPED),
        ([_status("COMPLETED", output={"error": "no"})], STOPPED, STOPPED),
        ([_status("COMPLETED")], STOPPED, STOPPED),  # the result was too large
        ([_status("TIMED_OUT")], UNKNOWN, UNKNOWN),  # it expired, or its worker fell silent
        ([_status("TIMED_OUT", executionTime=7)], UNKNOWN, UNKNOWN),
        ([_status("IN_QUEUE"), Answer(None, 404)], UNKNOWN, UNKNOWN),
    ],
)
@pytest.mark.parametrize("on", ["runpod", "modal"])
async def test_a_job_on_an_endpoint(
    record: Record, on: str, statuses: list[Answer], runpod: DidItRun, modal: DidItRun
) -> None:
    kind, expected = (RunPodKind(), runpod) if on == "runpod" else (ModalKind(), modal)
    async with ScriptedServer() as server:
        server.on(RUN, _status("IN_QUEUE"))
        server.on(STATUS, *statuses)
        assert await grade(_endpoint(server.url, kind), record) is expected


# --- our gateway --------------------------------------------------------------------------


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayServer]:
    async with GatewayServer(endpoint_id="ep", token=KEY) as made:
        yield made


def _desk(gateway: GatewayServer, key: SecretStr = KEY) -> RunPodTarget:
    return _endpoint(gateway.url.removesuffix("/v2"), RunPodKind(), key)


async def test_a_gateway_that_refuses_the_key(record: Record, gateway: GatewayServer) -> None:
    assert await grade(_desk(gateway, SecretStr("another-key-0123456789")), record) is NEVER


async def test_a_job_that_a_gateway_never_began(record: Record, gateway: GatewayServer) -> None:
    assert await grade(_desk(gateway), record, lambda job: job.cancel()) is WITHDRAWN


async def test_a_job_that_a_gateway_gives_back(record: Record, gateway: GatewayServer) -> None:
    target = _desk(gateway)
    assert await grade(target, record, lambda job: target.withdraw(job.ref)) is WITHDRAWN


async def test_an_endpoint_is_not_asked_to_give_back_what_runs(record: Record) -> None:
    async with ScriptedServer() as server:
        server.on(STATUS, _status("IN_PROGRESS"))
        async with _endpoint(server.url, RunPodKind()) as target:
            await target.withdraw(RemoteRef(JOB, "abc-e1", {}))
        assert server.count(CANCEL) == 0


async def test_a_job_that_a_gateway_began(record: Record, gateway: GatewayServer) -> None:
    began = asyncio.Event()

    async def handler(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        began.set()
        await asyncio.sleep(60)
        return {}

    async def cancel(job: Job) -> None:
        await began.wait()
        await job.cancel()

    gateway.add_local_worker(handler)
    assert await grade(_desk(gateway), record, cancel) is STOPPED


async def test_a_job_that_failed_on_a_gateway(record: Record, gateway: GatewayServer) -> None:
    async def handler(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        raise ValueError(json.dumps(payload)[:10])

    gateway.add_local_worker(handler)
    assert await grade(_desk(gateway), record) is STOPPED


# --- Comfy API v2 -------------------------------------------------------------------------


def _api(url: str) -> ComfyApiTarget:
    limits = HttpLimits(backoff=QUICK)
    times = ComfyApiTimes(limits, POLLING, POLLING, QUICK, QUICK, search=0.02, between=0.005)
    return ComfyApiTarget(url, name="api", times=times)


KEY_USED = api.refusal(422, "idempotency_key_reuse")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        *(([Answer(None, status)], NEVER) for status in (400, 401, 403, 404, 413, 429)),
        ([api.refusal(422, "invalid_workflow")], NEVER),
        ([api.refusal(422, "missing_asset")], NEVER),
        ([api.refusal(422, "deployment_stopped")], NEVER),
        ([api.refusal(402, "insufficient_credits")], NEVER),
        ([api.refusal(429, "queue_full")], NEVER),
        ([KEY_USED], UNKNOWN),  # something in between has sent it twice
        ([drop, KEY_USED], UNKNOWN),
        ([Answer(None, 503), KEY_USED], UNKNOWN),
        ([Answer(None, 408), KEY_USED], UNKNOWN),
        ([Answer(None, 408)], UNKNOWN),
        ([Answer(b"<html>", 201), KEY_USED], UNKNOWN),
        ([drop], UNKNOWN),
        ([drop, api.refusal(422, "invalid_workflow")], UNKNOWN),
        ([Answer(None, 302)], UNKNOWN),
    ],
)
async def test_a_submission_to_a_comfy_api(
    record: Record, answers: list[Answer | Handler], expected: DidItRun
) -> None:
    async with api.FakeComfyApi() as server:
        server.on(api.JOBS, *answers)
        assert await grade(_api(server.url), record) is expected


async def test_a_comfy_api_that_cannot_be_connected_to(record: Record) -> None:
    assert await grade(_api("http://127.0.0.1:9"), record) is NEVER


async def test_a_job_whose_key_is_accepted_the_second_time_is_the_only_one(record: Record) -> None:
    async with api.FakeComfyApi() as server:
        server.on(api.JOBS, drop, Answer(api.job_json(), 201))
        server.on(api.JOB, api.job("canceled", completed_at=api.LATER))
        assert await grade(_api(server.url), record) is WITHDRAWN
        assert server.count(api.JOBS) == 2


NODE_FAILED = {"code": "node_execution_error", "message": "no", "node_id": "1"}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([api.job("canceled", completed_at=api.LATER)], WITHDRAWN),
        (
            [api.job("queued"), api.job("canceling"), api.job("canceled", completed_at=api.LATER)],
            WITHDRAWN,
        ),
        ([api.job("canceled", completed_at=api.LATER, started_at=api.CREATED)], STOPPED),
        ([api.job("canceled", completed_at=api.LATER, metrics={"execution_ms": 7})], STOPPED),
        ([api.job("canceled", completed_at=api.LATER, outputs=[api.output()])], STOPPED),
        ([api.job("running"), api.job("canceled", completed_at=api.LATER)], STOPPED),
        ([api.job("canceled")], UNKNOWN),  # comfy-api-proxy notes neither of the two times
        ([api.job("failed", error=NODE_FAILED)], STOPPED),
        ([api.job("failed", started_at=api.CREATED, completed_at=api.LATER)], STOPPED),
        ([api.job("failed", completed_at=api.LATER)], UNKNOWN),
        ([api.job("expired")], UNKNOWN),
        ([api.job("running"), api.job("expired")], STOPPED),
        ([api.refusal(404, "not_found")], UNKNOWN),
    ],
)
async def test_a_job_on_a_comfy_api(
    record: Record, answers: list[Answer], expected: DidItRun
) -> None:
    async with api.FakeComfyApi() as server:
        server.on(api.JOB, *answers)
        assert await grade(_api(server.url), record) is expected


async def test_what_a_comfy_api_is_to_take_back(record: Record) -> None:
    async with api.FakeComfyApi() as server:
        target = _api(server.url)
        server.on(api.CANCEL, api.job("canceling"))

        async def withdrawn(job: Job) -> None:
            await target.withdraw(job.ref)
            server.on(api.JOB, api.job("canceled", completed_at=api.LATER))

        assert await grade(target, record, withdrawn) is WITHDRAWN
        assert server.count(api.CANCEL) == 1


async def test_what_runs_on_a_comfy_api_is_not_taken_back(record: Record) -> None:
    async with api.FakeComfyApi() as server:
        target = _api(server.url)
        server.on(api.JOB, api.job("running"))

        async def withdrawn(job: Job) -> None:
            await target.withdraw(job.ref)
            await until(lambda: job.state.value == "running")
            server.on(api.JOB, api.job("canceled", completed_at=api.LATER))

        assert await grade(target, record, withdrawn) is STOPPED
        assert server.count(api.CANCEL) == 0


# --- the word itself ----------------------------------------------------------------------


def test_only_two_grades_allow_another_try() -> None:
    assert [one.value for one in DidItRun if one.surely_not] == ["never_accepted", "withdrawn"]
    assert DidItRun.of(ComfyRemoteError("x", details={"did_it_run": 3})) is None
    assert DidItRun.of(None) is None
