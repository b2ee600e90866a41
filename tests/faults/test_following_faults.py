"""Faults while a job runs: questions, sockets and progress."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers import until
from lanes import (
    PAGE,
    Lane,
    assert_picture,
    fetch,
    gateway_lane,
    new_mark,
    out_of_time,
    picture,
    post_as_worker,
    refused,
    resume_newest,
    slow_picture,
)
from proxy import Answer, Cut, Delay, Drop, Fault, NotHttp, Rewrite, Stall, name_of

from comfy_remote import Client, Record
from comfy_remote.errors import (
    AuthenticationError,
    JobExpired,
    TargetUnreachable,
)
from comfy_remote.events import Event, JobState, Log, Progress, Started

pytestmark = pytest.mark.usefixtures("home")


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
    assert "resume" in error.advice.lower()
    lane.proxy.heal()
    await resume_newest(out)
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
    await resume_newest(out)
    assert lane.engine.runs(mark) == 1


async def test_the_key_is_withdrawn(lane: Lane, out: Path) -> None:
    mark = new_mark()
    lane.proxy.plan(f"/ws|{lane.poll}", Answer(401), times=None)
    await refused(AuthenticationError, lane, slow_picture(mark, steps=3), out)
    lane.proxy.heal()
    await resume_newest(out)
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
    def longer(mark: str, seconds: float) -> dict[str, Any]:
        return slow_picture(mark, steps=int(25 * seconds))

    error, mark = await out_of_time("not cancelled", lane, longer, out)
    assert "Resume job" in error.advice and "cancel" in error.advice
    assert error.details["job_id"] in error.advice
    await resume_newest(out)
    assert lane.engine.runs(mark) == 1


@pytest.mark.parametrize("fault", [Stall(), Delay(30)], ids=name_of)
async def test_answers_never_come(lane: Lane, out: Path, fault: Fault) -> None:
    lane.proxy.plan("/ws", Answer(404), times=None)
    lane.proxy.plan(lane.poll, fault, times=None)
    _, mark = await out_of_time("not cancelled", lane, lambda mark, _: picture(mark), out)
    lane.proxy.heal()
    await resume_newest(out)
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
            job = await client.submit(picture(new_mark()), timeout=120)
            assert (await job.wait()).state is JobState.SUCCEEDED
            late = {"status": "IN_PROGRESS", "output": {"sequence": 99}}
            await asyncio.to_thread(post_as_worker, lane, job.ref.remote_id, late)
        await resume_newest(out)
