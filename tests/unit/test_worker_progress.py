"""Progress reports: few, in order, and none left under way."""

from __future__ import annotations

import asyncio
import base64
import time

import pytest
from pydantic import JsonValue
from virtual_time import in_virtual_time

from comfy_remote.events import NodeText, Preview, Progress
from comfy_remote.worker.progress import ProgressReporter

Snapshot = dict[str, JsonValue]


class Sink:
    """Keeps what it was sent; counts the reports that have not ended."""

    def __init__(self, delay: float = 0.0) -> None:
        self.got: list[Snapshot] = []
        self.under_way = 0
        self.most_under_way = 0
        self.delay = delay

    async def __call__(self, snapshot: Snapshot) -> None:
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            await asyncio.sleep(self.delay)
            self.got.append(snapshot)
        finally:
            self.under_way -= 1


@in_virtual_time
async def test_the_newest_wins_and_the_last_one_lands() -> None:
    sink = Sink()
    began = time.monotonic()
    async with ProgressReporter(sink, interval=0.05) as reporter:
        for done in range(100):
            reporter.progress(Progress(nodes_done=done, nodes_total=100))
            await asyncio.sleep(0.002)
    # One each interval, the first at once and the last at the end.
    assert 2 <= len(sink.got) <= (time.monotonic() - began) / 0.05 + 2
    assert [s["sequence"] for s in sink.got] == list(range(1, len(sink.got) + 1))
    assert sink.got[-1]["nodes_done"] == 99
    done = [s["nodes_done"] for s in sink.got]
    assert done == sorted(done, key=lambda n: int(str(n)))


@in_virtual_time
async def test_reports_never_overlap() -> None:
    sink = Sink(delay=0.03)
    async with ProgressReporter(sink, interval=0.0) as reporter:
        for done in range(20):
            reporter.progress(Progress(nodes_done=done, nodes_total=20))
            await asyncio.sleep(0.005)
    assert sink.most_under_way == 1
    assert sink.under_way == 0
    assert sink.got[-1]["nodes_done"] == 19


@in_virtual_time
async def test_texts_of_nodes_are_sent_the_newest_of_each_within_bounds() -> None:
    sink = Sink()
    async with ProgressReporter(sink, interval=0.01) as reporter:
        reporter.text(NodeText("1", "first"))
        await asyncio.sleep(0.03)
        assert sink.got[-1]["texts"] == {"1": "first"}
        reporter.text(NodeText("1", "x" * 10_000))
        for number in range(2, 100):
            reporter.text(NodeText(str(number), "t"))
    texts = sink.got[-1]["texts"]
    assert isinstance(texts, dict)
    assert list(texts) == [str(number) for number in range(50, 100)]
    assert len(sink.got) <= 4


@in_virtual_time
async def test_nothing_new_is_nothing_sent() -> None:
    sink = Sink()
    async with ProgressReporter(sink, interval=0.01) as reporter:
        for _ in range(5):
            reporter.progress(Progress(nodes_done=1, nodes_total=2))
            await asyncio.sleep(0.02)
    assert len(sink.got) == 1


@in_virtual_time
async def test_a_report_that_fails_costs_nothing() -> None:
    calls = 0

    async def failing(snapshot: Snapshot) -> None:
        nonlocal calls
        calls += 1
        raise OSError("the queue is gone")

    async with ProgressReporter(failing, interval=0.01) as reporter:
        reporter.progress(Progress(nodes_done=1))
        await asyncio.sleep(0.05)
        reporter.progress(Progress(nodes_done=2))
    assert calls == 2


@in_virtual_time
async def test_a_report_that_hangs_is_given_up() -> None:
    sink = Sink(delay=60.0)
    async with ProgressReporter(sink, interval=0.01, patience=0.1) as reporter:
        reporter.progress(Progress(nodes_done=1))
    assert sink.under_way == 0
    assert sink.got == []


@in_virtual_time
async def test_a_stopped_job_says_nothing_more() -> None:
    sink = Sink(delay=0.05)

    async def job() -> None:
        async with ProgressReporter(sink, interval=0.01) as reporter:
            reporter.progress(Progress(nodes_done=1))
            await asyncio.sleep(60)

    task = asyncio.create_task(job())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sink.under_way == 0
    assert sink.got == []


@in_virtual_time
async def test_previews_only_when_asked_for() -> None:
    sink = Sink()
    async with ProgressReporter(sink, previews=False, interval=0.01) as reporter:
        reporter.preview(Preview("3", "image/jpeg", b"x"))
    assert sink.got == []


@in_virtual_time
async def test_previews_are_few_small_and_whole() -> None:
    sink = Sink()
    async with ProgressReporter(
        sink, previews=True, interval=0.01, preview_interval=0.2
    ) as reporter:
        for number in range(30):
            reporter.preview(Preview("3", "image/jpeg", bytes([number])))
            reporter.progress(Progress(nodes_done=number, nodes_total=30))
            await asyncio.sleep(0.01)
        reporter.preview(Preview("3", "image/jpeg", b"x" * (64 * 1024 + 1)))
    previews = [s["preview"] for s in sink.got if "preview" in s]
    assert 1 <= len(previews) <= 4
    for preview in previews:
        assert isinstance(preview, dict)
        assert preview["media_type"] == "image/jpeg"
        assert len(base64.b64decode(str(preview["data"]))) == 1
