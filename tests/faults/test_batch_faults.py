"""What can go wrong in the middle of a batch: each run is right, and none runs twice.

Runs are counted on the engine, not in the record.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest
from lanes import EngineCounter, Lane, new_mark, picture
from PIL import Image
from proxy import Answer, Cut, Delay, Drop, NotHttp, Shorten

from comfy_remote import Client, Record
from comfy_remote.batch.draft import BatchOptions, draft
from comfy_remote.batch.driver import DriverTimes
from comfy_remote.batch.events import RunEnded
from comfy_remote.batch.frozen import batch_folder
from comfy_remote.batch.manifest import MANIFEST, read_manifest
from comfy_remote.batch.plan import Variation
from comfy_remote.batch.store import driving, is_driven, make
from comfy_remote.jobs.record import BatchEntry, BatchState
from comfy_remote.targets.launch import PACKAGE_PARENT, own_program

COUNT = 50
TIMES = DriverTimes(wanted=0.2, health=0.5, full=0.1, gone=0.1, longest=0.5, patience=30.0)


@pytest.fixture
def here(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; the record is apart from it."""
    del home
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def colour_of(row: int) -> int:
    return 5 + row * 4


async def made(
    client: Client, mark: str, target: str | None = None, count: int = COUNT
) -> BatchEntry:
    """A batch of pictures, each of its own colour."""
    rows = [
        {"1.color": colour_of(row) * 0x10101, "2.filename_prefix": f"{mark}-{row:02}"}
        for row in range(count)
    ]
    drafted = await draft(
        client,
        picture(mark),
        Variation(rows=rows),
        target=target,
        options=BatchOptions(name=mark, at_most=4),
    )
    return await make(drafted, client)


def assert_all_right(entry: BatchEntry, engine: EngineCounter, mark: str) -> None:
    """Every run once, its picture here and right, one line each."""
    texts = (entry.folder / MANIFEST).read_text(encoding="utf-8").splitlines()
    assert len(texts) == entry.count
    lines = read_manifest(entry.folder / MANIFEST)
    wrong = {row: line.error for row, line in lines.items() if line.state != "succeeded"}
    assert not wrong
    for row, line in lines.items():
        [made_one] = line.outputs
        with Image.open(entry.folder / made_one["file"]) as image:
            assert image.convert("RGB").getpixel((0, 0)) == (colour_of(row),) * 3
        assert engine.runs(f"{mark}-{row:02}") == 1
    assert len([*entry.folder.glob("0*/**/*.png")]) == entry.count


async def test_every_fault_in_the_middle_of_a_batch(lane: Lane, here: Path) -> None:
    """One after the other, while it runs; then its way to the target is as it was."""
    mark = new_mark()
    output = r"/view\?" if lane.name == "comfyui" else "/files/|/job-output/"
    html = Answer(502, b"<!DOCTYPE html><title>502</title>", {"Content-Type": "text/html"})
    faults = [
        (lane.submit, Drop(forwarded=True), 1),  # its answer is lost
        (lane.submit, Drop(), 1),
        (lane.submit, Answer(429, b"{}", {"Retry-After": "0"}), 2),
        (lane.submit, Delay(0.3), 2),
        (lane.poll, Answer(503), 4),
        (lane.poll, Drop(), 3),
        (lane.poll, NotHttp(), 2),
        (lane.poll, html, 3),
        (output, Cut(20), 2),
        (output, Shorten(20), 1),
        (output, Answer(500), 2),
    ]
    ended = 0
    with Record() as record:
        async with Client(lane.target(), record=record, on_interrupt=None) as client:
            entry = await made(client, mark)
            async with driving(entry, record, client=client, times=TIMES) as driver:
                async for event in driver:
                    if isinstance(event, RunEnded):
                        ended += 1
                        if ended % 4 == 0 and faults:
                            path, fault, times = faults.pop(0)
                            lane.proxy.plan(path, fault, times=times)
                            lane.proxy.drop_sockets()
            assert record.batches.get(entry.id).state is BatchState.ENDED
    assert not faults
    assert_all_right(entry, lane.engine, mark)


async def test_a_target_that_is_gone_for_a_while(comfyui: Lane, here: Path) -> None:
    lane, mark = comfyui, new_mark()
    away: asyncio.Task[None] | None = None

    async def go_away() -> None:
        async with lane.proxy.gone():
            await asyncio.sleep(1.5)

    with Record() as record:
        async with Client(lane.target(patience=0.5), record=record, on_interrupt=None) as client:
            entry = await made(client, mark, count=20)
            async with driving(entry, record, client=client, times=TIMES) as driver:
                async for event in driver:
                    if isinstance(event, RunEnded) and event.line.row == 10:
                        away = asyncio.create_task(go_away())
            assert record.batches.get(entry.id).state is BatchState.ENDED
    assert away is not None
    await away
    assert_all_right(entry, lane.engine, mark)


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
async def test_a_driver_that_is_killed_again_and_again(comfyui: Lane, here: Path) -> None:
    """The process that `batch --no-wait` starts, killed at any moment."""
    mark, draws = new_mark(), random.Random(7)
    with Record() as record:
        async with Client(comfyui.address, record=record, on_interrupt=None) as client:
            entry = await made(client, mark, comfyui.address, 24)
        home = record.path.parent

        async def count_of_lines() -> int:
            return len(await asyncio.to_thread(read_manifest, entry.folder / MANIFEST))

        kills = 0
        while record.batches.get(entry.id).state is not BatchState.ENDED:
            process = subprocess.Popen(
                [sys.executable, *own_program("batch"), str(home), entry.id], cwd=PACKAGE_PARENT
            )
            try:
                before = await count_of_lines()
                wanted = before + draws.randint(1, 4) if kills < 5 else COUNT
                while process.poll() is None and await count_of_lines() < wanted:
                    await asyncio.sleep(draws.uniform(0.001, 0.02))
            finally:
                kills += process.poll() is None
                process.kill()
                process.wait()
            assert not is_driven(home, entry.id), "a driver whose process is gone holds no lease"
    assert kills >= 4
    assert_all_right(entry, comfyui.engine, mark)
    assert batch_folder(home, entry.id).is_dir()
