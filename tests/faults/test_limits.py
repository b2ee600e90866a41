"""What would go on for ever ends: by a deadline, by a floor of throughput, by the disk's room.

Each in the command's or the library's own way through a target, and what had arrived is not lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from lanes import (
    TOKEN,
    Lane,
    assert_picture,
    comfyui_lane,
    command,
    fetch,
    file,
    files_in,
    gateway_lane,
    new_mark,
    out_of_time,
    picture,
    slow_picture,
)
from proxy import Drip, Fault, Stall, name_of

from comfy_remote import Record, resume
from comfy_remote.errors import (
    JobTimedOut,
    LocalStorageError,
    OutputTooLarge,
    SubmissionUnknown,
    TargetUnreachable,
)
from comfy_remote.events import JobState
from comfy_remote.jobs.doctor import TimeLimits, examine
from comfy_remote.media import disk_space
from comfy_remote.net.http import HttpClient, HttpLimits
from comfy_remote.net.retry import Backoff
from comfy_remote.net.throughput import Throughput

SECONDS = 1.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of its own, and the gateway's key in the environment."""
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNPOD_API_KEY", TOKEN)
    monkeypatch.delenv("RUNPOD_ENDPOINT_BASE_URL", raising=False)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "here" / "out"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(params=["comfyui", "gateway"])
async def lane(request: pytest.FixtureRequest, sandbox_url: str) -> AsyncIterator[Lane]:
    opened = comfyui_lane if request.param == "comfyui" else gateway_lane
    async with opened(sandbox_url) as made:
        yield made


@pytest.fixture
async def comfyui(sandbox_url: str) -> AsyncIterator[Lane]:
    async with comfyui_lane(sandbox_url) as made:
        yield made


def _newest() -> JobState:
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        return record.newest(1)[0].state


# One deadline


@pytest.mark.parametrize("fault", [Stall(), Drip()], ids=name_of)
@pytest.mark.parametrize("phase", ["submit", "poll"])
async def test_a_deadline_in_the_submission_and_while_it_runs(
    lane: Lane, out: Path, phase: str, fault: Fault
) -> None:
    lane.proxy.plan(getattr(lane, phase), fault, times=None)
    began = time.monotonic()
    with pytest.raises(JobTimedOut) as caught:
        await fetch(lane.target(), picture(new_mark()), out, timeout=SECONDS)
    assert time.monotonic() - began < SECONDS + 60
    assert "Resume job" in caught.value.advice
    assert f"{SECONDS:g} s" in caught.value.message
    assert files_in(out) == []


async def test_a_deadline_in_the_queue(lane: Lane, out: Path) -> None:
    await out_of_time("not cancelled", lane, lambda mark, _: slow_picture(mark, steps=600), out)
    lane.engine._post("queue", {"clear": True})
    lane.engine.interrupt()


async def test_a_deadline_while_outputs_arrive(comfyui: Lane, out: Path) -> None:
    comfyui.proxy.plan("/view", Drip(), times=1)
    error, _ = await out_of_time(
        "outputs did not arrive", comfyui, lambda mark, _: picture(mark), out
    )
    assert _newest() is JobState.SUCCEEDED
    async with resume(str(error.details["job_id"]), timeout=120) as job:
        assert_picture(await job.save_outputs(out), out)


async def test_the_command_s_timeout_covers_the_download(comfyui: Lane, out: Path) -> None:
    comfyui.proxy.plan("/view", Drip(every=0.5), times=None)
    workflow = out.parent / "w.json"
    workflow.write_text(json.dumps(picture(new_mark())))
    arguments = ("run", workflow, "--on", comfyui.address, "-o", out, "--json")
    ended = await command(comfyui, *arguments, "--timeout", 3, cwd=out.parent)
    assert ended.status == 6, ended.stderr
    assert ended.result["code"] == "timed_out"
    assert "jobs resume" in ended.result["resume"]


# A floor of throughput


async def test_a_dripping_download_ends_without_a_timeout(comfyui: Lane, out: Path) -> None:
    floor = HttpLimits(throughput=Throughput(size=1000, seconds=0.4))
    comfyui.proxy.plan("/view", Drip(every=0.05), times=None)
    with pytest.raises(TargetUnreachable, match="too slow"):
        await fetch(comfyui.target(requests=floor), picture(new_mark()), out)
    assert comfyui.proxy.count("/view") == 2


async def test_a_dripping_answer_ends_without_a_timeout(comfyui: Lane, out: Path) -> None:
    floor = HttpLimits(throughput=Throughput(size=1000, seconds=0.2))
    comfyui.proxy.plan(comfyui.poll, Drip(every=0.05), times=None)
    with pytest.raises(TargetUnreachable):
        await fetch(comfyui.target(patience=0.5, requests=floor), picture(new_mark()), out)


async def test_a_peer_that_does_not_read_ends_the_upload(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        async with HttpClient(
            url, name="mute", limits=HttpLimits(patience=0.5, slowest_upload=32 << 20)
        ) as client:
            with pytest.raises(SubmissionUnknown, match="not answer in time"):
                await client.submit("run", bytes(16 << 20))
    assert time.monotonic() - began < 60


async def test_headers_that_drip_are_given_up() -> None:
    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    try:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        began = time.monotonic()
        async with HttpClient(
            url, name="drip", limits=HttpLimits(patience=0.5, backoff=Backoff(attempts=1))
        ) as client:
            with pytest.raises(TargetUnreachable, match="not answer in time"):
                await client.get("queue")
            with pytest.raises(TargetUnreachable, match="not answer in time"):
                _ = [chunk async for chunk in client.stream("view")]
        assert time.monotonic() - began < 60
    finally:
        server.close()


# The disk


async def test_an_endless_output_ends_at_the_size_limit(
    comfyui: Lane, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_OUTPUT_SIZE_LIMIT", "5MB")
    comfyui.proxy.plan("/view", Drip(1 << 20, 0.0, endless=True), times=None)
    with pytest.raises(OutputTooLarge, match=r"more than 5\.0 MB") as caught:
        await fetch(comfyui.target(), picture(new_mark()), out)
    assert "COMFY_REMOTE_OUTPUT_SIZE_LIMIT" in caught.value.advice
    assert files_in(out) == []


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_reserve_of_the_disk_stays_free(
    comfyui: Lane, out: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    enough, left = 2**40, 3

    def usage(path: Path) -> SimpleNamespace:
        nonlocal left
        left -= 1
        return SimpleNamespace(free=enough if when == "meanwhile" and left > 0 else 2**20)

    monkeypatch.setattr(disk_space, "shutil", SimpleNamespace(disk_usage=usage))
    prompt = file(new_mark(), 64 << 20)
    with pytest.raises(LocalStorageError, match="reserved") as caught:
        await fetch(comfyui.target(), prompt, out)
    assert "resume the job" in caught.value.advice
    assert "COMFY_REMOTE_FREE_SPACE" in caught.value.advice
    assert files_in(out) == []
    monkeypatch.setattr(disk_space, "shutil", shutil)
    job_id = _newest_id()
    async with resume(job_id, timeout=120) as job:
        [saved] = await job.save_outputs(out)
    assert saved.size == 64 << 20


def _newest_id() -> str:
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        return record.newest(1)[0].id


# The doctor


@pytest.mark.parametrize("path", ["/queue", "/system_stats", "/object_info"])
async def test_the_doctor_ends(comfyui: Lane, out: Path, path: str) -> None:
    comfyui.proxy.plan(path, Stall(), times=None)
    workflow = out / "w.json"
    workflow.write_text(json.dumps(picture(new_mark())))
    began = time.monotonic()
    limits = TimeLimits(whole=6.0, each=1.5, workflow=1.5)
    found = [one async for one in examine(comfyui.address, workflow, limits=limits)]
    assert time.monotonic() - began < 60
    given_up = [one for one in found if "was stopped" in one.message]
    stuck = {
        "/queue": {"connection"},
        "/system_stats": {"comfyui", "workflow"},
        "/object_info": {"workflow"},
    }
    assert {one.check for one in given_up} == stuck[path]
    assert all(one.exit_status == 3 and one.advice for one in given_up)
    # The others were looked at meanwhile.
    assert path == "/queue" or "socket" in {one.check for one in found}
