"""What the listeners of a job are sent, and that one who is slow holds up nobody."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator
from datetime import datetime, timezone
from typing import Any

import pytest
from helpers import until
from PIL import Image

from comfy_remote.api.live import KEEP_ALIVE, LiveJob, LiveLimits
from comfy_remote.events import (
    Event,
    Finished,
    JobState,
    NodeText,
    Phase,
    Preview,
    Progress,
    Queued,
    Started,
)
from comfy_remote.wire.comfy_api import ApiOutput, ApiStatus, OutputType

AT_ONCE = LiveLimits(every=0.0)
SELDOM = LiveLimits(every=3600.0)
PATIENCE = 30.0


def picture(kind: str, size: tuple[int, int] = (64, 32)) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(written, kind)
    return written.getvalue()


def output(number: int) -> ApiOutput:
    return ApiOutput(
        node_id="9",
        name=f"{number}.png",
        type=OutputType.IMAGE,
        content_type="image/png",
        size_bytes=3,
        id=f"asset-{number}",
        hash=None,
        url=f"/api/v2/assets/asset-{number}/content",
        url_expires_at=datetime(2026, 12, 1, tzinfo=timezone.utc),
    )


def decoded(frame: bytes) -> tuple[str, dict[str, Any]]:
    """The event and the data of a frame."""
    assert frame.endswith(b"\n\n")
    first, second = frame.decode().strip().split("\n")
    return first.removeprefix("event: "), json.loads(second.removeprefix("data: "))


async def upcoming(frames: AsyncGenerator[bytes, None]) -> tuple[str, dict[str, Any]]:
    return decoded(await asyncio.wait_for(frames.__anext__(), PATIENCE))


async def rest(frames: AsyncGenerator[bytes, None]) -> list[tuple[str, dict[str, Any]]]:
    return [decoded(frame) async for frame in frames]


def listening(job: LiveJob) -> asyncio.Task[list[tuple[str, dict[str, Any]]]]:
    return asyncio.ensure_future(rest(job.frames()))


async def test_a_job_from_the_queue_to_its_end() -> None:
    job = LiveJob(limits=AT_ONCE)
    frames = job.frames()
    assert await upcoming(frames) == ("status", {"status": "queued", "queue_position": None})
    job.note(Queued(2))
    assert await upcoming(frames) == ("status", {"status": "queued", "queue_position": 2})
    job.note(Started())
    assert await upcoming(frames) == ("status", {"status": "running", "queue_position": None})
    job.note(Progress(11, 31, "12", "KSampler", 21.0, 50.0))
    event, progress = await upcoming(frames)
    assert event == "progress"
    assert progress == {
        "value": pytest.approx(11.42 / 31),
        "nodes_done": 11,
        "nodes_total": 31,
        "current_node": "12",
        "current_node_class": "KSampler",
        "step": 21,
        "steps": 50,
        "message": "KSampler 21/50",
    }
    job.note(Preview("12", "image/jpeg", b"a jpeg"))
    event, preview = await upcoming(frames)
    assert (event, preview["node_id"], preview["content_type"]) == ("preview", "12", "image/jpeg")
    assert base64.b64decode(preview["data_base64"]) == b"a jpeg"
    job.output(output(1))
    job.output(output(1))  # said once
    event, made = await upcoming(frames)
    assert (event, made["id"], made["name"]) == ("output", "asset-1", "1.png")
    job.note(Finished(JobState.SUCCEEDED))
    event, progress = await upcoming(frames)
    assert (event, progress["value"], progress["nodes_done"]) == ("progress", 1.0, 31)
    job.end(ApiStatus.SUCCEEDED)
    job.end(ApiStatus.FAILED)  # the first one counts
    assert await rest(frames) == [("status", {"status": "succeeded", "queue_position": None})]
    assert job.listeners == 0


async def test_who_comes_late_gets_what_there_is() -> None:
    job = LiveJob(limits=AT_ONCE)
    for event in (Started(), Progress(1, 2), Preview("3", "image/jpeg", b"old")):
        job.note(event)
    job.note(Preview("3", "image/jpeg", b"new"))
    job.output(output(1))
    frames = job.frames()
    got = [await upcoming(frames) for _ in range(4)]
    assert [event for event, _ in got] == ["status", "progress", "output", "preview"]
    assert got[0][1]["status"] == "running"
    assert base64.b64decode(got[3][1]["data_base64"]) == b"new"
    await frames.aclose()
    assert job.listeners == 0


async def test_a_job_that_has_ended_gives_its_outputs_and_then_its_state() -> None:
    job = LiveJob(ApiStatus.SUCCEEDED, outputs=[output(1), output(2)])
    got = await rest(job.frames())
    assert [event for event, _ in got] == ["output", "output", "status"]
    assert got[-1][1]["status"] == "succeeded"


async def test_fifty_listeners_get_every_state_and_every_output() -> None:
    job = LiveJob(limits=AT_ONCE)
    listeners = [listening(job) for _ in range(50)]
    await until(lambda: job.listeners == 50)
    job.note(Started())
    for number in range(20):
        job.note(Progress(number, 20))
        job.output(output(number))
        await asyncio.sleep(0)
    job.end(ApiStatus.SUCCEEDED)
    for got in await asyncio.wait_for(asyncio.gather(*listeners), PATIENCE):
        states = [data["status"] for event, data in got if event == "status"]
        assert states == ["queued", "running", "succeeded"]
        assert [data["id"] for event, data in got if event == "output"] == [
            f"asset-{number}" for number in range(20)
        ]
        assert got[-1][0] == "status"


async def test_progress_is_limited_and_its_newest_is_never_lost() -> None:
    job = LiveJob(limits=SELDOM)
    listener = listening(job)
    await until(lambda: job.listeners)
    job.note(Started())
    for number in range(100):
        job.note(Progress(number, 100))
        await asyncio.sleep(0)
    assert job.snapshot().progress is not None
    job.end(ApiStatus.SUCCEEDED)
    got = await asyncio.wait_for(listener, PATIENCE)
    done = [data["nodes_done"] for event, data in got if event == "progress"]
    assert done == [0, 99]
    assert got[-1][1]["status"] == "succeeded"


async def test_a_slow_listener_is_owed_the_newest_and_holds_up_nobody() -> None:
    job = LiveJob(limits=AT_ONCE)
    slow, quick = job.frames(), job.frames()
    assert (await upcoming(slow))[0] == (await upcoming(quick))[0] == "status"
    job.note(Started())
    assert (await upcoming(quick))[1]["status"] == "running"
    for number in range(100):
        job.note(Progress(number, 100))
        assert (await upcoming(quick))[1]["nodes_done"] == number
    job.end(ApiStatus.FAILED)
    assert [data.get("status") for _, data in await rest(quick)] == ["failed"]
    got = await rest(slow)
    assert [event for event, _ in got] == ["status", "progress", "status"]
    assert got[1][1]["nodes_done"] == 99


async def test_a_listener_that_is_owed_too_much_is_dropped() -> None:
    job = LiveJob(limits=LiveLimits(every=0.0, listener_bytes=10_000))
    slow, quick = job.frames(), job.frames()
    await upcoming(slow)
    await upcoming(quick)
    for number in range(100):
        job.output(output(number))
        await upcoming(quick)
    assert await rest(slow) == []  # without a final state: it asks, and comes again
    assert job.listeners == 1
    job.end(ApiStatus.SUCCEEDED)
    assert (await rest(quick))[-1][1]["status"] == "succeeded"


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
async def test_every_preview_is_a_jpeg(kind: str) -> None:
    job = LiveJob(limits=AT_ONCE)
    frames = job.frames()
    await upcoming(frames)
    job.note(Preview("3", f"image/{kind.lower()}", picture(kind, (2048, 1024))))
    event, preview = await upcoming(frames)
    assert (event, preview["content_type"]) == ("preview", "image/jpeg")
    shown = Image.open(io.BytesIO(base64.b64decode(preview["data_base64"])))
    assert (shown.format, shown.size) == ("JPEG", (1024, 512))
    await job.close()


async def test_a_preview_that_came_before_anybody_listened_is_converted_then() -> None:
    job = LiveJob(limits=SELDOM)
    job.note(Preview("3", "image/png", picture("PNG")))
    assert job.snapshot().preview is None  # nothing is converted for nobody
    frames = job.frames()
    assert (await upcoming(frames))[0] == "status"
    assert (await upcoming(frames))[0] == "preview"
    await job.close()
    assert await rest(frames) == []


async def test_a_preview_that_cannot_be_decoded_is_left_out() -> None:
    job = LiveJob(limits=AT_ONCE)
    frames = job.frames()
    await upcoming(frames)
    job.note(Preview("3", "image/png", b"no picture"))
    job.note(Preview("3", "image/png", picture("PNG")))
    assert (await upcoming(frames))[0] == "preview"
    await job.close()


async def test_what_is_cancelled_does_not_run_again() -> None:
    job = LiveJob(ApiStatus.RUNNING, limits=AT_ONCE)
    job.change(ApiStatus.CANCELING)
    job.note(Progress(1, 2))
    job.note(Queued(1))
    assert job.snapshot().status.status is ApiStatus.CANCELING
    job.end(ApiStatus.CANCELED)
    assert job.snapshot().status.status is ApiStatus.CANCELED


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Phase("loading"), "Loading models"),
        (Phase("computing"), None),
        (NodeText("3", "Downloading\n40 %"), "Downloading 40 %"),
        (Progress(1, 2, message="loading model"), "loading model"),
        (Progress(1, 2, node_class="KSampler", estimated=True), "KSampler (estimated)"),
        (Progress(1, 2, estimated=True), "Estimated"),
    ],
)
async def test_what_a_job_waits_for_is_the_message(event: Event, message: str | None) -> None:
    job = LiveJob(limits=AT_ONCE)
    job.note(Progress(0, 2))
    job.note(event)
    progress = job.snapshot().progress
    assert progress is not None
    assert progress.message == message


async def test_a_quiet_job_keeps_its_listeners_alive() -> None:
    job = LiveJob(limits=LiveLimits(keep_alive=0.001))
    frames = job.frames()
    await upcoming(frames)
    assert await asyncio.wait_for(frames.__anext__(), PATIENCE) == KEEP_ALIVE
    await frames.aclose()


async def test_a_server_that_stops_ends_the_streams_without_a_state() -> None:
    job = LiveJob(limits=AT_ONCE)
    listener = listening(job)
    await until(lambda: job.listeners)
    await job.close()
    assert await asyncio.wait_for(listener, PATIENCE) == [
        ("status", {"status": "queued", "queue_position": None})
    ]
    assert job.snapshot().status.status is ApiStatus.QUEUED
