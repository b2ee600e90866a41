"""Everything that can go wrong between a client and an engine, on real parts.

Each fault must end in the right outputs or in an error that says what to do; nothing
half-written stays under a final name, and nothing runs twice.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lanes import (
    TOKEN,
    Lane,
    assert_picture,
    comfyui_lane,
    command,
    content,
    failing,
    fetch,
    file,
    files_in,
    finished_files,
    gateway_lane,
    new_mark,
    picture,
    sandbox,
    slow_picture,
    start_command,
)
from PIL import Image
from proxy import Answer, Cut, Delay, Drop, Fault, NotHttp, Rewrite, Shorten, Stall, name_of

from comfy_remote import Client, Record, resume
from comfy_remote.errors import (
    AuthenticationError,
    ComfyRemoteError,
    EngineCrashed,
    ExecutionFailed,
    InputFileMissing,
    JobCancelled,
    JobExpired,
    JobTimedOut,
    LocalStorageError,
    OutOfMemory,
    OutputCorrupt,
    OutputLost,
    RateLimited,
    RequestTooLarge,
    SubmissionUnknown,
    TargetNotFound,
    TargetUnreachable,
    WorkflowInvalid,
)
from comfy_remote.events import Event, Finished, JobState, Log, Progress, Started
from comfy_remote.net.retry import Backoff
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.worker.engine import Engine

PAGE = b"<!DOCTYPE html><html><title>502 Bad Gateway</title></html>"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record of its own, the gateway's key in the environment, and shorter waits."""
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNPOD_API_KEY", TOKEN)
    monkeypatch.delenv("RUNPOD_ENDPOINT_BASE_URL", raising=False)
    monkeypatch.setattr(Backoff, "seconds", lambda *_: 0.02)
    monkeypatch.setattr("comfy_remote.targets.comfyui.target._SUBMISSION_SEARCH", 0.4)
    monkeypatch.setattr("comfy_remote.targets.runpod.target._BACKOFF", (0.1, 0.2))
    return tmp_path / "home"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where outputs go."""
    folder = tmp_path / "here" / "out"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
async def comfyui(sandbox_url: str) -> AsyncIterator[Lane]:
    """Client → sandbox."""
    async with comfyui_lane(sandbox_url) as lane:
        yield lane


@pytest.fixture
async def gateway(sandbox_url: str) -> AsyncIterator[Lane]:
    """Client → gateway → worker → sandbox."""
    async with gateway_lane(sandbox_url) as lane:
        yield lane


@pytest.fixture(params=["comfyui", "gateway"])
async def lane(request: pytest.FixtureRequest, sandbox_url: str) -> AsyncIterator[Lane]:
    """Both ways to the sandbox."""
    opened = comfyui_lane if request.param == "comfyui" else gateway_lane
    async with opened(sandbox_url) as lane:
        yield lane


@pytest.fixture(params=["comfyui", "gateway", "comfyui-real", "gateway-real"])
async def any_lane(request: pytest.FixtureRequest, sandbox_url: str) -> AsyncIterator[Lane]:
    """Both ways, to the sandbox and to the real ComfyUI."""
    way, _, real = request.param.partition("-")
    url = request.getfixturevalue("comfyui_url") if real else sandbox_url
    async with (comfyui_lane if way == "comfyui" else gateway_lane)(url) as lane:
        yield lane


async def refused(
    kind: type[ComfyRemoteError], lane: Lane, prompt: Any, out: Path, **how: Any
) -> ComfyRemoteError:
    """Run it, and get the error it must end in: of that very kind, with advice, no files."""
    patience = how.pop("patience", 20.0)
    with pytest.raises(ComfyRemoteError) as caught:
        await fetch(lane.target(patience), prompt, out, **how)
    error = caught.value
    assert type(error) is kind, repr(error)
    assert error.advice, error
    assert TOKEN not in f"{error} {error.details}"
    # Only where it may go on is something kept for that.
    assert (finished_files if kind is TargetUnreachable else files_in)(out) == []
    return error


async def until(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Wait for it."""
    deadline = asyncio.get_running_loop().time() + timeout
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it never came"
        await asyncio.sleep(0.02)


# Bad input


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{not json", "not valid JSON"),
        ('{"1": NaN}', "not valid JSON"),
        ("", "not valid JSON"),
        ('{"nodes": [], "links": [], "version": 0.4}', "empty"),
        ("{}", "empty"),
        ("[]", "a list"),
        ('"prompt"', "a text"),
        ("42", "a number"),
        ("null", "null"),
        ('{"1": {"inputs": {}}}', "class_type"),
        ('{"1": {"class_type": "SaveImage", "inputs": {"images": ["9", 0]}}}', "node 9"),
    ],
)
async def test_a_file_that_is_no_prompt(
    comfyui: Lane, tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "workflow.json"
    path.write_text(text, encoding="utf-8")
    async with Client(comfyui.target()) as client:
        with pytest.raises(WorkflowInvalid, match=says) as caught:
            await client.submit(path)
    assert str(path) in caught.value.message
    assert "Export" in caught.value.advice or "export" in caught.value.advice
    assert comfyui.proxy.count(r"^/prompt") == 0


async def test_a_file_that_is_not_there(comfyui: Lane, tmp_path: Path) -> None:
    async with Client(comfyui.target()) as client:
        with pytest.raises(WorkflowInvalid, match="no file") as caught:
            await client.submit(tmp_path / "missing.json")
        assert caught.value.advice
        (tmp_path / "binary.json").write_bytes(b"\x89PNG\xff\xfe")
        with pytest.raises(WorkflowInvalid, match="not a text file"):
            await client.submit(tmp_path / "binary.json")
        with pytest.raises(WorkflowInvalid):
            await client.submit(tmp_path)
    assert comfyui.proxy.seen == []


async def test_an_unknown_node(any_lane: Lane, out: Path) -> None:
    mark = new_mark()
    prompt = picture(mark)
    prompt["7"] = {"class_type": "NoSuchNode", "inputs": {}}
    prompt["2"]["inputs"]["images"] = ["7", 0]
    error = await refused(WorkflowInvalid, any_lane, prompt, out)
    assert "NoSuchNode" in str(error)
    assert "node pack" in error.advice
    assert any_lane.engine.runs(mark) == 0


async def test_a_wrong_value(any_lane: Lane, out: Path) -> None:
    mark = new_mark()
    prompt = picture(mark)
    prompt["1"]["inputs"]["width"] = -3
    error = await refused(WorkflowInvalid, any_lane, prompt, out)
    assert "node 1 (EmptyImage)" in error.message
    assert "1" in error.details["node_errors"]
    assert any_lane.engine.runs(mark) == 0


async def test_nothing_is_saved(any_lane: Lane, out: Path) -> None:
    prompt = {"1": picture(new_mark())["1"]}
    error = await refused(WorkflowInvalid, any_lane, prompt, out)
    assert "output" in error.message


async def test_a_missing_input_file(any_lane: Lane, out: Path) -> None:
    mark = new_mark()
    prompt = picture(mark)
    prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": f"{mark}.png"}}
    error = await refused(InputFileMissing, any_lane, prompt, out)
    assert f"{mark}.png" in error.message
    assert "inputs=[FILE]" in error.advice
    assert any_lane.proxy.count(any_lane.submit) == 0


async def test_an_input_too_large_for_runpod(
    gateway: Lane, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large.png").write_bytes(os.urandom(9 << 20))
    prompt = picture(new_mark())
    prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": "large.png"}}
    error = await refused(RequestTooLarge, gateway, prompt, out)
    assert "9.0 MiB" in error.message
    assert gateway.proxy.count(gateway.submit) == 0


# Answers to the submission


async def test_a_wrong_key(gateway: Lane, out: Path) -> None:
    async with Client(gateway.target(key="wrong-key-wrong-key")) as client:
        with pytest.raises(AuthenticationError) as caught:
            await client.submit(picture(new_mark()))
    assert "401" in caught.value.message
    assert "wrong-key" not in str(caught.value)
    assert caught.value.advice
    assert gateway.proxy.count("/run") == 1, "a refused key is not tried again"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_login_in_front(any_lane: Lane, out: Path, status: int) -> None:
    mark = new_mark()
    any_lane.proxy.plan("", Answer(status, PAGE), times=None)
    await refused(AuthenticationError, any_lane, picture(mark), out)
    assert any_lane.engine.runs(mark) == 0


async def test_an_unknown_endpoint(gateway: Lane, out: Path) -> None:
    target = RunPodTarget("nosuch", None, base_url=f"{gateway.proxy.url}/v2")
    gateway.proxy.plan("/nosuch/", Answer(404, b""), times=None)
    async with Client(target) as client:
        with pytest.raises(TargetNotFound, match="nosuch") as caught:
            await client.submit(picture(new_mark()))
    assert "console" in caught.value.advice
    assert gateway.proxy.count("/run") == 1


async def test_a_page_in_place_of_the_engine(lane: Lane, out: Path) -> None:
    lane.proxy.plan("", Answer(404, PAGE), times=None)
    error = await refused(TargetNotFound, lane, picture(new_mark()), out)
    assert "DOCTYPE" not in str(error)


async def test_asked_too_often_for_a_moment(any_lane: Lane, out: Path) -> None:
    mark = new_mark()
    any_lane.proxy.plan(any_lane.submit, Answer(429, headers={"Retry-After": "0.3"}), times=2)
    assert_picture(await fetch(any_lane.target(), picture(mark), out), out)
    assert any_lane.engine.runs(mark) == 1
    assert any_lane.proxy.count(any_lane.submit) == 3


async def test_asked_too_often_for_good(lane: Lane, out: Path) -> None:
    mark = new_mark()
    lane.proxy.plan(lane.submit, Answer(429, headers={"Retry-After": "0"}), times=None)
    await refused(RateLimited, lane, picture(mark), out)
    assert lane.engine.runs(mark) == 0


@pytest.mark.parametrize(
    "fault",
    [
        Answer(500, b'{"error": "no capacity"}'),
        Answer(524, PAGE),
        Answer(200, PAGE),
        Answer(200, b"{}"),
        Answer(200, b"[1]"),
        Drop(),
        NotHttp(),
    ],
    ids=name_of,
)
@pytest.mark.parametrize("forwarded", [False, True], ids=["not forwarded", "answer lost"])
async def test_the_submission_is_not_answered(
    lane: Lane, out: Path, fault: Any, forwarded: bool
) -> None:
    """With a queue to look into, or a key, a lost answer is no loss."""
    mark = new_mark()
    lane.proxy.plan(lane.submit, replace(fault, forwarded=forwarded))
    if lane.name == "comfyui" and not forwarded:
        error = await refused(SubmissionUnknown, lane, picture(mark), out)
        assert "resume" in error.advice
        assert lane.engine.runs(mark) == 0
        assert lane.proxy.count(lane.submit) == 1, "it was not sent again"
    else:
        assert_picture(await fetch(lane.target(), picture(mark), out), out)
        assert lane.engine.runs(mark) == 1


@pytest.mark.parametrize(
    "fault",
    [Answer(502, forwarded=True), Answer(200, PAGE, forwarded=True), Drop(True)],
    ids=name_of,
)
async def test_the_answer_is_lost_where_keys_are_unknown(
    gateway: Lane, out: Path, fault: Fault
) -> None:
    """RunPod itself: whether it runs cannot be known, so it is not sent again."""
    mark = new_mark()
    gateway.proxy.plan("/health", Answer(200, b'{"jobs": {}, "workers": {}}'), times=None)
    gateway.proxy.plan(gateway.submit, fault)
    error = await refused(SubmissionUnknown, gateway, picture(mark), out)
    assert "twice" in error.advice
    await until(lambda: gateway.engine.runs(mark) == 1 and gateway.engine.busy() == 0)
    assert gateway.proxy.count(gateway.submit) == 1
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        (entry,) = record.newest()
    assert isinstance(entry.error, SubmissionUnknown)
    assert not entry.state.final


async def test_the_answer_is_lost_again_and_again(gateway: Lane, out: Path) -> None:
    """A key makes it safe to ask three times; then it is for a person to look."""
    mark = new_mark()
    gateway.proxy.plan(gateway.submit, Drop(True), times=2)
    assert_picture(await fetch(gateway.target(), picture(mark), out), out)
    assert gateway.engine.runs(mark) == 1
    mark = new_mark()
    gateway.proxy.plan(gateway.submit, Drop(True), times=None)
    with pytest.raises(SubmissionUnknown) as caught:
        await fetch(gateway.target(), picture(mark), out)
    assert "twice" in caught.value.advice
    await until(lambda: gateway.engine.runs(mark) == 1 and gateway.engine.busy() == 0)


@pytest.mark.parametrize("forwarded", [False, True], ids=["not forwarded", "answer lost"])
async def test_the_submission_is_never_answered(lane: Lane, out: Path, forwarded: bool) -> None:
    """The connection stands, and nothing comes: the caller's timeout counts here, too."""
    mark = new_mark()
    lane.proxy.plan(lane.submit, Stall(forwarded), times=None)
    error = await refused(JobTimedOut, lane, picture(mark), out, timeout=0.7)
    assert "may have the job" in error.message
    assert "resume" in error.advice
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        (entry,) = record.newest()
    async with Client(lane.target()) as client:
        if lane.name == "gateway":
            with pytest.raises(SubmissionUnknown):
                await client.take_up(entry)
        elif not forwarded:
            with pytest.raises(OutputLost, match="never got"):
                await client.take_up(entry)
        else:
            job = await client.take_up(entry)
            assert_picture(await job.save_outputs(out), out)
    assert lane.engine.runs(mark) == forwarded


async def test_everything_stalls(comfyui: Lane, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the questions after a submission that broke: looking for it has an end."""
    comfyui.proxy.plan(comfyui.submit, Drop())
    comfyui.proxy.plan("/queue|/history|/ws", Stall(), times=None)
    error = await refused(SubmissionUnknown, comfyui, picture(new_mark()), out)
    assert "resume" in error.advice


async def test_nobody_listens(lane: Lane, out: Path) -> None:
    mark = new_mark()
    async with lane.proxy.gone():
        error = await refused(TargetUnreachable, lane, picture(mark), out)
    assert lane.proxy.url in error.message
    assert lane.engine.runs(mark) == 0


async def test_nobody_listens_for_a_moment(any_lane: Lane, out: Path) -> None:
    mark = new_mark()
    await any_lane.proxy.leave()
    job = asyncio.create_task(fetch(any_lane.target(), picture(mark), out))
    await asyncio.sleep(0.1)
    await any_lane.proxy.come_back()
    assert_picture(await job, out)
    assert any_lane.engine.runs(mark) == 1


@pytest.mark.parametrize("fault", [Drop(), Drop(True), Answer(502, PAGE)], ids=name_of)
async def test_the_upload_breaks(
    comfyui: Lane, tmp_path: Path, out: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files may be sent twice: the engine keeps one."""
    monkeypatch.chdir(tmp_path)
    mark = new_mark()
    Image.new("RGB", (64, 48), (0x33, 0x66, 0xCC)).save(tmp_path / f"{mark}.png")
    prompt = picture(mark)
    prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": f"{mark}.png"}}
    comfyui.proxy.plan("/upload/image", fault)
    assert_picture(await fetch(comfyui.target(), prompt, out), out)
    assert comfyui.engine.runs(mark) == 1


# While the job runs


@pytest.mark.parametrize(
    "fault",
    [
        Answer(429, headers={"Retry-After": "0.2"}),
        Answer(503),
        Answer(524, PAGE),
        Answer(200, PAGE),
        Answer(200, b"[]"),
        Answer(200, b'"words"'),
        Drop(),
        Drop(True),
        Cut(5),
        Delay(0.5),
        NotHttp(),
    ],
    ids=name_of,
)
async def test_questions_fail_for_a_while(lane: Lane, out: Path, fault: Fault) -> None:
    mark = new_mark()
    lane.proxy.plan(r"/ws", Answer(404), times=None)
    lane.proxy.plan(lane.poll, fault, times=2, skip=1)
    assert_picture(await fetch(lane.target(), slow_picture(mark, steps=4), out), out)
    assert lane.engine.runs(mark) == 1


async def test_a_proxy_knows_no_such_address_for_a_while(comfyui: Lane, out: Path) -> None:
    """A pod's proxy, for example. (404 from an endpoint is another matter: see below.)"""
    mark = new_mark()
    comfyui.proxy.plan(f"/ws|{comfyui.poll}", Answer(404, PAGE), times=4, skip=1)
    assert_picture(await fetch(comfyui.target(), slow_picture(mark, steps=5), out), out)
    assert comfyui.engine.runs(mark) == 1


async def test_questions_fail_for_good_and_the_job_is_fetched_later(lane: Lane, out: Path) -> None:
    mark = new_mark()
    lane.proxy.plan(f"/ws|{lane.poll}", Answer(503), times=None)
    error = await refused(TargetUnreachable, lane, slow_picture(mark), out, patience=0.5)
    assert "out of reach" in error.message
    assert "resume" in error.advice
    lane.proxy.heal()
    await _resume_newest(out)
    assert lane.engine.runs(mark) == 1


async def test_the_target_goes_and_comes_back(lane: Lane, out: Path) -> None:
    mark = new_mark()
    job = asyncio.create_task(fetch(lane.target(), slow_picture(mark), out))
    await lane.proxy.saw(lane.poll, times=2)
    async with lane.proxy.gone():
        await asyncio.sleep(0.7)
    assert_picture(await job, out)
    assert lane.engine.runs(mark) == 1


async def test_the_target_goes_for_good(lane: Lane, out: Path) -> None:
    mark = new_mark()
    job = asyncio.create_task(
        refused(TargetUnreachable, lane, slow_picture(mark, steps=20), out, patience=0.5)
    )
    await lane.proxy.saw(lane.poll, times=2)
    async with lane.proxy.gone():
        error = await job
    assert "may still be running" in error.message
    await _resume_newest(out)
    assert lane.engine.runs(mark) == 1


async def test_the_key_is_withdrawn(lane: Lane, out: Path) -> None:
    mark = new_mark()
    lane.proxy.plan(f"/ws|{lane.poll}", Answer(401), times=None)
    await refused(AuthenticationError, lane, slow_picture(mark, steps=3), out)
    lane.proxy.heal()
    await _resume_newest(out)
    assert lane.engine.runs(mark) == 1


async def test_the_endpoint_has_forgotten_the_job(gateway: Lane, out: Path) -> None:
    gateway.proxy.plan(gateway.poll, Answer(404, b'{"error": "not found"}'), times=None)
    error = await refused(JobExpired, gateway, picture(new_mark()), out)
    assert "30 minutes" in error.advice


@pytest.mark.parametrize("any_lane", ["comfyui", "comfyui-real"], indirect=True)
async def test_the_websocket_is_refused(any_lane: Lane, out: Path) -> None:
    mark, events = new_mark(), []
    any_lane.proxy.plan("/ws", Answer(403), times=None)
    assert_picture(await fetch(any_lane.target(), picture(mark), out, events=events), out)
    assert any("polling instead" in e.message for e in events if isinstance(e, Log))
    assert any_lane.engine.runs(mark) == 1


@pytest.mark.parametrize("fault", [Answer(200, PAGE), Drop(), NotHttp()], ids=name_of)
async def test_the_websocket_is_no_websocket(comfyui: Lane, out: Path, fault: Fault) -> None:
    mark = new_mark()
    comfyui.proxy.plan("/ws", fault, times=None)
    assert_picture(await fetch(comfyui.target(), picture(mark), out), out)
    assert comfyui.engine.runs(mark) == 1


async def test_the_websocket_drops(comfyui: Lane, out: Path) -> None:
    mark, events = new_mark(), list[Event]()
    job = asyncio.create_task(
        fetch(comfyui.target(), slow_picture(mark, steps=15), out, events=events)
    )
    await until(lambda: any(isinstance(e, Progress) and e.step for e in events))
    comfyui.proxy.plan("/ws", Answer(503), times=1)
    assert comfyui.proxy.drop_sockets() == 1
    assert_picture(await job, out)
    assert comfyui.proxy.count("/ws") >= 3, "it was opened again"
    assert comfyui.engine.runs(mark) == 1


async def test_the_websocket_says_nothing(comfyui: Lane, out: Path) -> None:
    mark = new_mark()
    comfyui.proxy.plan("/ws", Stall(), times=None)
    assert_picture(await fetch(comfyui.target(), picture(mark), out), out)
    assert comfyui.engine.runs(mark) == 1


async def test_garbage_on_the_websocket(comfyui: Lane, out: Path) -> None:
    mark, events = new_mark(), list[Event]()
    job = asyncio.create_task(fetch(comfyui.target(), slow_picture(mark), out, events=events))
    await until(lambda: any(isinstance(e, Started) for e in events))
    for frame in (
        "not json",
        "[]",
        "{}",
        '{"type": 3}',
        '{"type": "progress", "data": []}',
        '{"type": "progress_state", "data": {"prompt_id": 7, "nodes": [1]}}',
        b"",
        b"\x00",
        b"\x00\x00\x00\x01\x00\x00\x00\x63rubbish",
        b"\x00\x00\x00\x04\xff\xff\xff\xff{}",
        os.urandom(4096),
    ):
        await comfyui.proxy.send_to_sockets(frame)
    assert_picture(await job, out)
    assert comfyui.engine.runs(mark) == 1


async def test_hostile_progress_on_the_websocket(comfyui: Lane, out: Path) -> None:
    """Numbers that are none, nodes that are not there, and an end that has not come."""
    mark, events = new_mark(), list[Event]()
    job = asyncio.create_task(fetch(comfyui.target(), slow_picture(mark), out, events=events))
    await until(lambda: any(isinstance(e, Started) for e in events))
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        (entry,) = record.newest()
    for kind, data in (
        ("progress", {"node": "3", "value": "many", "max": None}),
        ("progress", {"node": "3", "value": -1, "max": 0}),
        ("progress", {"node": "99", "value": 1e308, "max": 1e-308}),
        ("progress_state", {"nodes": {"99": {"value": "x"}, "3": 5}}),
        ("executed", {"node": "99", "output": {"images": [{"filename": 5}, None, "x"]}}),
        ("execution_cached", {"nodes": {"a": 1}}),
        ("execution_cached", {"nodes": ["99", None, 3]}),
        ("executing", {"node": ["3"]}),
        ("executing", {"node": None}),
    ):
        data = {"prompt_id": entry.id, **data}
        await comfyui.proxy.send_to_sockets(json.dumps({"type": kind, "data": data}))
    assert_picture(await job, out)
    for event in events:
        if isinstance(event, Progress):
            assert 0 <= event.nodes_done <= event.nodes_total
            assert 0.0 <= event.fraction <= 1.0
    assert comfyui.engine.runs(mark) == 1


async def test_the_result_never_comes(lane: Lane, out: Path) -> None:
    mark = new_mark()
    error = await refused(JobTimedOut, lane, slow_picture(mark, steps=15), out, timeout=0.8)
    assert "resume" in error.advice and "cancel" in error.advice
    assert error.details["job_id"] in error.advice
    await _resume_newest(out)
    assert lane.engine.runs(mark) == 1


@pytest.mark.parametrize("fault", [Stall(), Delay(30)], ids=name_of)
async def test_answers_never_come(lane: Lane, out: Path, fault: Fault) -> None:
    mark = new_mark()
    lane.proxy.plan("/ws", Answer(404), times=None)
    lane.proxy.plan(lane.poll, fault, times=None)
    await refused(JobTimedOut, lane, picture(mark), out, timeout=1.0)
    lane.proxy.heal()
    await _resume_newest(out)
    assert lane.engine.runs(mark) == 1


async def test_progress_that_overtakes(gateway: Lane, out: Path) -> None:
    """Of two snapshots, the one with the higher number is the newer."""
    seen = 0

    def mix(body: bytes) -> bytes:
        nonlocal seen
        status = json.loads(body)
        if status["status"] != "IN_PROGRESS" or "sequence" not in (status.get("output") or {}):
            return body
        seen += 1
        if seen % 2 == 0:
            status["output"].update(sequence=0, nodes_done=0, step=0, message="stale")
        return json.dumps(status).encode()

    gateway.proxy.plan(gateway.poll, Rewrite(mix), times=None)
    mark, events = new_mark(), list[Event]()
    saved = await fetch(gateway.target(), slow_picture(mark, steps=20), out, events=events)
    assert_picture(saved, out)
    shares = [e.fraction for e in events if isinstance(e, Progress)]
    assert seen > 2
    assert shares == sorted(shares)
    assert all(e.message != "stale" for e in events if isinstance(e, Progress))


async def test_progress_after_the_result(sandbox_url: str, out: Path) -> None:
    """The worker's last update arrives when the job is complete: it stays complete."""
    async with gateway_lane(sandbox_url) as lane:
        assert lane.gateway is not None
        async with Client(lane.target()) as client:
            job = await client.submit(picture(new_mark()), timeout=30)
            assert (await job.wait()).state is JobState.SUCCEEDED
            late = {"status": "IN_PROGRESS", "output": {"sequence": 99}}
            await asyncio.to_thread(_post_as_worker, lane, job.ref.remote_id, late)
        await _resume_newest(out)


# What comes back


async def test_complete_without_a_result(gateway: Lane, out: Path) -> None:
    mark = new_mark()
    gateway.proxy.plan(gateway.poll, Rewrite(_without_output), times=None)
    error = await refused(OutputLost, gateway, picture(mark), out)
    assert "no result" in error.message
    assert gateway.engine.runs(mark) == 1


@pytest.mark.parametrize(
    "output",
    [
        {},
        [],
        "done",
        {"images": "none"},
        {"format": "comfy-remote/1"},
        {"format": "comfy-remote/1", "status": "success", "outputs": [{"kind": "image"}]},
        {"format": "comfy-remote/1", "status": "success", "outputs": []},
        {"status": "success_no_images", "images": []},
        {"format": "comfy-remote/1", "outputs": [{"kind": "image", "filename": "a.png"}]},
        {
            "format": "comfy-remote/1",
            "outputs": [{"kind": "image", "filename": "a.png", "data": "%%%"}],
        },
    ],
    ids=str,
)
async def test_complete_with_a_result_that_is_none(gateway: Lane, out: Path, output: Any) -> None:
    change = Rewrite(lambda body: _with_output(body, output))
    gateway.proxy.plan(gateway.poll, change, times=None)
    await refused(OutputLost, gateway, picture(new_mark()), out)


async def test_complete_without_files(comfyui: Lane, out: Path) -> None:
    mark = new_mark()
    comfyui.proxy.plan("/history/", Rewrite(_without_files), times=None)
    error = await refused(OutputLost, comfyui, picture(mark), out)
    assert "Save Image" in error.advice
    assert comfyui.engine.runs(mark) == 1


async def test_an_output_that_is_gone(comfyui: Lane, out: Path) -> None:
    mark = new_mark()
    comfyui.proxy.plan("/view", Answer(404), times=None)
    error = await refused(OutputLost, comfyui, picture(mark), out)
    assert mark in error.message


@pytest.mark.parametrize("name", ["comfyui", "gateway"])
async def test_a_large_output_comes_through(sandbox_url: str, out: Path, name: str) -> None:
    mark, size = new_mark(), 12_345_678
    opened = comfyui_lane if name == "comfyui" else gateway_lane
    async with opened(sandbox_url) as lane:
        (saved,) = await fetch(lane.target(), file(mark, size), out)
        assert saved.path.read_bytes() == content(size)
        assert lane.engine.runs(mark) == 1
        if name == "gateway":
            assert lane.proxy.count("/files/", "GET") == 1, "it was not in the answer"


async def test_a_large_output_without_a_store_is_taken_in_parts(
    sandbox_url: str, out: Path
) -> None:
    mark, size = new_mark(), 12_345_678
    async with gateway_lane(sandbox_url, store=False) as lane:
        (saved,) = await fetch(lane.target(), file(mark, size), out)
        assert saved.path.read_bytes() == content(size)
        assert lane.engine.runs(mark) == 1
        assert lane.proxy.count("/run", "POST") == 3, "the job, and two parts"


HOSTILE_NAMES = [
    ("../../x.png", ""),
    ("x.png", "../.."),
    ("/etc/x.png", ""),
    ("x.png", "/tmp"),
    ("C:\\Windows\\x.png", ""),
    ("..\\..\\x.png", ""),
    ("x.png", "C:\\Windows\\.."),
    ("CON", ""),
    ("nul.png", "aux"),
    ("a:b.png", ""),
    ("x.png. ", ""),
    ("\x00x\x1b[31m.png", ""),
    ("\u202egnp.exe", ""),
    ("..", ".."),
    ("~/x.png", ""),
    ("n" * 400 + ".png", "s" * 400),
    (".comfy-remote-x/y.png", "."),
]


@pytest.mark.parametrize(("filename", "subfolder"), HOSTILE_NAMES)
async def test_a_hostile_name(
    lane: Lane, tmp_path: Path, out: Path, filename: str, subfolder: str
) -> None:
    def rename(body: bytes) -> bytes:
        document = json.loads(body)
        for listed in _listed(document):
            listed.update(filename=filename, subfolder=subfolder)
        return json.dumps(document).encode()

    mark = new_mark()
    where = "/history/" if lane.name == "comfyui" else lane.poll
    lane.proxy.plan(where, Rewrite(rename), times=None)
    lane.proxy.plan("/view", Answer(200, _png()), times=None)
    before = files_in(tmp_path)
    async with Client(lane.target()) as client:
        job = await client.submit(picture(mark), timeout=30)
        (saved,) = await job.save_outputs(out)
        (kept,) = await job.outputs()
    assert saved.path == kept.save(out)
    new = set(files_in(tmp_path)) - set(before)
    outside = {name for name in new if not name.startswith(("here/out", "home"))}
    assert not outside
    assert saved.path.resolve().is_relative_to(out.resolve())
    assert saved.path.is_file()
    for part in saved.path.relative_to(out).parts:
        assert part not in ("", ".", "..") and not set(part) & set('<>:"|?*\\/\x00\x1b\u202e')
        assert part == part.rstrip(". ") and len(part.encode()) < 256
        assert part.split(".")[0].lower() not in ("con", "nul", "aux", "prn")


async def test_the_engine_lists_a_file_elsewhere(lane: Lane, out: Path) -> None:
    """The real thing, not a proxy's: the engine does not hand out what is not its output."""
    mark = new_mark()
    prompt = file(mark, 10, listed_filename="../../x.png")
    with pytest.raises(ComfyRemoteError) as caught:
        await fetch(lane.target(), prompt, out)
    assert caught.value.advice
    assert files_in(out.parent) == []


async def test_a_download_breaks_off(comfyui: Lane, out: Path) -> None:
    mark, size = new_mark(), 3_000_000
    comfyui.proxy.plan("/view", Cut(1_000_000))
    comfyui.proxy.plan("/view", Drop())
    comfyui.proxy.plan("/view", Cut(1_000_000))
    (saved,) = await fetch(comfyui.target(), file(mark, size), out)
    assert saved.path.read_bytes() == content(size)
    assert files_in(out) == [f"{mark}.bin"]
    ranges = [s.headers.get("Range") for s in comfyui.proxy.seen if s.path.startswith("/view")]
    assert ranges[0] is None and ranges[-1] is not None, "it went on where it broke"
    assert comfyui.engine.runs(mark) == 1


async def test_a_stored_output_breaks_off(gateway: Lane, out: Path) -> None:
    mark, size = new_mark(), 11_000_000
    gateway.proxy.plan("/files/", Cut(4_000_000))
    gateway.proxy.plan("/files/", Answer(502, PAGE))
    gateway.proxy.plan("/files/", Drop())
    (saved,) = await fetch(gateway.target(), file(mark, size), out)
    assert saved.path.read_bytes() == content(size)
    assert gateway.engine.runs(mark) == 1


@pytest.mark.parametrize("fault", [Cut(0), Cut(100_000), Answer(503), Drop()], ids=name_of)
async def test_a_download_breaks_off_for_good(comfyui: Lane, out: Path, fault: Fault) -> None:
    mark = new_mark()
    if fault == Cut(100_000):
        comfyui.proxy.plan("/view", fault)
        fault = Drop()
    comfyui.proxy.plan("/view", fault, times=None)
    await refused(TargetUnreachable, comfyui, file(mark, 3_000_000), out)
    comfyui.proxy.heal()
    await _resume_newest(out, [content(3_000_000)])
    assert files_in(out) == [f"{mark}.bin"]
    assert comfyui.engine.runs(mark) == 1


async def test_one_of_several_downloads_breaks(comfyui: Lane, out: Path) -> None:
    """What could be fetched is there, whole; what could not is not."""
    mark = new_mark()
    prompt = {
        str(n): {**node, "inputs": {**node["inputs"], "filename": f"{mark}-{n}.bin"}}
        for n in range(3)
        for node in [file(mark, 50_000 + n)["1"]]
    }
    comfyui.proxy.plan(f"{mark}-1", Drop(), times=None)
    with pytest.raises(TargetUnreachable):
        await fetch(comfyui.target(), prompt, out)
    assert finished_files(out) == [f"{mark}-0.bin", f"{mark}-2.bin"]
    assert (out / f"{mark}-2.bin").read_bytes() == content(50_002)


async def test_a_stored_output_is_shortened(gateway: Lane, out: Path) -> None:
    mark = new_mark()
    gateway.proxy.plan("/files/", Shorten(5_000_000), times=None)
    error = await refused(OutputCorrupt, gateway, file(mark, 11_000_000), out)
    assert "5000000 bytes" in error.message
    gateway.proxy.heal()
    await _resume_newest(out, [content(11_000_000)])
    assert gateway.engine.runs(mark) == 1


@pytest.mark.parametrize("size", [10_000, 11_000_000], ids=["in the answer", "stored"])
async def test_an_output_is_damaged(gateway: Lane, out: Path, size: int) -> None:
    mark = new_mark()
    gateway.proxy.plan("/files/", Rewrite(_flipped), times=None)
    gateway.proxy.plan(gateway.poll, Rewrite(_damaged), times=None)
    error = await refused(OutputCorrupt, gateway, file(mark, size), out)
    assert "SHA-256" in error.message
    gateway.proxy.heal()
    await _resume_newest(out, [content(size)])
    assert gateway.engine.runs(mark) == 1


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ComfyUI, which is on this machine, counts as one that is not."""
    monkeypatch.setattr(ComfyUITarget, "local", False)


async def test_a_picture_is_shortened_unnoticed_by_http(
    comfyui: Lane, out: Path, far_away: None
) -> None:
    """ComfyUI announces neither size nor hash, but a picture knows where it ends."""
    mark = new_mark()
    comfyui.proxy.plan("/view", Shorten(150), times=None)
    await refused(OutputCorrupt, comfyui, picture(mark), out)
    comfyui.proxy.heal()
    await _resume_newest(out)
    assert comfyui.engine.runs(mark) == 1


async def test_a_picture_is_a_page(comfyui: Lane, out: Path, far_away: None) -> None:
    comfyui.proxy.plan("/view", Answer(200, PAGE), times=None)
    await refused(OutputCorrupt, comfyui, picture(new_mark()), out)


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 4 MiB, all of which may be used."""
    monkeypatch.setenv("COMFY_REMOTE_FREE_SPACE", "0")
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("size", [6_000_000, 11_000_000])
async def test_the_disk_is_full(
    lane: Lane, small_disk: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_FREE_SPACE", "0")  # the last byte may be used
    mark = new_mark()
    error = await refused(LocalStorageError, lane, file(mark, size), small_disk)
    assert "full" in error.message
    assert "resume" in error.advice
    # Half of what is free is enough for the next one, so nothing of the first is left.
    (saved,) = await fetch(lane.target(), file(new_mark(), 3_000_000), small_disk)
    assert saved.path.read_bytes() == content(3_000_000)
    assert lane.engine.runs(mark) == 1


async def test_the_disk_of_the_record_is_full(
    comfyui: Lane, small_disk: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that cannot be recorded is not submitted."""
    mark = new_mark()
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(small_disk / "home"))
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb") as filler:
        while True:
            filler.write(bytes(4096))
            filler.flush()
    with pytest.raises(LocalStorageError, match="record") as caught:
        await fetch(comfyui.target(), picture(mark), out)
    assert "COMFY_REMOTE_HOME" in caught.value.advice
    assert comfyui.engine.runs(mark) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of this kind")
async def test_the_file_may_not_grow(lane: Lane, out: Path) -> None:
    import resource

    mark = new_mark()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
    try:
        # Through the gateway the worker's own copy may be the one that fails: it is in this
        # process too.
        with pytest.raises(LocalStorageError) as caught:
            await fetch(lane.target(), file(mark, 6_000_000), out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.advice
    assert files_in(out) == []
    await asyncio.sleep(0)
    assert lane.engine.runs(mark) == 1


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
async def test_the_folder_is_forbidden(lane: Lane, out: Path) -> None:
    out.chmod(0o500)
    await refused(LocalStorageError, lane, picture(new_mark()), out / "below")


async def test_a_file_where_a_folder_is_wanted(lane: Lane, out: Path) -> None:
    (out / "taken").write_text("mine")
    with pytest.raises(LocalStorageError) as caught:
        await fetch(lane.target(), picture(new_mark()), out / "taken" / "below")
    assert caught.value.advice
    assert files_in(out) == ["taken"]
    assert (out / "taken").read_text() == "mine"


# The engine, the worker, the gateway


async def test_a_node_fails(lane: Lane, out: Path) -> None:
    mark = new_mark()
    error = await refused(ExecutionFailed, lane, failing(mark, "error", "wrong colour"), out)
    assert "wrong colour" in error.message
    assert (error.details["node_id"], error.details["node_class"]) == ("4", "SandboxFail")
    assert "SandboxFail (node 4)" in error.message
    assert lane.engine.runs(mark) == 1


async def test_a_node_fails_after_others_have_saved(lane: Lane, out: Path) -> None:
    mark = new_mark()
    saves = {"images": ["1", 0], "filename_prefix": "before"}
    prompt = {"5": {"class_type": "SaveImage", "inputs": saves}}
    prompt |= failing(mark, "error", "wrong colour")
    async with Client(lane.target()) as client:
        job = await client.submit(prompt, timeout=40.0)
        with pytest.raises(ExecutionFailed, match="wrong colour"):
            await job.save_outputs(out)
        (saved,) = await job.save_outputs(out, even_if_failed=True)
    assert (saved.node_id, files_in(out)) == ("5", [saved.path.name])
    assert lane.engine.runs(mark) == 1


async def test_one_of_two_outputs_does_not_exist(lane: Lane, out: Path) -> None:
    mark = new_mark()
    prompt = picture(mark)
    prompt["5"] = file(mark, 10, list_under="3d", listed_filename="nowhere.glb")["1"]
    async with Client(lane.target()) as client:
        job = await client.submit(prompt, timeout=40.0)
        saved = await job.save_outputs(out)
        (problem,) = job.problems
    assert "2" in [one.node_id for one in saved]
    assert (problem.node_id, problem.filename) == ("5", "nowhere.glb")
    assert lane.engine.runs(mark) == 1


async def test_the_engine_runs_out_of_memory(lane: Lane, out: Path) -> None:
    mark = new_mark()
    error = await refused(OutOfMemory, lane, failing(mark, "out_of_memory"), out)
    assert "smaller" in error.advice
    # A worker frees the memory and tries once more.
    assert lane.engine.runs(mark) == (2 if lane.name == "gateway" else 1)
    assert_picture(await fetch(lane.target(), picture(new_mark()), out), out)


async def test_the_engine_dies(out: Path) -> None:
    with sandbox() as (url, process):
        async with comfyui_lane(url) as lane:
            prompt = failing(new_mark(), "crash")
            error = await refused(TargetUnreachable, lane, prompt, out, patience=0.5)
            assert "resume" in error.advice
            assert process.wait(10) == 1
            assert lane.proxy.count(lane.submit) == 1


async def test_the_engine_dies_and_starts_again(out: Path) -> None:
    """Its history is gone with it: the job is lost, not waited for."""
    with sandbox() as (url, process):
        async with comfyui_lane(url) as lane:
            mark = new_mark()
            prompt = slow_picture(mark, steps=100)
            job = asyncio.create_task(refused(EngineCrashed, lane, prompt, out))
            await until(lambda: lane.engine.busy() == 1)
            await asyncio.sleep(0.3)
            process.kill()
            process.wait()
            port = url.rpartition(":")[2]
            with sandbox("--port", port) as (again, _):
                assert again == url
                error = await job
                assert "restarted" in error.message
                assert lane.engine.runs(mark) == 0, "it is not run again unasked"


async def test_the_workers_engine_dies(out: Path) -> None:
    """The worker starts another, and runs the job again, once."""
    engine = Engine.named("sandbox")
    async with gateway_lane(await engine.ready(), engine=engine) as lane:
        first = engine.pid
        error = await refused(EngineCrashed, lane, failing(new_mark(), "crash"), out)
        assert error.details["exit_status"] == 1
        assert "log" in error.advice
        again = out / "again"
        job = asyncio.create_task(fetch(lane.target(), slow_picture(new_mark(), steps=40), again))
        await until(lambda: engine.pid not in (None, first) and engine.alive)
        await lane.proxy.saw(lane.submit, times=2)
        await asyncio.sleep(1.5)  # it is running
        killed = engine.pid
        assert killed is not None
        os.kill(killed, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        assert_picture(await job, again)
        assert engine.pid != killed


async def test_the_gateway_stops(sandbox_url: str, out: Path) -> None:
    async with gateway_lane(sandbox_url) as lane:
        assert lane.gateway is not None
        mark = new_mark()
        prompt = slow_picture(mark, steps=200)
        job = asyncio.create_task(refused(TargetUnreachable, lane, prompt, out, patience=0.5))
        await until(lambda: lane.engine.runs(mark) == 1)
        await lane.proxy.saw(lane.poll, times=2)
        await lane.gateway.stop()
        error = await job
        assert "may still be running" in error.message
        await until(lambda: lane.engine.busy() == 0)
        assert lane.engine.runs(mark) == 1


async def test_another_gateway_does_not_know_the_job(sandbox_url: str, out: Path) -> None:
    mark = new_mark()
    async with gateway_lane(sandbox_url) as lane:
        async with Client(lane.target()) as client:
            job = await client.submit(picture(mark), folder=out)
        port = lane.proxy.url
        assert port
    async with gateway_lane(sandbox_url) as other:
        async with Client(other.target()) as client:
            with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
                entry = record.get(job.id)
            again = await client.take_up(entry)
            finished = await again.wait()
        assert finished.state is JobState.EXPIRED
        assert isinstance(finished.error, JobExpired)
        assert finished.error.advice


# Cancelling, and several at once


async def test_cancelled_while_running(lane: Lane, out: Path) -> None:
    mark = new_mark()
    async with Client(lane.target()) as client:
        job = await client.submit(slow_picture(mark, steps=200), timeout=20)
        events = []
        async for event in job:
            events.append(event)
            if isinstance(event, Progress) and event.step:
                await job.cancel()
        assert isinstance(events[-1], Finished)
        assert events[-1].state is JobState.CANCELLED
        with pytest.raises(JobCancelled):
            await job.save_outputs(out)
    assert files_in(out) == []
    await until(lambda: lane.engine.busy() == 0, timeout=5)
    assert lane.engine.runs(mark) == 1


async def test_cancelled_in_the_queue(lane: Lane, out: Path) -> None:
    first, second = new_mark(), new_mark()
    running = asyncio.create_task(fetch(lane.target(), slow_picture(first, steps=10), out))
    await until(lambda: lane.engine.runs(first) == 1)
    async with Client(lane.target()) as client:
        job = await client.submit(slow_picture(second), timeout=20)
        await job.cancel()
        assert (await job.wait()).state is JobState.CANCELLED
    assert_picture(await running, out)
    assert (lane.engine.runs(first), lane.engine.runs(second)) == (1, 0)


async def test_cancelled_though_the_request_fails_at_first(lane: Lane, out: Path) -> None:
    lane.proxy.plan("/cancel/|/interrupt|/queue", Drop(), method="POST", times=2)
    mark = new_mark()
    async with Client(lane.target()) as client:
        job = await client.submit(slow_picture(mark, steps=200), timeout=20)
        async for event in job:
            if isinstance(event, Started):
                await job.cancel()
    assert job.state is JobState.CANCELLED
    await until(lambda: lane.engine.busy() == 0, timeout=5)


async def test_two_clients_at_once(lane: Lane, tmp_path: Path) -> None:
    marks = [new_mark() for _ in range(4)]
    folders = [tmp_path / "clients" / mark for mark in marks]
    prompts = [slow_picture(mark, steps=2) for mark in marks]
    saved = await asyncio.gather(
        *(fetch(lane.target(), p, f) for p, f in zip(prompts, folders, strict=True))
    )
    for mark, folder, mine in zip(marks, folders, saved, strict=True):
        assert_picture(mine, folder)
        assert mine[0].filename.startswith(mark)
        assert lane.engine.runs(mark) == 1


# The client dies

CLIENT = """
import asyncio, json, sys
from pathlib import Path
from comfy_remote import Client
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.config.settings import Configuration
from comfy_remote.targets.opening import open_target

async def main():
    address, base_url, prompt, folder = sys.argv[1:]
    settings = TargetSettings(target=address, base_url=base_url or None)
    target = open_target("here", Configuration(None, {"here": settings}))
    async with Client(target) as client:
        job = await client.submit(json.loads(prompt), folder=Path(folder))
        async for event in job:
            print(type(event).__name__, getattr(event, "step", None), flush=True)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def client_process(
    lane: Lane, prompt: Any, out: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A client in a process of its own."""
    base_url = f"{lane.proxy.url}/v2" if lane.gateway else ""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CLIENT,
        *(lane.address, base_url, json.dumps(prompt), str(out)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_the_client_is_killed_in_mid_job(lane: Lane, out: Path) -> None:
    mark = new_mark()
    async with client_process(lane, slow_picture(mark, steps=20), out) as process:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if line.startswith(b"Progress") and b"None" not in line:
                break
        process.kill()
        await process.wait()
    assert files_in(out) == []
    await _resume_newest(out)
    assert lane.engine.runs(mark) == 1


async def test_the_client_is_killed_before_the_answer(lane: Lane, out: Path) -> None:
    """The engine has the job, the record only that it was about to be sent."""
    mark = new_mark()
    lane.proxy.plan(lane.submit, Stall(forwarded=True))
    async with client_process(lane, picture(mark), out) as process:
        await until(lambda: lane.engine.runs(mark) == 1)
        process.kill()
        await process.wait()
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        (entry,) = record.newest()
    assert entry.ref is None
    async with Client(lane.target()) as client:
        if lane.name == "comfyui":
            job = await client.take_up(entry)
            assert_picture(await job.save_outputs(out), out)
        else:
            with pytest.raises(SubmissionUnknown) as caught:
                await client.take_up(entry)
            assert caught.value.advice
    assert lane.engine.runs(mark) == 1


async def test_the_client_is_killed_before_it_sends(lane: Lane, out: Path) -> None:
    mark = new_mark()
    lane.proxy.plan(lane.submit, Stall())
    async with client_process(lane, picture(mark), out) as process:
        await lane.proxy.saw(lane.submit)
        process.kill()
        await process.wait()
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        (entry,) = record.newest()
    kind = OutputLost if lane.name == "comfyui" else SubmissionUnknown
    async with Client(lane.target()) as client:
        with pytest.raises(kind) as caught:
            await client.take_up(entry)
    assert "again" in caught.value.advice
    assert lane.engine.runs(mark) == 0


# The command


BROKEN: dict[str, tuple[int, str, Callable[[str], Any], dict[str, Fault]]] = {
    # what: (exit status, words of the error, workflow, faults by path)
    "not JSON": (4, "is cut off", lambda mark: "{", {}),
    "UI format, empty": (4, "empty", lambda mark: {"nodes": [], "links": []}, {}),
    "UI format, unknown node": (
        4,
        "NoSuchNode",
        lambda mark: {"nodes": [{"id": 1, "type": "NoSuchNode"}], "links": []},
        {},
    ),
    "empty": (4, "empty", lambda mark: {}, {}),
    "a list": (4, "a list", lambda mark: [], {}),
    "unknown node": (
        4,
        "NoSuchNode",
        lambda mark: {"1": {"class_type": "NoSuchNode", "inputs": {}}},
        {},
    ),
    "missing file": (
        4,
        "missing.png",
        lambda mark: {"1": {"class_type": "LoadImage", "inputs": {"image": "missing.png"}}},
        {},
    ),
    "wrong key": (3, "refused the key", picture, {"": Answer(401)}),
    "no such endpoint": (3, "404|no endpoint", picture, {"": Answer(404, PAGE)}),
    "asked too often": (3, "429", picture, {"SUBMIT": Answer(429, headers={"Retry-After": "0"})}),
    "a page": (3, "not JSON|not known", picture, {"": Answer(200, PAGE)}),
    "a node fails": (5, "the reason", lambda mark: failing(mark, "error"), {}),
    "out of memory": (5, "ran out of memory", lambda mark: failing(mark, "out_of_memory"), {}),
    "damaged": (7, "damaged|SHA-256", lambda mark: file(mark, 5000), {"DAMAGE": Delay(0)}),
    "nothing came": (7, "no output|no result", picture, {"EMPTY": Delay(0)}),
    "no space": (7, "could not be written", picture, {}),
}


async def test_the_command_fails(lane: Lane, tmp_path: Path, out: Path) -> None:
    """Exit status, advice, no traceback, nothing half-written: for each kind of error."""

    async def fails(name: str, json_lines: bool) -> None:
        status, words, workflow, _ = BROKEN[name]
        mark = new_mark()
        document = workflow(mark)
        path, folder = tmp_path / f"{mark}.json", out / mark
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        if name == "no space":
            folder.write_text("in the way")
        flags = ["--json"] if json_lines else []
        ended = await command(
            lane, "run", path, "--on", lane.address, "-o", folder, *flags, cwd=tmp_path
        )
        assert ended.status == status, (name, ended)
        assert "Traceback" not in ended.stdout + ended.stderr, (name, ended)
        assert TOKEN not in ended.stdout + ended.stderr
        told = ended.stdout if json_lines else ended.stderr
        assert re.search(words, told), (name, ended)
        if json_lines:
            assert all(isinstance(json.loads(line), dict) for line in ended.stdout.splitlines())
            assert ended.result["event"] == "error"
            assert ended.result["advice"], (name, ended.result)
        else:
            assert ended.stdout == ""
            assert len(ended.stderr.strip().splitlines()) >= 2, (name, ended.stderr)
        if name == "no space":
            assert folder.read_text() == "in the way"
        else:
            assert not folder.exists() or files_in(folder) == [], name
        runs = 1 if status in (5, 7) else 0
        if name == "no space":  # noticed before anything is sent
            runs = 0
        elif name == "out of memory" and lane.name == "gateway":
            runs = 2  # our worker frees the memory and tries once more
        assert lane.engine.runs(mark) == runs, name

    # Left out: looks for the job for ten seconds; ComfyUI announces no hash.
    without = {"a page", "damaged"} if lane.name == "comfyui" else set()
    json_first = lane.name == "gateway"
    names = [(name, (n % 2 == 0) == json_first) for n, name in enumerate(BROKEN)]
    faulty = {name for name, (*_, faults) in BROKEN.items() if faults}
    await asyncio.gather(*(fails(name, form) for name, form in names if name not in faulty))
    for name, form in names:
        if name in faulty - without:
            lane.proxy.heal()
            for where, fault in BROKEN[name][3].items():
                _plan(lane, where, fault)
            await fails(name, form)


async def test_the_command_is_out_of_time_and_resumes(
    lane: Lane, tmp_path: Path, out: Path
) -> None:
    mark = new_mark()
    (tmp_path / "workflow.json").write_text(json.dumps(slow_picture(mark, steps=25)))
    ended = await command(
        *(lane, "run", "workflow.json", "--on", lane.address, "-o", out, "--timeout", 1),
        cwd=tmp_path,
    )
    assert ended.status == 6
    assert "Traceback" not in ended.stderr
    found = re.search(r"comfy-remote jobs resume ([0-9a-f-]{36})", ended.stderr)
    assert found is not None, ended.stderr
    assert files_in(out) == []
    ended = await command(lane, "jobs", "resume", found[1], "--json", cwd=tmp_path)
    assert ended.status == 0, ended
    assert [Path(o["path"]).parent for o in ended.result["outputs"]] == [out]
    assert len(files_in(out)) == 1
    assert lane.engine.runs(mark) == 1


async def test_the_command_is_killed_and_resumes(lane: Lane, tmp_path: Path, out: Path) -> None:
    mark = new_mark()
    (tmp_path / "workflow.json").write_text(json.dumps(slow_picture(mark, steps=15)))
    process = await start_command(
        lane, "run", "workflow.json", "--on", lane.address, "-o", out, "--json", cwd=tmp_path
    )
    assert process.stdout is not None
    while line := await process.stdout.readline():
        event = json.loads(line)
        if event.get("event") == "progress" and event["step"]:
            break
    process.kill()
    await process.communicate()
    assert files_in(out) == []
    listed = await command(lane, "jobs", "list", "--json", "--offline", cwd=tmp_path)
    (entry,) = map(json.loads, listed.stdout.splitlines())
    assert entry["state"] == "running"
    ended = await command(lane, "jobs", "resume", entry["job_id"], cwd=tmp_path)
    assert ended.status == 0, ended
    assert len(files_in(out)) == 1
    assert lane.engine.runs(mark) == 1
    again = await command(lane, "jobs", "resume", entry["job_id"], cwd=tmp_path)
    assert again.status == 0
    assert len(files_in(out)) == 1, "what is here is not fetched twice"


async def test_the_command_is_cancelled_elsewhere(lane: Lane, tmp_path: Path, out: Path) -> None:
    mark = new_mark()
    (tmp_path / "workflow.json").write_text(json.dumps(slow_picture(mark, steps=300)))
    process = await start_command(
        lane, "run", "workflow.json", "--on", lane.address, "-o", out, cwd=tmp_path
    )
    await until(lambda: lane.engine.runs(mark) == 1)
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        await until(lambda: record.newest()[0].ref is not None)
        entry = record.newest()[0]
    ended = await command(lane, "jobs", "cancel", entry.id, cwd=tmp_path)
    assert ended.status == 0, ended
    _, words = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    assert b"Traceback" not in words
    assert files_in(out) == []
    assert lane.engine.busy() == 0


# The key


async def test_the_key_is_nowhere(
    sandbox_url: str,
    tmp_path: Path,
    out: Path,
    home: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A run with a planted key, through success and every kind of error; then look for it."""
    caplog.set_level(logging.DEBUG)
    monitored: list[str] = []
    engine = Engine.named("sandbox")
    async with gateway_lane(await engine.ready(), engine=engine) as lane:
        prompts = {
            "good": {**picture("good"), "9": file("good", 11_000_000)["1"]},
            "slow": slow_picture("slow", steps=15),
            "fails": failing("fails", "error"),
            "memory": failing("memory", "out_of_memory"),
            "unknown": {"1": {"class_type": "Nope", "inputs": {}}},
        }
        faults: list[tuple[str, Fault]] = [
            ("good", Answer(401, b"wrong key")),
            ("good", Answer(500, b"sent: Bearer " + TOKEN.encode())),
            ("good", Answer(404, TOKEN.encode())),
            ("good", Answer(200, b"not JSON but " + TOKEN.encode())),
            ("good", Answer(302, headers={"Location": f"https://x.test/?key={TOKEN}"})),
            ("good", Drop()),
        ]
        for name, prompt in prompts.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(prompt))

        async def run(name: str, number: int) -> int:
            flags = ["--timeout", "1"] if name == "slow" else []
            flags += ["--json"] if number % 2 else []
            ended = await command(
                *(lane, "--verbose", "run", f"{name}.json", "--on", lane.address),
                *("-o", out / str(number), *flags),
                cwd=tmp_path,
            )
            monitored.extend([ended.stdout, ended.stderr])
            return ended.status

        statuses = await asyncio.gather(*(run(name, n) for n, name in enumerate(prompts)))
        assert statuses == [0, 6, 5, 5, 4]
        for number, (name, fault) in enumerate(faults, start=len(prompts)):
            lane.proxy.heal()
            lane.proxy.plan(lane.submit, fault, times=None)
            lane.proxy.plan("/health", Answer(404), times=None)
            assert await run(name, number) == 3
        lane.proxy.heal()
        for arguments in (["jobs", "list"], ["jobs", "list", "--json"]):
            monitored.append((await command(lane, *arguments, cwd=tmp_path)).stdout)
        with Record(home) as record:
            entries = record.newest()
        for entry in entries[::3]:
            for what in ("show", "resume"):
                ended = await command(lane, "jobs", what, entry.id, cwd=tmp_path)
                monitored += [ended.stdout, ended.stderr]
        if sys.platform.startswith("linux"):
            monitored.append(Path(f"/proc/{engine.pid}/environ").read_text())
            monitored.append(Path(f"/proc/{engine.pid}/cmdline").read_text())
        with urllib.request.urlopen(f"{lane.engine.url}/history") as history:
            monitored.append(history.read().decode())
        sent = [seen for seen in lane.proxy.seen if TOKEN in str(seen.headers)]
        assert sent, "the key was used"
        for seen in lane.proxy.seen:
            others = {k: v for k, v in seen.headers.items() if k != "Authorization"}
            monitored += [seen.path, str(others), seen.sent.decode("latin-1")]
            if seen.answer_headers:  # the gateway's answer, not one of our faults
                monitored += [str(seen.answer_headers), seen.got.decode("latin-1")]
    monitored += [caplog.text]
    for path in (p for p in tmp_path.rglob("*") if p.is_file()):
        monitored += [str(path), path.read_bytes().decode("latin-1")]
    assert any("good" in name for name in files_in(out)), "there were outputs to look into"
    in_base64 = base64.b64encode(TOKEN.encode()).decode()[:-2]
    for text in monitored:
        assert TOKEN not in text, text[max(0, text.find(TOKEN) - 200) :][:400]
        assert in_base64 not in text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
async def test_the_sandbox_of_a_client_has_no_key(tmp_path: Path) -> None:
    """It may outlive the client, with the client's environment."""
    (tmp_path / "workflow.json").write_text(json.dumps(slow_picture("here", steps=300)))
    process = await start_command(
        None, "run", "workflow.json", "--on", "sandbox", "--json", cwd=tmp_path
    )
    assert process.stdout is not None
    while line := await process.stdout.readline():
        if json.loads(line).get("event") == "started":
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    environments = [Path(f"/proc/{child}/environ").read_text() for child in children]
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert environments
    for environment in environments:
        assert "PATH=" in environment
        assert TOKEN not in environment


# The real SDK's worker


async def test_the_sdks_worker(sandbox_url: str, out: Path) -> None:
    """No answer vanishes; killed in mid-job, its job fails and the next one runs."""
    pytest.importorskip("runpod")
    large, lost, killed = new_mark(), new_mark(), new_mark()
    async with gateway_lane(sandbox_url, sdk=["--engine", sandbox_url]) as lane:
        # A result that RunPod would not take, which the SDK would only log.
        (saved,) = await fetch(lane.target(), file(large, 15_000_000), out / "1")
        assert saved.path.read_bytes() == content(15_000_000)
        await refused(OutOfMemory, lane, failing(new_mark(), "out_of_memory"), out / "2")

        lane.proxy.plan(lane.submit, Drop(True))
        lane.proxy.plan(lane.poll, Answer(502, PAGE), times=3)
        saved = await fetch(lane.target(), slow_picture(lost, steps=3), out / "3")
        assert_picture(saved, out / "3")

        (worker,) = _processes_with("comfy_remote.worker.runpod_entry")
        slow = slow_picture(killed, steps=50, pause=0.05)
        job = asyncio.create_task(refused(EngineCrashed, lane, slow, out / "4"))
        await until(lambda: lane.engine.runs(killed) == 1)
        os.kill(worker, signal.SIGKILL)
        error = await job
        assert "not run again" in error.advice
        await until(lambda: lane.engine.busy() == 0)
        assert_picture(await fetch(lane.target(), picture(new_mark()), out / "5"), out / "5")
        assert [lane.engine.runs(mark) for mark in (large, lost, killed)] == [1, 1, 1]


# Helpers


def _plan(lane: Lane, where: str, fault: Fault) -> None:
    """A fault of `BROKEN`, whose places have names."""
    if where == "SUBMIT":
        lane.proxy.plan(lane.submit, fault, times=None)
    elif where == "DAMAGE":
        lane.proxy.plan(lane.poll, Rewrite(_damaged), times=None)
    elif where == "EMPTY":
        change = _without_files if lane.name == "comfyui" else _without_output
        lane.proxy.plan("/history/|/status/", Rewrite(change), times=None)
    else:
        lane.proxy.plan(where, fault, times=None)


def _processes_with(words: str) -> list[int]:
    """Ids of our children that were started with these words (POSIX)."""
    # Without "ww", COLUMNS cuts the lines off, even in a pipe.
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()[1:]]
    return [int(pid) for pid, parent, args in rows if int(parent) == os.getpid() and words in args]


async def _resume_newest(out: Path, contents: list[bytes] | None = None) -> None:
    """Take up the newest job of the record, and check what it brings."""
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        entry = record.newest()[0]
    async with resume(entry.id, timeout=30) as job:
        saved = await job.save_outputs(out)
    if contents is None:
        assert_picture(saved, out)
    else:
        assert [s.path.read_bytes() for s in saved] == contents


def _post_as_worker(lane: Lane, job_id: str, body: Any) -> None:
    assert lane.gateway is not None
    request = urllib.request.Request(
        f"{lane.gateway.worker_endpoint_url}/job-done/local/{job_id}",
        json.dumps(body).encode(),
        {"Authorization": lane.gateway.worker_token.get_secret_value()},
    )
    urllib.request.urlopen(request, timeout=10).close()


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, "PNG")
    return buffer.getvalue()


def _without_output(body: bytes) -> bytes:
    return _with_output(body, None)


def _with_output(body: bytes, output: Any) -> bytes:
    status = json.loads(body)
    if status.get("status") == "COMPLETED":
        status["output"] = output
    return json.dumps(status).encode()


def _without_files(body: bytes) -> bytes:
    history = json.loads(body)
    for entry in history.values():
        entry["outputs"] = {}
    return json.dumps(history).encode()


def _listed(document: Any) -> Iterator[dict[str, Any]]:
    """Every description of a file in a JSON document."""
    if isinstance(document, dict):
        if ("filename" in document and "subfolder" in document) or "sha256" in document:
            yield document
        for value in document.values():
            yield from _listed(value)
    elif isinstance(document, list):
        for value in document:
            yield from _listed(value)


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _damaged(body: bytes) -> bytes:
    status = json.loads(body)
    output = status.get("output")
    for one in output.get("outputs", []) if isinstance(output, dict) else []:
        if "data" in one:
            one["data"] = base64.b64encode(_flipped(base64.b64decode(one["data"]))).decode()
    return json.dumps(status).encode()
