"""The library where it is interrupted, closed or used in ways that a program does by accident."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_target import FakeTarget
from helpers import until
from record_sql import locked

from comfy_remote import Client, SyncClient
from comfy_remote.errors import ComfyRemoteError
from comfy_remote.events import Event, Finished, JobState, Progress, Queued, Started
from comfy_remote.jobs.job import Patience
from comfy_remote.jobs.record import Record
from comfy_remote.targets.base import RunRequest

PROMPT = {"1": {"class_type": "EmptyImage", "inputs": {}}}
SHORT = Patience(submit=5.0, cancel=2.0, end=0.1)


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    with Record(tmp_path / "home") as made:
        yield made


class _Own(Exception):
    """The program's own."""


def _raise(*_: object) -> None:
    raise _Own


async def test_stopped_while_the_record_is_locked_a_job_that_was_sent_is_cancelled(
    record: Record,
) -> None:
    target, sent = FakeTarget([Started()]), asyncio.Event()
    lock = locked(record.path)

    def lock_it(_: RunRequest) -> None:
        lock.__enter__()
        sent.set()

    target.on_submit = lock_it
    async with Client(target, record=record, patience=SHORT, on_interrupt="cancel") as client:
        submitting = asyncio.ensure_future(client.submit(PROMPT))
        await sent.wait()
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        assert len(target.cancelled) == 1
        lock.__exit__(None, None, None)
    [entry] = await record.read(record.newest)
    assert entry.ref is not None


async def test_a_run_that_is_given_up_is_cancelled_though_the_client_stays_open(
    record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    target = FakeTarget([Started()])
    async with Client(target, record=record, patience=SHORT) as client:
        given_up = asyncio.ensure_future(client.run(PROMPT))
        await until(lambda: "follow" in target.log)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert len(target.cancelled) == 1
        with pytest.raises(_Own):
            await client.run(PROMPT, on_event=_raise)
        assert len(target.cancelled) == 2
    assert len(target.cancelled) == 2
    assert sum(one.levelname == "WARNING" for one in caplog.records) == 2


async def test_or_left_if_it_is_to_be(record: Record, caplog: pytest.LogCaptureFixture) -> None:
    target = FakeTarget([Started()])
    async with Client(target, record=record, patience=SHORT, on_interrupt="leave") as client:
        with pytest.raises(_Own):
            await client.run(PROMPT, on_event=_raise)
    assert target.cancelled == []
    [said] = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert target.requests[0].job_id in said


async def test_a_row_that_fails_by_the_program_s_own_error_is_cancelled(record: Record) -> None:
    target = FakeTarget([Started()])
    async with Client(target, record=record, patience=SHORT) as client:
        with pytest.raises(_Own):
            async for _ in client.map(PROMPT, [{}], on_event=_raise):
                pytest.fail("it has no result")
        assert len(target.cancelled) == 1


def test_a_synchronous_run_without_with_is_cancelled(record: Record) -> None:
    target = FakeTarget([Started()])
    client = SyncClient(target, record=record, patience=SHORT)
    with pytest.raises(_Own):
        client.run(PROMPT, on_event=_raise)
    assert len(target.cancelled) == 1
    client.close()


def test_threads_share_a_client_that_opens_once(record: Record) -> None:
    target = FakeTarget([Started(), 0.1, Finished(JobState.SUCCEEDED)])
    client, together = SyncClient(target, record=record), threading.Barrier(6)

    def use(_: int) -> JobState:
        together.wait()
        return client.submit(PROMPT).wait().state

    before = threading.active_count()
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(use, range(6))) == [JobState.SUCCEEDED] * 6
    client.close()
    assert (target.log.count("open"), target.log.count("close")) == (1, 1)
    assert threading.active_count() <= before + 2  # the record's own


@pytest.mark.timeout(240)
def test_closed_by_another_thread_what_waits_ends(record: Record) -> None:
    client = SyncClient(FakeTarget([Started()]), record=record, patience=SHORT)
    job = client.submit(PROMPT)
    ended = threading.Event()

    def follow() -> None:
        with pytest.raises(BaseException):  # noqa: B017 - a cancel, or that it is closed
            job.wait()
        ended.set()

    thread = threading.Thread(target=follow)
    thread.start()
    client.close()
    thread.join(60)
    assert ended.is_set()
    with pytest.raises(RuntimeError, match="closed"):
        job.cancel()


@pytest.mark.timeout(240)
def test_its_own_thread_cannot_wait_for_itself(record: Record) -> None:
    target = FakeTarget([Started(), Queued(1), Finished(JobState.SUCCEEDED)])
    caught: list[BaseException] = []

    def use(_: int, event: Event) -> None:
        if isinstance(event, Started):
            try:
                client.submit(PROMPT)
            except RuntimeError as error:
                caught.append(error)

    with SyncClient(target, record=record) as client:
        assert len(list(client.map(PROMPT, [{}], on_event=use))) == 1
    assert len(caught) == 1
    assert len(target.requests) == 1


async def test_progress_is_not_queued_for_a_record_that_stays_locked(record: Record) -> None:
    """The program's end would wait for each of the writes."""
    steps: list[Event | ComfyRemoteError | float] = []
    for step in range(5):
        steps += [Progress(0, 1, "1", "EmptyImage", step, 5), 1.02]
    target = FakeTarget([Started(), *steps, Finished(JobState.SUCCEEDED)])
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        with locked(record.path):
            await job.wait()
            assert record.waiting <= 5
        assert (await record.read(record.get, job.id)).state is JobState.SUCCEEDED
