"""The record of jobs goes wrong, or is shared by many; and clocks jump.

A job whose record fails before it is sent is not sent; one whose record fails later is not lost.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers import until
from lanes import (
    TOKEN,
    Lane,
    assert_picture,
    comfyui_lane,
    command,
    content,
    file,
    files_in,
    gateway_lane,
    new_mark,
    picture,
    slow_picture,
    start_command,
)
from proxy import Delay, Drip, Stall
from record_sql import locked

from comfy_remote import Client, Record, resume
from comfy_remote.errors import JobTimedOut
from comfy_remote.events import JobState, Progress

DATA = Path(__file__).parents[1] / "data" / "record"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="sends signals")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record of its own, and the gateway's key in the environment."""
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNPOD_API_KEY", TOKEN)
    monkeypatch.delenv("RUNPOD_ENDPOINT_BASE_URL", raising=False)
    return tmp_path / "home"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.fixture
async def lane(sandbox_url: str) -> AsyncIterator[Lane]:
    async with comfyui_lane(sandbox_url) as made:
        yield made


@pytest.fixture(params=["comfyui", "gateway"])
async def any_lane(request: pytest.FixtureRequest, sandbox_url: str) -> AsyncIterator[Lane]:
    opened = comfyui_lane if request.param == "comfyui" else gateway_lane
    async with opened(sandbox_url) as made:
        yield made


def _workflow(here: Path, prompt: dict[str, Any]) -> Path:
    path = here / f"{new_mark()}.json"
    path.write_text(json.dumps(prompt))
    return path


# Many at once, and killed


async def test_many_commands_share_one_record(lane: Lane, here: Path, home: Path) -> None:
    marks = [new_mark() for _ in range(6)]
    arguments = [("run", _workflow(here, picture(m)), "--on", lane.address) for m in marks]
    ended = await asyncio.gather(
        *(command(lane, *one, "--json", cwd=here) for one in arguments),
        *(command(lane, "jobs", "list", "--json", cwd=here) for _ in range(2)),
    )
    assert [one.status for one in ended] == [0] * 8, [one.stderr for one in ended]
    assert all(lane.engine.runs(mark) == 1 for mark in marks)
    with Record(home) as record:
        entries = record.newest(20)
    assert [entry.state for entry in entries] == [JobState.SUCCEEDED] * 6
    assert all(len(entry.outputs) == 1 for entry in entries)


_WRITER = """
import itertools, pathlib, sys
from comfy_remote.events import JobState
from comfy_remote.jobs.record import Record
record = Record(pathlib.Path(sys.argv[1]))
print("open", flush=True)
for n in itertools.count():
    name = f"{sys.argv[2]}-{n}"
    prompt = {"1": {"class_type": "A" * 4000, "inputs": {}}}
    record.add(name, target="t", source="s", folder=None, prompt=prompt)
    record.state(name, JobState.RUNNING)
    print(n, flush=True)
"""


def test_a_record_survives_writers_that_are_killed(home: Path) -> None:
    chance, written = random.Random(7), 0
    for attempt in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(home), f"job{attempt}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[2], "the writer ended by itself"
        time.sleep(chance.uniform(0.0, 0.1))
        process.kill()
        lines += process.communicate()[0].splitlines()
        written += len(lines) - 2  # "open", and one that was perhaps cut off
    with sqlite3.connect(home / "jobs.sqlite3") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    with Record(home) as record:
        assert len(record.newest(100_000)) >= written > 0


_OPENER = """
import pathlib, sys
from comfy_remote.jobs.record import Record
print("begins", flush=True)
Record(pathlib.Path(sys.argv[1]))
"""


def test_a_program_that_is_killed_while_it_takes_an_old_record_over_loses_nothing(
    home: Path,
) -> None:
    home.mkdir()
    with sqlite3.connect(home / "jobs.sqlite3") as old:
        old.executescript((DATA / "record_v4.sql").read_text(encoding="utf-8"))
        old.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) "
            "INSERT INTO jobs (id, created, updated, target, source, prompt, state) "
            "SELECT 'many-' || i, i, i, target, source, prompt, state FROM jobs, n "
            "WHERE id = '00000004-0000-4000-8000-000000000000'"
        )
    old.close()
    chance, killed = random.Random(3), 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", _OPENER, str(home)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(chance.uniform(0.0, 0.15))
        process.kill()
        process.communicate()
        killed += process.returncode != 0
    assert killed > 0
    with Record(home) as record:
        entries = record.newest(10_000)
    assert len(entries) == 4008
    assert len({entry.id for entry in entries}) == 4008
    assert all(entry.prompt for entry in entries)


# Broken


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(20_000))


def _holes(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(len(data) - 4096)  # all but the first page
    path.write_bytes(data)


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


@pytest.mark.parametrize("damage", [_truncated, _garbage, _holes, _newer])
async def test_a_broken_record_sends_nothing_and_says_what_to_do(
    lane: Lane, here: Path, home: Path, damage: Any
) -> None:
    path = home / "jobs.sqlite3"
    with Record(home) as record:
        for number in range(40):
            prompt = picture("x" * 2000)
            record.add(f"job-{number}", target="t", source="s", folder=None, prompt=prompt)
    for left in (path.with_name("jobs.sqlite3-wal"), path.with_name("jobs.sqlite3-shm")):
        left.unlink(missing_ok=True)
    damage(path)
    before = path.read_bytes()
    mark = new_mark()
    arguments = ("run", _workflow(here, picture(mark)), "--on", lane.address, "-o", "out")
    ended = await command(lane, *arguments, "--json", cwd=here)
    assert ended.status == 7, ended.stderr
    assert ended.result["code"] == "local_storage"
    assert str(path) in ended.result["message"]
    assert "COMFY_REMOTE_HOME" in ended.result["advice"]
    assert ("Rename it" in ended.result["advice"]) is (damage is not _newer)
    assert lane.engine.runs(mark) == 0
    listed = await command(lane, "jobs", "list", cwd=here)
    assert listed.status == 7
    assert "Traceback" not in ended.stderr + listed.stderr
    if damage is not _holes:  # SQLite may write into a file that it takes for a whole one
        assert path.read_bytes() == before


async def test_a_record_that_breaks_in_mid_job_does_not_lose_the_job(
    any_lane: Lane, here: Path, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client(any_lane.target()) as client:
        job = await client.submit(slow_picture(new_mark(), steps=4), timeout=120)
        with sqlite3.connect(home / "jobs.sqlite3") as database:
            database.execute("DROP TABLE jobs")
        database.close()
        assert_picture(await job.save_outputs(here), here)
    said = [record.message for record in caplog.records if "continues; it cannot" in record.message]
    assert len(said) == 1
    assert job.id in said[0]


async def test_a_record_that_another_program_locks_stalls_no_job(lane: Lane, home: Path) -> None:
    async with Client(lane.target()) as client:
        job = await client.submit(slow_picture(new_mark(), steps=10), timeout=60)
        with locked(home / "jobs.sqlite3"):
            assert (await job.wait()).state is JobState.SUCCEEDED
            outputs = await job.outputs()
    assert [output.image().size for output in outputs] == [(64, 48)]
    with Record(home) as record:
        assert record.get(job.id).state is JobState.SUCCEEDED


# Clocks


@pytest.mark.parametrize("jump", [-86400.0, 86400.0], ids=["back", "forward"])
async def test_the_clock_jumps_in_mid_job(
    any_lane: Lane, here: Path, home: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    real, offset = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    began = time.monotonic()
    async with Client(any_lane.target()) as client:
        job = await client.submit(slow_picture(new_mark(), steps=6), timeout=120)
        async for event in job:
            if isinstance(event, Progress) and event.step:
                offset = jump
        assert_picture(await job.save_outputs(here), here)
    with Record(home) as record:
        entry = record.get(job.id)
    assert entry.state is JobState.SUCCEEDED
    assert entry.run_seconds is not None
    assert 0 < entry.run_seconds < time.monotonic() - began
    # A day's jump is no day's waiting, in either direction.
    prompt = slow_picture(new_mark(), steps=100)
    offset = -jump
    with pytest.raises(JobTimedOut):
        async with Client(any_lane.target()) as client:
            job = await client.submit(prompt, timeout=3.0)
            offset = jump
            await job.wait()
    assert time.monotonic() - began < 180
    async with resume(job.id, timeout=120) as job:
        await job.cancel()
        assert (await job.wait()).state is JobState.CANCELLED


# Throttled lines


async def test_a_throttled_line_is_slow_and_whole(lane: Lane, here: Path) -> None:
    size = 600_000
    lane.proxy.plan("/view", Drip(32_768, 0.05), times=None)
    arguments = ("run", _workflow(here, file("slow", size)), "--on", lane.address, "-o", "out")
    ended = await command(lane, *arguments, cwd=here)
    assert ended.status == 0, ended.stderr
    assert (here / "out" / "slow.bin").read_bytes() == content(size)


# Signals


@POSIX
async def test_a_ctrl_c_while_the_prompt_is_on_its_way_cancels_the_job(
    lane: Lane, here: Path, home: Path
) -> None:
    mark = new_mark()
    lane.proxy.plan(r"^/prompt$", Delay(1.5), times=1)
    prompt = _workflow(here, slow_picture(mark, steps=200))
    process = await start_command(lane, "run", prompt, "--on", lane.address, "--json", cwd=here)
    await lane.proxy.saw(r"^/prompt$")
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 180)
    assert process.returncode == 130, err
    error = json.loads(out.splitlines()[-1])
    assert (error["code"], error["message"]) == ("cancelled", "Stopped. The job was cancelled.")
    assert lane.engine.runs(mark) == 1  # it had arrived
    assert lane.engine.busy() == 0
    with Record(home) as record:
        assert [entry.state for entry in record.newest(5)] == [JobState.CANCELLED]


async def test_a_job_that_was_stopped_while_it_was_recorded_is_not_sent(
    lane: Lane, home: Path
) -> None:
    mark = new_mark()
    async with Client(lane.target()) as client:
        with locked(home / "jobs.sqlite3"):
            submitting = asyncio.ensure_future(client.submit(picture(mark)))
            await until(lambda: client.record.waiting)
            submitting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await submitting
    assert lane.engine.runs(mark) == 0
    with Record(home) as record:
        assert [entry.state for entry in record.newest(5)] == [JobState.CANCELLED]


@POSIX
@pytest.mark.parametrize("phase", ["submitting", "running", "fetching"])
async def test_a_sigterm_in_each_phase(lane: Lane, here: Path, phase: str) -> None:
    mark = new_mark()
    prompt = slow_picture(mark, steps=200) if phase == "running" else picture(mark)
    watched = {"submitting": r"^/prompt$", "running": "/history/", "fetching": "/view"}[phase]
    if phase != "running":
        lane.proxy.plan(watched, Stall() if phase == "submitting" else Drip(), times=1)
    arguments = ("run", _workflow(here, prompt), "--on", lane.address, "-o", "out", "--json")
    process = await start_command(lane, *arguments, cwd=here)
    await lane.proxy.saw(watched)
    await asyncio.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, err = await asyncio.wait_for(process.communicate(), 180)
    assert process.returncode == 130, err
    error = json.loads(out.splitlines()[-1])
    assert (error["event"], error["code"]) == ("error", "cancelled")
    assert files_in(here / "out") == [] or phase == "fetching"
    await until(lambda: lane.engine.busy() == 0)
    if phase == "fetching":
        again = error["resume"].split()[1:]
        resumed = await command(lane, *again, cwd=here)
        assert resumed.status == 0, resumed.stderr
        assert files_in(here / "out") == [f"{mark}_00001_.png"]
