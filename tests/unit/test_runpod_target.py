"""A RunPod endpoint as a target: sent once, polled with measure, read in both dialects."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, SecretStr, ValidationError
from scripted_server import Answer, Asked, ScriptedServer, drop

from comfy_remote import Client
from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.errors import (
    AuthenticationError,
    ComfyRemoteError,
    ConfigurationError,
    EngineCrashed,
    ExecutionFailed,
    InputFileMissing,
    JobCancelled,
    JobExpired,
    JobTimedOut,
    OutOfMemory,
    OutputLost,
    RequestTooLarge,
    SubmissionUnknown,
    TargetError,
    TargetNotFound,
    TargetUnreachable,
)
from comfy_remote.events import (
    Event,
    Finished,
    JobState,
    Log,
    NodeText,
    OutputReady,
    Preview,
    Progress,
    Queued,
    Shown,
    Started,
)
from comfy_remote.jobs.record import Record
from comfy_remote.net.http import HttpLimits
from comfy_remote.net.retry import Backoff, Polling
from comfy_remote.outputs import OutputSource, RemoteOutput
from comfy_remote.targets.base import Health, InputFile, RemoteRef, RunRequest
from comfy_remote.targets.opening import open_target
from comfy_remote.targets.runpod.kind import DEFAULT_BASE_URL, EndpointOptions, RunPodKind
from comfy_remote.targets.runpod.status import StatusReader
from comfy_remote.targets.runpod.target import EndpointTimes, RunPodTarget
from comfy_remote.wire.actions import pack_nodes
from comfy_remote.wire.runpod import IDEMPOTENCY_HEADER, JobStatus, error_to_runpod
from comfy_remote.workflow.prompt import Prompt

KEY = "planted-key-0123456789"
JOB = "11111111-2222-4333-8444-555555555555"
PROMPT: Prompt = {"1": {"class_type": "EmptyImage", "inputs": {}}}
REF = RemoteRef(JOB, "abc-e1")
PNG = base64.b64encode(b"png").decode()
RUN, STATUS = "POST /v2/ep/run", "GET /v2/ep/status/abc-e1"
HEALTH = "GET /v2/ep/health"
ACCEPTED = Answer({"id": "abc-e1", "status": "IN_QUEUE"})
OUTPUTS = {"format": "comfy-remote/1", "status": "success", "outputs": []}


QUICK = Backoff(first=0.005, longest=0.005, jitter=0.0)
TIMES = EndpointTimes(
    requests=HttpLimits(backoff=QUICK),
    polling=Polling(first=0.005, longest=0.01, patience=0.1, backoff=QUICK),
)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as made:
        yield made


@pytest.fixture
async def target(server: ScriptedServer) -> AsyncIterator[RunPodTarget]:
    url = f"{server.url}/v2"
    async with RunPodTarget("ep", SecretStr(KEY), base_url=url, times=TIMES) as made:
        yield made


def _status(state: str, **more: Any) -> dict[str, Any]:
    return {"id": "abc-e1", "status": state, **more}


def _read(*statuses: dict[str, Any]) -> list[Event]:
    reader = StatusReader(PROMPT)
    return [e for s in statuses for e in reader.events(JobStatus.model_validate(s))]


def _end(*statuses: dict[str, Any]) -> Finished:
    last = _read(*statuses)[-1]
    assert isinstance(last, Finished)
    return last


def _sent(server: ScriptedServer) -> list[Asked]:
    return [asked for asked in server.asked if asked.path == "/v2/ep/run"]


async def _bytes(target: RunPodTarget, output: RemoteOutput) -> bytes:
    return b"".join([chunk async for chunk in target.read(output)])


# --- what it cannot do ---------------------------------------------------------------------


async def test_a_place_in_front_is_told_to_be_none_and_once(
    server: ScriptedServer, target: RunPodTarget
) -> None:
    server.on(RUN, ACCEPTED)
    server.on(STATUS, Answer(_status("COMPLETED", output=OUTPUTS)))

    async def told(*, front: bool) -> list[str]:
        ref = await target.submit(RunRequest(JOB, PROMPT, front=front))
        first = [e.message async for e in target.follow(ref, PROMPT) if isinstance(e, Log)]
        again = [e.message async for e in target.follow(ref, PROMPT) if isinstance(e, Log)]
        assert again == []
        return first

    assert await told(front=False) == []
    [message] = await told(front=True)
    assert "in the order in which they arrive" in message
    assert all("front" not in json.loads(one.body)["input"] for one in server.asked if one.body)


# --- making it ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "key", "base_url", "message"),
    [
        ("ep", "k", "http://box.example/v2", "not https"),
        ("ep", "k", "http://192.168.1.20:8000/v2", "not https"),
        ("ep", "k", "ftp://127.0.0.1", "not an http"),
        ("", "k", "https://api.example/v2", "RUNPOD_ENDPOINT_ID, which is not set"),
        ("a/b", "k", "https://api.example/v2", "not an endpoint's id"),
        ("ep?x", "k", "https://api.example/v2", "not an endpoint's id"),
        ("..", "k", "https://api.example/v2", "not an endpoint's id"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    endpoint: str, key: str, base_url: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RunPodTarget(endpoint, SecretStr(key), base_url=base_url)


def test_on_loopback_neither_https_nor_a_key_is_needed() -> None:
    here = TargetSettings("runpod:ep", "http://127.0.0.1:8000/v2")
    elsewhere = TargetSettings("runpod:ep", "https://api.example/v2", key_env="K")
    there = Configuration(None, {"here": here, "elsewhere": elsewhere})
    assert open_target("here", there, {}).name == "here"
    assert open_target("elsewhere", there, {"K": KEY}).name == "elsewhere"
    with pytest.raises(ConfigurationError, match="no RunPod API key"):
        open_target("runpod:ep", there, {})
    box = {"RUNPOD_ENDPOINT_BASE_URL": "https://box.example/v2"}
    with pytest.raises(ConfigurationError, match="no key for the gateway") as caught:
        open_target("runpod:ep", there, box)
    assert "the token that the gateway" in caught.value.advice


def test_an_unknown_endpoint_is_looked_for_where_it_would_be() -> None:
    kind = RunPodKind()
    assert "RunPod's console" in kind.missing("ep", DEFAULT_BASE_URL).advice
    own = kind.missing("ep", "https://box.example/v2").advice
    assert "/v2" in own
    assert "RunPod's console" not in own


def test_an_own_gateway_without_workers_starts_none() -> None:
    kind = RunPodKind()
    assert "starts one" in kind.no_worker_at(DEFAULT_BASE_URL)
    own = RunPodTarget("ep", SecretStr(KEY), base_url="https://box.example/v2").no_worker
    assert "Jobs wait until one is ready" in own
    assert "RunPod" not in own


def test_whoever_does_not_follow_a_job_is_told_how_long_its_result_is_there() -> None:
    at_runpod = RunPodTarget("ep", SecretStr(KEY)).if_unfollowed(PROMPT)
    assert at_runpod == Log("RunPod keeps results for 30 minutes after a job has ended.")
    own = RunPodTarget("ep", SecretStr(KEY), base_url="https://box.example/v2")
    assert own.if_unfollowed(PROMPT).message.startswith("The gateway keeps results")


# --- submitting ---------------------------------------------------------------------------


async def test_the_prompt_and_its_files_travel_in_one_request(
    server: ScriptedServer, target: RunPodTarget, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"png")
    server.on(RUN, ACCEPTED)
    request = RunRequest(JOB, PROMPT, [InputFile("a/x.png", path, 3, "0" * 64)], {"nodes": []})
    ref = await target.submit(request)
    assert ref.remote_id == "abc-e1"
    assert ref.details == {"endpoint": "ep", "base_url": f"{server.url}/v2"}
    (asked,) = _sent(server)
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.json()["input"] == {
        "workflow": PROMPT,
        "format": "comfy-remote/1",
        "previews": True,
        "images": [{"name": "a/x.png", "image": PNG, "sha256": "0" * 64}],
        "ui_workflow": {"nodes": []},
    }


async def test_files_are_named_by_content_in_the_request_and_by_the_user_outside(
    server: ScriptedServer, target: RunPodTarget, tmp_path: Path
) -> None:
    """Here, since a worker of another make puts them into its engine under the names it gets, and
    makes no folders for them.
    """
    path = tmp_path / "x"
    path.write_bytes(b"png")
    server.on(RUN, ACCEPTED)
    prompt: Prompt = {"1": {"class_type": "LoadImage", "inputs": {"image": "a/x.png"}}}
    file = InputFile("a/x.png", path, 3, "5" * 64, (("1", "image"),))
    ref = await target.submit(RunRequest(JOB, prompt, [file]))
    sent = _sent(server)[0].json()["input"]
    assert sent["images"] == [{"name": "x_555555555555.png", "image": PNG, "sha256": "5" * 64}]
    assert sent["workflow"]["1"]["inputs"] == {"image": "x_555555555555.png"}
    error = {"error_type": "ExecutionFailed", "error_message": "x_555555555555.png is damaged"}
    server.on(STATUS, Answer(_status("FAILED", error=json.dumps(error))))
    events = [event async for event in target.follow(ref, prompt)]
    assert isinstance(events[-1], Finished)
    assert "x.png is damaged" in str(events[-1].error)


async def test_a_request_over_the_limit_is_not_sent(
    server: ScriptedServer, target: RunPodTarget, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"x" * 8 * 2**20)
    server.on(HEALTH, Answer({}))
    with pytest.raises(RequestTooLarge, match=r"10\.7 MiB.*big\.png 8\.0 MiB"):
        await target.submit(RunRequest(JOB, PROMPT, [InputFile("big.png", path, 2**23, "")]))
    assert _sent(server) == []


async def test_a_file_that_went_away_is_named(target: RunPodTarget, tmp_path: Path) -> None:
    with pytest.raises(InputFileMissing, match="cannot be read"):
        await target.submit(RunRequest(JOB, PROMPT, [InputFile("x", tmp_path / "x", 1, "")]))


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (Answer(None, 401), AuthenticationError, "refused the key"),
        (Answer(None, 404), TargetNotFound, "no endpoint 'ep' at 127.0.0.1"),
        (Answer(None, 413), RequestTooLarge, "too large"),
        (Answer(f"no {KEY}".encode(), 400), TargetError, "refused the request"),
    ],
)
async def test_refusals(
    server: ScriptedServer,
    target: RunPodTarget,
    answer: Answer,
    kind: type[ComfyRemoteError],
    message: str,
) -> None:
    server.on(RUN, answer)
    with pytest.raises(kind, match=message) as caught:
        await target.submit(RunRequest(JOB, PROMPT))
    assert KEY not in json.dumps(caught.value.to_json())
    assert server.count(RUN) == 1


LOST = [drop, Answer(None, 502), Answer(b"<html>"), Answer({"ok": 1})]


@pytest.mark.parametrize("lost", LOST)
async def test_runpod_gets_a_lost_submission_once(
    server: ScriptedServer, target: RunPodTarget, lost: Answer
) -> None:
    server.on(RUN, lost)
    server.on("GET /v2/ep/health", Answer({}))
    with pytest.raises(SubmissionUnknown) as caught:
        await target.submit(RunRequest(JOB, PROMPT))
    assert "Nothing was sent again" in caught.value.advice
    assert server.count(RUN) == 1


@pytest.mark.parametrize("lost", LOST)
async def test_a_gateway_that_knows_keys_gets_the_same_one_again(
    server: ScriptedServer, target: RunPodTarget, lost: Answer
) -> None:
    server.on(RUN, lost, ACCEPTED)
    server.on("GET /v2/ep/health", Answer({}, headers={IDEMPOTENCY_HEADER: "supported"}))
    assert (await target.submit(RunRequest(JOB, PROMPT))).remote_id == "abc-e1"
    keys = [asked.headers[IDEMPOTENCY_HEADER] for asked in server.asked if "/run" in asked.path]
    assert keys == [JOB, JOB]


@pytest.mark.parametrize("health", [Answer(None, 401), Answer(None, 500), drop])
async def test_a_lost_submission_stays_unknown_when_nobody_can_be_asked(
    server: ScriptedServer, target: RunPodTarget, health: Answer
) -> None:
    server.on(RUN, drop)
    server.on("GET /v2/ep/health", health)
    with pytest.raises(SubmissionUnknown):
        await target.submit(RunRequest(JOB, PROMPT))
    assert server.count(RUN) == 1


async def test_runpod_cannot_look_for_a_job(target: RunPodTarget) -> None:
    with pytest.raises(SubmissionUnknown):
        await target.find(JOB)
    assert await target.has_input("x.png") is False


# --- following ----------------------------------------------------------------------------


async def test_a_whole_run(server: ScriptedServer, target: RunPodTarget) -> None:
    progress = {"format": "comfy-remote/1 progress", "sequence": 1, "nodes_total": 2}
    output = {"node_id": "1", "kind": "image", "filename": "x.png", "size": 3, "data": PNG}
    server.on(
        STATUS,
        Answer(_status("IN_QUEUE")),
        Answer(_status("IN_QUEUE")),
        Answer(_status("IN_PROGRESS")),
        Answer(None, 502),
        Answer(_status("IN_PROGRESS", output=progress)),
        Answer(
            _status(
                "COMPLETED",
                output={**OUTPUTS, "outputs": [output], "timings": {"run": 1.5}, "worker": "w"},
                delayTime=1500,
                executionTime=2500,
            )
        ),
    )
    events = [event async for event in target.follow(REF, PROMPT)]
    kinds = ["Queued", "Started", "Log", "Progress", "Progress", "OutputReady", "Finished"]
    assert [type(e).__name__ for e in events] == kinds
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.state is JobState.SUCCEEDED
    assert finished.details["queue_seconds"] == 1.5
    assert finished.details["run_seconds"] == 2.5
    assert finished.details["worker"] == "w"
    assert b"".join([c async for c in target.read(finished.outputs[0], 1)]) == b"ng"


async def test_no_more_than_four_requests_a_second(server: ScriptedServer) -> None:
    server.on(RUN, ACCEPTED)
    server.on(STATUS, *[Answer(_status("IN_PROGRESS"))] * 6, Answer(_status("COMPLETED")))
    async with RunPodTarget("ep", SecretStr(KEY), base_url=f"{server.url}/v2") as target:
        ref = await target.submit(RunRequest(JOB, PROMPT))
        async for _ in target.follow(ref, PROMPT):
            pass
    # Without the question whether it is a gateway of ours, which RunPod is not asked.
    times = [asked.time for asked in server.asked if asked.path != "/v2/ep/health"]
    assert len(times) == 8
    assert times[-1] - times[0] > 1.0  # 1.75 where no request is late


async def test_too_many_requests_are_waited_out(
    server: ScriptedServer, target: RunPodTarget
) -> None:
    busy = Answer(None, 429, {"Retry-After": "0"})
    server.on(STATUS, busy, Answer(None, 429), Answer(_status("CANCELLED")))
    events = [event async for event in target.follow(REF, PROMPT)]
    assert [type(e) for e in events] == [Log, Finished]


@pytest.mark.parametrize(
    "answer", [Answer(None, 502), drop, Answer(b"<html>"), Answer([]), Answer({"id": 3})]
)
async def test_an_endpoint_that_stays_away_is_lost(
    server: ScriptedServer, target: RunPodTarget, answer: Answer
) -> None:
    server.on(STATUS, answer)
    with pytest.raises(TargetUnreachable, match="out of reach") as caught:
        _ = [event async for event in target.follow(REF, PROMPT)]
    assert "Resume" in caught.value.advice


async def test_a_job_that_the_endpoint_forgot_has_expired(target: RunPodTarget) -> None:
    (event,) = [event async for event in target.follow(REF, PROMPT)]
    assert isinstance(event, Finished)
    assert isinstance(event.error, JobExpired)


async def test_a_wrong_key_ends_the_following(server: ScriptedServer, target: RunPodTarget) -> None:
    server.on(STATUS, Answer(None, 401))
    with pytest.raises(AuthenticationError):
        _ = [event async for event in target.follow(REF, PROMPT)]


async def test_cancel_and_health(server: ScriptedServer, target: RunPodTarget) -> None:
    await target.cancel(REF)  # 404: it is gone, so it does not run
    server.on("POST /v2/ep/cancel/abc-e1", drop, Answer(None, 503), Answer(_status("CANCELLED")))
    await target.cancel(REF)
    assert server.count("POST /v2/ep/cancel/abc-e1") == 4
    counts = {"jobs": {"inQueue": 2, "inProgress": 1}, "workers": {"idle": 3, "running": 1}}
    server.on("GET /v2/ep/health", Answer(counts))
    assert await target.health() == Health(ready=3, running=1, queued=2)


# --- what it has --------------------------------------------------------------------------


async def _describe(
    server: ScriptedServer, memory: Path, times: EndpointTimes = TIMES
) -> Mapping[str, JsonValue] | None:
    url, options = f"{server.url}/v2", EndpointOptions(memory=memory)
    async with RunPodTarget(
        "ep", SecretStr(KEY), base_url=url, options=options, times=times
    ) as made:
        return (await made.describe()).nodes


@pytest.mark.parametrize(
    "refused",
    [
        _status("FAILED", error="Missing 'workflow' parameter"),
        _status("COMPLETED", output={"error": "Missing 'workflow' parameter"}),
        _status("COMPLETED", output={"images": []}),
    ],
)
async def test_a_worker_that_cannot_say_what_it_has_is_asked_once(
    server: ScriptedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: dict[str, Any],
) -> None:
    server.on(RUN, ACCEPTED)
    server.on(STATUS, Answer(refused))
    for _ in range(2):
        assert await _describe(server, tmp_path) is None
    assert server.count(RUN) == 1
    [sent] = [json.loads(one.body) for one in server.asked if one.path.endswith("/run")]
    # It shall not wait in a queue for a day, and then start a GPU that nobody waits for.
    assert sent == {
        "input": {"action": "describe", "format": "comfy-remote/1"},
        "policy": {"ttl": 600_000},
    }
    # Later, too, no worker is started for the question's sake.
    later = replace(TIMES, fresh=0.0)
    server.on("GET /v2/ep/health", Answer({"workers": {"idle": 0, "running": 0}}))
    assert await _describe(server, tmp_path, later) is None
    assert server.count(RUN) == 1
    server.on("GET /v2/ep/health", Answer({"workers": {"idle": 1, "running": 0}}))
    assert await _describe(server, tmp_path, later) is None
    assert server.count(RUN) == 2


@pytest.mark.parametrize(
    "ending",
    [
        _status("TIMED_OUT"),
        _status("CANCELLED"),
        _status("FAILED", error=error_to_runpod(EngineCrashed("It ended."))),
    ],
)
async def test_what_is_known_stays_known_when_a_worker_does_not_get_to_answer(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: dict[str, Any]
) -> None:
    nodes = {"EmptyImage": {}}
    packed = pack_nodes(json.dumps(nodes).encode())
    server.on(RUN, ACCEPTED)
    server.on(
        STATUS,
        Answer(_status("COMPLETED", output={"nodes_hash": "1", "nodes": packed})),
        Answer(ending),
    )
    server.on("GET /v2/ep/health", Answer({"workers": {"idle": 1, "running": 0}}))
    for _ in range(2):
        assert await _describe(server, tmp_path, replace(TIMES, fresh=0.0)) == nodes
    assert server.count(RUN) == 2


async def test_a_model_that_was_added_since_is_found_by_a_check(
    server: ScriptedServer, tmp_path: Path
) -> None:
    def listing(*names: str) -> dict[str, Any]:
        info = {"input": {"required": {"model_name": [[*names], {}]}}, "output_node": True}
        packed = pack_nodes(json.dumps({"UpscaleModelLoader": info}).encode())
        return _status("COMPLETED", output={"nodes_hash": str(len(names)), "nodes": packed})

    prompt: Any = {"1": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "b.pth"}}}
    server.on(RUN, ACCEPTED)
    server.on(STATUS, Answer(listing("a.pth")), Answer(listing("a.pth", "b.pth")))
    server.on("GET /v2/ep/health", Answer({"workers": {"idle": 1, "running": 0}}))
    times, options = replace(TIMES, recent=0.0), EndpointOptions(memory=tmp_path / "told")
    target = RunPodTarget(
        "ep", SecretStr(KEY), base_url=f"{server.url}/v2", options=options, times=times
    )
    with Record(tmp_path) as record:
        async with Client(target, record=record) as client:
            assert (await client.check(prompt)).errors == ()
            assert server.count(RUN) == 2
            assert (await client.check(prompt)).errors == ()
            assert server.count(RUN) == 2, "nothing is missing, and nobody is asked"


async def test_a_silent_endpoint_keeps_nobody_from_leaving(
    server: ScriptedServer, tmp_path: Path
) -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        return web.Response()

    server.on(RUN, ACCEPTED)
    server.on(STATUS, Answer(_status("IN_QUEUE")))
    server.on("POST /v2/ep/cancel/abc-e1", silent)
    began = time.monotonic()
    assert await _describe(server, tmp_path, replace(TIMES, describe=0.1, leave=0.2)) is None
    assert time.monotonic() - began < 50
    assert server.count("POST /v2/ep/cancel/abc-e1") == 1, "it was taken back, once"


# --- statuses, no network -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "state", "kind"),
    [
        (_status("CANCELLED"), JobState.CANCELLED, JobCancelled),
        (_status("TIMED_OUT"), JobState.EXPIRED, JobExpired),
        (_status("TIMED_OUT", executionTime=600_000), JobState.FAILED, JobTimedOut),
        (_status("FAILED"), JobState.FAILED, ExecutionFailed),
        (_status("FAILED", error="words"), JobState.FAILED, ExecutionFailed),
        (
            _status("FAILED", error=json.dumps({"error_type": "X", "error_message": "m"})),
            JobState.FAILED,
            ExecutionFailed,
        ),
        (_status("FAILED", error=error_to_runpod(OutOfMemory("m"))), JobState.FAILED, OutOfMemory),
        (
            _status("FAILED", error=error_to_runpod(EngineCrashed("m"))),
            JobState.FAILED,
            EngineCrashed,
        ),
        (
            _status("FAILED", error=error_to_runpod(JobCancelled("m"))),
            JobState.CANCELLED,
            JobCancelled,
        ),
        (_status("COMPLETED"), JobState.FAILED, OutputLost),
        (_status("COMPLETED", output={"message": "old"}), JobState.FAILED, OutputLost),
        (_status("COMPLETED", output="text"), JobState.FAILED, OutputLost),
        (_status("COMPLETED", output={"error": "out of memory"}), JobState.FAILED, OutOfMemory),
        (_status("COMPLETED", output={"error": "no"}), JobState.FAILED, ExecutionFailed),
        (_status("COMPLETED", output={**OUTPUTS, "outputs": 3}), JobState.FAILED, OutputLost),
        (_status("COMPLETED", output=OUTPUTS), JobState.SUCCEEDED, type(None)),
        (_status("COMPLETED", output={"images": []}), JobState.FAILED, OutputLost),
        (
            _status("COMPLETED", output={"status": "success_no_images", "images": []}),
            JobState.FAILED,
            OutputLost,
        ),
    ],
)
def test_each_end(status: dict[str, Any], state: JobState, kind: type) -> None:
    finished = _end(status)
    assert finished.state is state
    assert type(finished.error) is kind


def test_a_job_that_never_ran_never_started() -> None:
    for state in ("CANCELLED", "TIMED_OUT"):
        events = _read(_status("IN_QUEUE"), _status(state))
        assert Started() not in events


def test_what_nodes_show_is_told_before_their_outputs() -> None:
    text = {"format": "comfy-remote/1", "node_id": "3", "kind": "text", "filename": "t.txt"}
    done = {
        "format": "comfy-remote/1",
        "outputs": [{**text, "text": "hi", "key": "text"}],
        "shown": {"4": {"value": [1, None]}},
    }
    snapshot = {"format": "comfy-remote/1 progress", "sequence": 1, "texts": {"4": "loading"}}
    again = {**snapshot, "sequence": 2, "texts": {"4": "loading", "5": "x"}}
    events = _read(
        _status("IN_PROGRESS", output=snapshot),
        _status("IN_PROGRESS", output=again),
        _status("COMPLETED", output=done),
    )
    assert [event for event in events if isinstance(event, NodeText)] == [
        NodeText("4", "loading"),
        NodeText("5", "x"),
    ]
    told = [event for event in events if isinstance(event, (Shown, OutputReady, Finished))]
    assert told[:2] == [Shown("3", {}), Shown("4", {"value": [1, None]})]
    assert [type(event).__name__ for event in told[2:]] == ["OutputReady", "Finished"]
    # An older worker does not say: then it is made up from the outputs, as before.
    old = {key: value for key, value in done.items() if key != "shown"}
    events = _read(_status("COMPLETED", output=old))
    assert not any(isinstance(event, Shown) for event in events)


def test_progress_that_overtook_another_is_dropped() -> None:
    def at(sequence: int, done: int) -> dict[str, Any]:
        snapshot = {"sequence": sequence, "nodes_done": done, "nodes_total": 9}
        return _status("IN_PROGRESS", output=snapshot)

    events = _read(at(1, 1), at(4, 4), at(3, 3), at(4, 4), at(5, 5))
    assert [e.nodes_done for e in events if isinstance(e, Progress)] == [1, 4, 5]


def test_a_job_that_runs_again_on_another_worker_counts_anew() -> None:
    first = _status("IN_PROGRESS", output={"sequence": 9, "nodes_done": 3, "nodes_total": 4})
    again = _status("IN_PROGRESS", output={"sequence": 0, "nodes_done": 1, "nodes_total": 4})
    events = _read(first, _status("IN_QUEUE"), again)
    assert [type(e) for e in events] == [Started, Progress, Queued, Started, Progress]


@pytest.mark.parametrize(
    ("data", "previews"), [(PNG, [Preview("3", "image/png", b"png")]), ("é", []), ("a", [])]
)
def test_previews(data: str, previews: list[Preview]) -> None:
    preview = {"node_id": "3", "media_type": "image/png", "data": data}
    events = _read(_status("IN_PROGRESS", output={"sequence": 1, "preview": preview}))
    assert [e for e in events if isinstance(e, Preview)] == previews


async def test_worker_comfyuis_images_inline_and_in_a_bucket(server: ScriptedServer) -> None:
    async with (
        ScriptedServer() as bucket,
        RunPodTarget(
            "ep",
            SecretStr(KEY),
            base_url=f"{server.url}/v2",
            options=EndpointOptions(storage_hosts=[f"127.0.0.1:{bucket.port}"]),
            times=TIMES,
        ) as target,
    ):
        bucket.on("GET /c.png", Answer(b"bucket"))
        images = [
            {"filename": "a.png", "type": "base64", "data": PNG},
            {"filename": "b.webp", "type": "base64", "data": f"data:image/webp;base64,{PNG}"},
            {"filename": "c.png", "type": "s3_url", "data": f"{bucket.url}/c.png?X-Sig=1"},
        ]
        lost = "Failed to fetch image data for d.png from /view endpoint."
        output = {"images": images, "errors": [lost]}
        *_, warning, finished = _read(_status("COMPLETED", output=output))
        assert warning == Log(f"The worker says: {lost}", "warning")
        assert isinstance(finished, Finished)
        assert finished.state is JobState.SUCCEEDED
        assert finished.details["errors"] == [lost]
        assert [(o.kind, o.media_type) for o in finished.outputs][1] == ("image", "image/webp")
        read = [await _bytes(target, output) for output in finished.outputs]
        assert read == [b"png", b"png", b"bucket"]
        assert KEY not in str(bucket.asked[0].headers)


@pytest.mark.parametrize(
    "line",
    [
        "Workflow execution error: Node Type: KSampler, Node ID: 9:3, Message: bad, very bad",
        "Something new that this worker says one day",
    ],
)
def test_worker_comfyuis_errors_beside_images_are_a_failure(line: str) -> None:
    images = [{"filename": "a.png", "type": "base64", "data": PNG}]
    finished = _end(_status("COMPLETED", output={"images": images, "errors": [line]}))
    assert finished.state is JobState.FAILED
    assert isinstance(finished.error, ExecutionFailed)
    assert line in finished.error.message
    named = {"node_id": "9:3", "node_class": "KSampler"} if "KSampler" in line else {}
    assert finished.error.details == named
    assert [output.filename for output in finished.outputs] == ["a.png"]


async def test_our_outputs_inline_as_text_and_stored(
    server: ScriptedServer, target: RunPodTarget
) -> None:
    server.on("GET /v2/ep/files/1", Answer(b"stored"))
    common = {"kind": "file", "filename": "x"}
    outputs = [
        {**common, "data": PNG},
        {**common, "text": "Größe"},
        {**common, "url": "files/1"},
        {**common, "url": f"{server.url}/v2/ep/files/1"},
    ]
    finished = _end(_status("COMPLETED", output={**OUTPUTS, "outputs": outputs}))
    read = [await _bytes(target, output) for output in finished.outputs]
    assert read == [b"png", "Größe".encode(), b"stored", b"stored"]
    with_key = ["Authorization" in asked.headers for asked in server.asked]
    assert with_key == [True, False]


@pytest.mark.parametrize("status", [403, 404])
async def test_a_stored_output_whose_address_has_expired_is_lost(
    server: ScriptedServer, target: RunPodTarget, status: int
) -> None:
    server.on("GET /x", Answer(None, status))
    output = RemoteOutput("1", "file", "x", source=OutputSource(url=f"{server.url}/x?sig=1"))
    with pytest.raises(OutputLost, match="no longer stored"):
        _ = [c async for c in target.read(output)]


@pytest.mark.parametrize("source", [None, OutputSource(data="é"), OutputSource(data="a")])
async def test_an_output_that_is_not_there_is_lost(
    target: RunPodTarget, source: OutputSource | None
) -> None:
    with pytest.raises(OutputLost):
        _ = [c async for c in target.read(RemoteOutput("1", "file", "x", source=source))]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    | st.sampled_from(["comfy-remote/1", "success", "http://[", PNG, "é"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("format", "status", "outputs", "images", "filename", "kind", "data", "url"),
                    *("type", "sequence", "nodes_done", "nodes_total", "step", "steps"),
                    *("preview", "media_type", "error_message", "comfy_remote", "timings"),
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)  # fmt: skip


@given(
    state=st.sampled_from(["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "TIMED_OUT"]),
    output=JSON,
    error=JSON,
    times=JSON,
)
def test_any_status_is_events_or_refused(
    state: str, output: object, error: object, times: object
) -> None:
    raw = _status(state, output=output, error=error, delayTime=times, executionTime=times)
    try:
        status = JobStatus.model_validate(raw)
    except ValidationError:
        return
    for event in StatusReader(PROMPT).events(status):
        if isinstance(event, Progress):
            assert 0.0 <= event.fraction <= 1.0
        if isinstance(event, OutputReady):
            json.dumps(event.output.to_json())


@given(st.lists(st.fixed_dictionaries({"url": st.text(max_size=20)}), max_size=2))
def test_any_address_of_an_output_is_taken_or_none(items: list[dict[str, str]]) -> None:
    outputs = [{"kind": "file", "filename": "x", **item} for item in items]
    finished = _end(_status("COMPLETED", output={**OUTPUTS, "outputs": outputs}))
    assert len(finished.outputs) == len(items)


async def test_a_job_behind_one_that_may_run_on_is_told_why_it_waits(
    server: ScriptedServer, tmp_path: Path
) -> None:
    """The public worker-comfyui runs what was cancelled to its end."""

    saves: Prompt = {"2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a"}}}
    image = {"filename": "a_00001_.png", "type": "base64", "data": PNG}

    async def notes(*statuses: dict[str, Any]) -> list[str]:
        server.on(RUN, ACCEPTED)
        server.on(STATUS, *(Answer(status) for status in statuses))
        async with RunPodTarget(
            "ep",
            SecretStr(KEY),
            base_url=f"{server.url}/v2",
            options=EndpointOptions(memory=tmp_path),
            times=replace(TIMES, wait_noted=0.0),
        ) as target:
            ref = await target.submit(RunRequest(JOB, saves))
            return [e.message async for e in target.follow(ref, saves) if isinstance(e, Log)]

    waits, runs = _status("IN_QUEUE"), _status("IN_PROGRESS")
    cancelled, done = _status("CANCELLED"), _status("COMPLETED", output={"images": [image]})
    assert await notes(waits, cancelled) == []
    assert await notes(waits, done) == []
    [note] = await notes(runs, cancelled)
    assert "the next job waits until then" in note
    [why] = await notes(waits, waits, cancelled)
    assert why.startswith("The job that was cancelled at runpod:ep 0.")
    assert "this one waits until the worker is free" in why
    [why] = await notes(waits, runs, done)
    assert await notes(waits, waits, done) == [], "by then the worker was free"
