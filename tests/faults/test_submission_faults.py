"""Faults between the submission and its answer: nothing runs twice."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import until
from lanes import (
    PAGE,
    Lane,
    assert_picture,
    fetch,
    new_mark,
    picture,
    refused,
)
from PIL import Image
from proxy import Answer, Drop, Fault, NotHttp, Stall, name_of

from comfy_remote import Client, Record
from comfy_remote.errors import (
    AuthenticationError,
    JobTimedOut,
    OutputLost,
    RateLimited,
    SubmissionUnknown,
    TargetNotFound,
    TargetUnreachable,
)
from comfy_remote.net.retry import Backoff
from comfy_remote.targets.runpod.target import RunPodTarget

pytestmark = pytest.mark.usefixtures("home")


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
    assert "Give the id" in caught.value.advice
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
        assert "resume" in error.advice.lower()
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
    assert "resume" in error.advice.lower()
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        (entry,) = record.newest()
    async with Client(lane.target()) as client:
        if lane.name == "gateway":
            with pytest.raises(SubmissionUnknown):
                await client.resume(entry)
        elif not forwarded:
            with pytest.raises(OutputLost, match="never received"):
                await client.resume(entry)
        else:
            job = await client.resume(entry)
            assert_picture(await job.save_outputs(out), out)
    assert lane.engine.runs(mark) == forwarded


async def test_everything_stalls(comfyui: Lane, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the questions after a submission that broke: looking for it has an end."""
    comfyui.proxy.plan(comfyui.submit, Drop())
    comfyui.proxy.plan("/queue|/history|/ws", Stall(), times=None)
    error = await refused(SubmissionUnknown, comfyui, picture(new_mark()), out)
    assert "resume" in error.advice.lower()


async def test_nobody_listens(lane: Lane, out: Path) -> None:
    mark = new_mark()
    async with lane.proxy.gone():
        error = await refused(TargetUnreachable, lane, picture(mark), out)
    assert lane.proxy.url in error.message
    assert lane.engine.runs(mark) == 0


async def test_nobody_listens_for_a_moment(
    any_lane: Lane, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backoff, "seconds", lambda *_: 0.5)  # longer than the moment
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
