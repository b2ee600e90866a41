"""Jobs that had not ended when they were last seen: their targets are asked, side by side."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
from fake_target import FakeTarget

from comfy_remote.errors import ExecutionFailed, TargetUnreachable
from comfy_remote.events import Event, Finished, JobState, Progress, Queued, Started
from comfy_remote.jobs.record import JobEntry, Record
from comfy_remote.jobs.status import JobStatus, statuses
from comfy_remote.targets.base import RemoteRef, Target


class Unreachable(FakeTarget):
    async def __aenter__(self) -> FakeTarget:
        raise TargetUnreachable("h:1 could not be reached: refused.")


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with Record(tmp_path) as made:
        yield made


@pytest.fixture
def targets() -> dict[str, FakeTarget]:
    """By name; each job is looked for at its own."""
    return {}


@pytest.fixture
def ask(record: Record, targets: dict[str, FakeTarget]) -> Ask:
    """Ask for the state of all jobs, oldest first."""

    def target_of(entry: JobEntry) -> Target:
        return cast("Target", targets[entry.target])

    def asked(seconds: float = 5.0) -> Awaitable[list[JobStatus]]:
        return statuses(record, _entries(record), seconds, target_of)

    return asked


Add = Callable[..., str]
Ask = Callable[..., Awaitable[list[JobStatus]]]


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


async def test_what_has_ended_meanwhile_is_known(record: Record, add: Add, ask: Ask) -> None:
    add(Queued())
    add(Started(), Progress(1, 2))
    add(Queued(), Started(), Progress(2, 2), Finished(JobState.SUCCEEDED))
    add(Finished(JobState.FAILED, ExecutionFailed("It broke.")))
    add(Progress(1, 2))
    found = await ask()
    assert [one.entry.state.value for one in found] == [
        *("queued", "running", "succeeded", "failed", "running")
    ]
    assert not any(one.unknown for one in found)
    assert [entry.state for entry in _entries(record)] == [one.entry.state for one in found]
    error = found[3].entry.error
    assert error is not None
    assert error.message == "It broke."


async def test_what_cannot_be_asked_is_unknown_and_costs_the_others_nothing(
    record: Record, add: Add, ask: Ask
) -> None:
    for _ in range(40):
        add()  # never answers
    add(target=Unreachable())
    add(Finished(JobState.SUCCEEDED))
    began = time.monotonic()
    found = await ask(4.0)
    assert time.monotonic() - began < 80.0  # and not 4 s each
    assert all("did not answer within 4 s" in one.unknown for one in found[:40])
    assert "could not be reached" in found[40].unknown
    assert found[40].entry.state is JobState.RUNNING
    assert (found[41].entry.state, found[41].unknown) == (JobState.SUCCEEDED, "")


async def test_a_job_that_never_arrived_has_failed(record: Record, add: Add, ask: Ask) -> None:
    add(sent=False)
    [found] = await ask()
    assert (found.entry.state, found.unknown) == (JobState.FAILED, "")


async def test_final_jobs_are_not_asked_about(
    record: Record, add: Add, targets: dict[str, FakeTarget], ask: Ask
) -> None:
    job_id = add(Started())
    record.state(job_id, JobState.CANCELLED)
    await ask()
    assert targets[job_id].log == []
