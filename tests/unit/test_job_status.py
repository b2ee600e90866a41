"""Jobs that had not ended when they were last seen: their targets are asked, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_target import FakeTarget

from comfy_remote.errors import ExecutionFailed, TargetUnreachable
from comfy_remote.events import Event, Finished, JobState, Progress, Queued, Started
from comfy_remote.jobs import status as module
from comfy_remote.jobs.record import JobEntry, Record
from comfy_remote.jobs.status import statuses
from comfy_remote.targets.base import RemoteRef, Target


class Unreachable(FakeTarget):
    async def __aenter__(self) -> FakeTarget:
        raise TargetUnreachable("h:1 could not be reached: refused.")


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with Record(tmp_path) as made:
        yield made


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeTarget]:
    """By name; each job is reopened at its own."""
    made: dict[str, FakeTarget] = {}

    def reopen(wanted: str, ref: RemoteRef | None, *, look: bool) -> Target:
        del ref, look
        return made[wanted]  # type: ignore[return-value]

    monkeypatch.setattr(module, "reopen", reopen)
    return made


Add = Callable[..., str]


@pytest.fixture
def add(record: Record, targets: dict[str, FakeTarget]) -> Add:
    """Record a job that ran when it was last seen, and what its target says now."""

    def one(*events: Event, target: FakeTarget | None = None, sent: bool = True) -> str:
        job_id = f"{len(targets):08}-0000"
        targets[job_id] = target or FakeTarget(list(events))
        record.add(job_id, target=job_id, source="w.json", folder=None, prompt={})
        if sent:
            record.submitted(RemoteRef(job_id, "there"))
        record.state(job_id, JobState.RUNNING)
        return job_id

    return one


def _entries(record: Record) -> list[JobEntry]:
    return list(reversed(record.newest(50)))


async def test_what_has_ended_meanwhile_is_known(record: Record, add: Add) -> None:
    add(Queued())
    add(Started(), Progress(1, 2))
    add(Queued(), Started(), Progress(2, 2), Finished(JobState.SUCCEEDED))
    add(Finished(JobState.FAILED, ExecutionFailed("It broke.")))
    add(Progress(1, 2))
    found = await statuses(record, _entries(record))
    assert [one.entry.state.value for one in found] == [
        *("queued", "running", "succeeded", "failed", "running")
    ]
    assert not any(one.unknown for one in found)
    assert [entry.state for entry in _entries(record)] == [one.entry.state for one in found]
    error = found[3].entry.error
    assert error is not None
    assert error.message == "It broke."


async def test_what_cannot_be_asked_is_unknown_and_costs_the_others_nothing(
    record: Record, add: Add
) -> None:
    for _ in range(40):
        add()  # never answers
    add(target=Unreachable())
    add(Finished(JobState.SUCCEEDED))
    began = time.monotonic()
    found = await statuses(record, _entries(record), seconds=2.0)
    assert time.monotonic() - began < 8.0
    assert all("did not answer within 2 s" in one.unknown for one in found[:40])
    assert "could not be reached" in found[40].unknown
    assert found[40].entry.state is JobState.RUNNING
    assert (found[41].entry.state, found[41].unknown) == (JobState.SUCCEEDED, "")


async def test_a_job_that_never_arrived_has_failed(record: Record, add: Add) -> None:
    add(sent=False)
    [found] = await statuses(record, _entries(record))
    assert (found.entry.state, found.unknown) == (JobState.FAILED, "")


async def test_final_jobs_are_not_asked_about(
    record: Record, add: Add, targets: dict[str, FakeTarget]
) -> None:
    job_id = add(Started())
    record.state(job_id, JobState.CANCELLED)
    await statuses(record, _entries(record))
    assert targets[job_id].log == []
