"""Input files that a target keeps: when only their hash is sent, and when they are sent again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_target import FakeTarget, output
from record_sql import sql

from comfy_remote import Client, resume
from comfy_remote.errors import (
    ComfyRemoteError,
    ExecutionFailed,
    InputFileMissing,
    SubmissionUnknown,
    TargetUnreachable,
)
from comfy_remote.events import Event, Finished, JobState, Log, Queued, Started
from comfy_remote.jobs.job import Patience
from comfy_remote.jobs.record import Record
from comfy_remote.jobs.sent_inputs import SentInputs
from comfy_remote.targets.base import RemoteRef, RunRequest
from comfy_remote.workflow.prompt import Prompt

PROMPT: Any = {"1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}}}
LARGE = b"x" * 300_000
SHA256 = hashlib.sha256(LARGE).hexdigest()


class KeepingTarget(FakeTarget):
    """A target whose workers keep inputs; ``kept`` is what they have now.

    Attributes:
        ends: How jobs end that have all their files: the last stays.
        during_submit: Awaited by each submission but the first.
    """

    def __init__(self, *, keeper: str = "there/ep") -> None:
        super().__init__([], {"a.bin": b"bytes"})
        self.inputs_kept_by = keeper
        self.kept: set[str] = set()
        self.says_kept = True
        self.ends: list[Finished] = []
        self.during_submit: Any = None

    async def submit(self, request: RunRequest) -> RemoteRef:
        self.log.append("submit")
        self.requests.append(request)
        if len(self.requests) > 1 and self.during_submit is not None:
            await self.during_submit()
        if self.refuses is not None:
            raise self.refuses
        return RemoteRef(request.job_id, f"remote-{len(self.requests)}", {"where": "there"})

    async def follow(self, ref: RemoteRef, prompt: Prompt) -> AsyncGenerator[Event, None]:
        request = self.requests[int(ref.remote_id.rpartition("-")[2]) - 1]
        yield Queued()
        yield Started()
        if ref.remote_id in self.cancelled:
            yield Finished(JobState.CANCELLED, ExecutionFailed("cancelled"))
            return
        missing = [f.name for f in request.files if f.sha256 in request.known_inputs - self.kept]
        if missing:
            details: Any = {"missing_inputs": missing}
            yield Finished(JobState.FAILED, InputFileMissing("Not seen.", details=details))
            return
        if self.ends:
            yield self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]
            return
        self.kept |= {file.sha256 for file in request.files}
        told: Any = {"kept_inputs": sorted(self.kept)} if self.says_kept else {}
        yield Finished(JobState.SUCCEEDED, outputs=(output("a.bin"),), details=told)


@pytest.fixture(autouse=True)
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.png").write_bytes(LARGE)
    with Record(tmp_path / "home") as made:
        yield made


async def run(target: KeepingTarget, record: Record) -> tuple[str, list[Event]]:
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT, embed={"nodes": []})
        return job.id, [event async for event in job]


def known(target: KeepingTarget) -> list[set[str]]:
    return [set(request.known_inputs) for request in target.requests]


async def test_a_file_that_is_kept_is_not_sent_again(record: Record) -> None:
    target = KeepingTarget()
    for _ in range(3):
        _, events = await run(target, record)
        assert isinstance(events[-1], Finished)
        assert events[-1].error is None
    assert known(target) == [set(), {SHA256}, {SHA256}]
    assert sql(record.path, "SELECT * FROM jobs WHERE request IS NOT NULL") == []


async def test_a_job_that_nobody_follows_takes_all_its_files_along(record: Record) -> None:
    target = KeepingTarget()
    await run(target, record)
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT, followed=False)
        await job.wait()
        await client.retry(job.id, followed=False)
    assert known(target) == [set(), set(), set()]


async def test_a_job_that_is_sent_again_may_be_started_no_more_often(record: Record) -> None:
    target = KeepingTarget()
    await run(target, record)
    target.kept.clear()
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT, retry_lost=False)
        assert (await job.wait()).state is JobState.SUCCEEDED
    assert [request.retry_lost for request in target.requests] == [True, False, False]


@pytest.mark.parametrize("size", [1, 256 * 1024])
async def test_small_files_are_always_sent(record: Record, tmp_path: Path, size: int) -> None:
    (tmp_path / "in.png").write_bytes(b"y" * size)
    target = KeepingTarget()
    for _ in range(2):
        await run(target, record)
    assert known(target) == [set(), set()]


async def test_what_was_kept_long_ago_is_sent(record: Record) -> None:
    target = KeepingTarget()
    await run(target, record)
    sql(record.path, "UPDATE kept_inputs SET seen = ?", time.time() - 6 * 3600 - 1)
    await run(target, record)
    assert known(target) == [set(), set()]


async def test_what_one_endpoint_keeps_is_sent_to_another(record: Record) -> None:
    await run(KeepingTarget(), record)
    other = KeepingTarget(keeper="there/another")
    await run(other, record)
    assert known(other) == [set()]


async def test_a_worker_that_does_not_say_what_it_keeps_is_sent_everything(record: Record) -> None:
    target = KeepingTarget()
    target.says_kept = False
    for _ in range(2):
        await run(target, record)
    assert known(target) == [set(), set()]


async def test_a_miss_is_no_end_of_the_job(record: Record) -> None:
    target = KeepingTarget()
    await run(target, record)
    target.kept.clear()
    job_id, events = await run(target, record)
    assert [type(event) for event in events] == [Queued, Started, Log, Finished]
    assert known(target) == [set(), {SHA256}, set()]
    first, again = target.requests[1:]
    assert (again.job_id, again.prompt, again.workflow) == (job_id, first.prompt, {"nodes": []})
    assert list(again.files) == list(first.files)
    entry = record.get(job_id)
    assert (entry.state, entry.error) == (JobState.SUCCEEDED, None)
    assert entry.ref is not None
    assert entry.ref.remote_id == "remote-3"
    assert [row["seen"] > 0 for row in sql(record.path, "SELECT seen FROM kept_inputs")] == [True]


async def test_a_worker_that_always_misses_fails_the_job(record: Record) -> None:
    """One that lies, say: it is not asked for ever."""
    target = KeepingTarget()
    await run(target, record)
    target.kept.clear()
    details: Any = {"missing_inputs": ["in.png"]}
    target.ends = [Finished(JobState.FAILED, InputFileMissing("Not seen.", details=details))]
    job_id, events = await run(target, record)
    assert isinstance(events[-1], Finished)
    assert len(target.requests) == 3
    assert record.get(job_id).state is JobState.FAILED


async def test_a_hash_that_another_worker_does_not_understand_is_not_sent_again(
    record: Record,
) -> None:
    """worker-comfyui, which now stands behind the same endpoint."""
    target = KeepingTarget()
    await run(target, record)
    target.ends = [Finished(JobState.FAILED, ExecutionFailed("Invalid image file: in.png"))]
    await run(target, record)
    await run(target, record)
    assert known(target) == [set(), {SHA256}, set()]


@pytest.mark.parametrize("old", [False, True], ids=["now", "recorded without places"])
async def test_a_killed_client_is_resumed_and_the_job_sent_whole(record: Record, old: bool) -> None:
    target = KeepingTarget()
    await run(target, record)
    target.kept.clear()
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT, embed={"nodes": []})
    if old:
        [row] = sql(record.path, "SELECT request FROM jobs WHERE id = ?", job.id)
        kept = json.loads(row["request"])
        assert kept["files"][0].pop("places") == [["1", "image"]]
        sql(record.path, "UPDATE jobs SET request = ? WHERE id = ?", json.dumps(kept), job.id)
    async with resume(job.id, record=record, target=target) as again:
        [found] = await again.outputs()
    assert found.bytes() == b"bytes"
    assert target.requests[-1].known_inputs == frozenset()
    assert target.requests[-1].workflow == {"nodes": []}
    [file] = target.requests[-1].files
    assert file.places == (() if old else (("1", "image"),))


async def test_a_client_that_is_killed_while_it_sends_again_does_not_send_a_third_time(
    record: Record,
) -> None:
    target = KeepingTarget()
    await run(target, record)
    target.kept.clear()
    reached = asyncio.Event()

    async def stall() -> None:
        if len(target.requests) == 3:
            reached.set()
            await asyncio.sleep(3600)

    target.during_submit = stall
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        following = asyncio.create_task(job.wait())
        await reached.wait()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        assert job._sending is not None
        job._sending.cancel()
    target.known = SubmissionUnknown("Nobody knows.")
    with pytest.raises(SubmissionUnknown):
        async with resume(job.id, record=record, target=target):
            pass
    assert len(target.requests) == 3


@pytest.mark.parametrize("error", [TargetUnreachable("Refused."), SubmissionUnknown("Lost.")])
async def test_what_goes_wrong_the_second_time_is_recorded_as_the_first_time(
    record: Record, error: ComfyRemoteError
) -> None:
    target = KeepingTarget()
    await run(target, record)
    target.kept.clear()

    async def refuse() -> None:
        if len(target.requests) == 3:
            target.refuses = error

    target.during_submit = refuse
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        with pytest.raises(type(error)):
            await job.wait()
    entry = record.get(job.id)
    unknown = isinstance(error, SubmissionUnknown)
    assert entry.state is (JobState.QUEUED if unknown else JobState.FAILED)
    assert entry.ref is None
    assert entry.error is not None


@pytest.mark.parametrize("change", ["gone", "another"])
async def test_a_file_that_has_changed_meanwhile_is_not_sent_in_its_place(
    record: Record, tmp_path: Path, change: str
) -> None:
    target = KeepingTarget()
    await run(target, record)
    target.kept.clear()
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        if change == "gone":
            (tmp_path / "in.png").unlink()
        else:
            (tmp_path / "in.png").write_bytes(LARGE[:-1] + b"y")
        with pytest.raises(InputFileMissing, match=r"in\.png"):
            await job.wait()
    assert record.get(job.id).state is JobState.FAILED
    assert len(target.requests) == 2


async def test_a_cancel_while_it_is_sent_again_reaches_the_new_one(record: Record) -> None:
    target = KeepingTarget()
    await run(target, record)
    target.kept.clear()
    go_on = asyncio.Event()
    reached = asyncio.Event()

    async def stall() -> None:
        if len(target.requests) == 3:
            reached.set()
            await go_on.wait()

    target.during_submit = stall
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        following = asyncio.create_task(job.wait())
        await reached.wait()
        cancelling = asyncio.create_task(job.cancel())
        await asyncio.sleep(0.01)
        go_on.set()
        await cancelling
        finished = await following
    assert finished.state is JobState.CANCELLED
    assert set(target.cancelled) == {"remote-3"}


async def test_a_job_that_was_cancelled_is_not_sent_again(record: Record) -> None:
    target = KeepingTarget()
    await run(target, record)
    target.kept.clear()
    async with Client(target, record=record) as client:
        job = await client.submit(PROMPT)
        target_cancel, target.cancel = target.cancel, _too_late  # type: ignore[method-assign]
        await job.cancel()
        finished = await job.wait()
    assert target_cancel is not None
    assert finished.state is JobState.CANCELLED
    assert len(target.requests) == 2


async def _too_late(ref: RemoteRef) -> None:
    return None


async def test_another_who_sends_it_again_and_dies_is_not_waited_for_for_ever(
    record: Record,
) -> None:
    target = KeepingTarget()
    await run(target, record)
    target.kept.clear()
    async with Client(target, record=record, patience=Patience(others=0.05)) as client:
        job = await client.submit(PROMPT)
        with Record(record.path.parent) as other:
            other.claim_request(job.ref)
        with pytest.raises(SubmissionUnknown, match="Another program"):
            await job.wait()
    assert len(target.requests) == 2


async def test_of_two_who_claim_at_the_same_moment_one_sends(record: Record) -> None:
    target = KeepingTarget()
    await run(target, record)
    for _ in range(5):
        async with Client(target, record=record) as client:
            job = await client.submit(PROMPT)
        with Record(record.path.parent) as other:
            record.inputs_kept(target.inputs_kept_by, [SHA256], since=0.0)
            both = [SentInputs(record, target), SentInputs(other, target)]
            claimed = await asyncio.gather(
                *(asyncio.to_thread(one.claim, job.ref, PROMPT) for one in both)
            )
        [request] = [one for one in claimed if one is not None]
        assert request.files
        assert not request.known_inputs
        record.inputs_kept(target.inputs_kept_by, [SHA256], since=0.0)


async def test_a_row_that_somebody_has_changed_is_no_request(record: Record) -> None:
    target = KeepingTarget()
    await run(target, record)
    for text in ("[]", "{", json.dumps({"files": [{"name": 1}]})):
        async with Client(target, record=record) as client:
            job = await client.submit(PROMPT)
            sql(record.path, "UPDATE jobs SET request = ? WHERE id = ?", text, job.id)
            assert (await job.wait()).state is JobState.SUCCEEDED
