"""What is read of a queue for its page, and what the page's buttons do to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from gateway_kit import Clock
from memory_journal import MemoryJournal

from comfy_remote.errors import EngineCrashed, JobNotFound, WorkflowInvalid
from comfy_remote.gateway.job import Job, Policy, Submission
from comfy_remote.gateway.journal import Journal
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.gateway.queue import JobQueue
from comfy_remote.gateway.queue_events import (
    JobAccepted,
    JobEnded,
    JobPutBack,
    JobRepeated,
    JobStarted,
    QueueEvent,
    WorkerBack,
    WorkerGone,
    WorkerJoined,
    WorkerSilent,
)
from comfy_remote.gateway.seen.control import QueueControl
from comfy_remote.gateway.seen.state import GatewayState, read_state
from comfy_remote.gateway.workers import WorkerKind


@dataclass
class Store:
    used: int = 12
    free: int = 34


@dataclass
class Said:
    """What the joined workers were said to be."""

    drained: list[tuple[str, bool]] = field(default_factory=list)
    gone_for_good: list[str] = field(default_factory=list)

    async def drain(self, worker_id: str, *, on: bool) -> None:
        self.drained.append((worker_id, on))

    async def gone(self, worker_id: str) -> None:
        self.gone_for_good.append(worker_id)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def events() -> list[QueueEvent]:
    return []


@pytest.fixture
def queue(clock: Clock, events: list[QueueEvent]) -> JobQueue:
    return JobQueue(GatewayLimits(), MemoryJournal(), clock=clock, on_event=events.append)


async def submitted(queue: JobQueue, **policy: object) -> Job:
    return await queue.add(Submission(input=1, policy=Policy.model_validate(policy)), content=b"1")


def state(queue: JobQueue) -> GatewayState:
    return read_state("desk", queue, Store())


async def test_what_waits_is_in_the_order_of_one_client(queue: JobQueue) -> None:
    low = await submitted(queue, lowPriority=True)
    first, second = await submitted(queue), await submitted(queue)
    front, high = await submitted(queue, front=True), await submitted(queue, priority=3)
    seen = state(queue)
    assert list(seen.waiting) == [high, front, first, second, low]
    assert seen.why(first) == "No worker is connected."
    assert (seen.endpoint, seen.store_bytes, seen.disk_free) == ("desk", 12, 34)


async def test_to_the_front(queue: JobQueue) -> None:
    control = QueueControl(queue, Said())
    first, second = await submitted(queue), await submitted(queue)
    await control.front(second.id)
    (lease,) = await queue.take("w", wait=0)
    assert lease.job is second
    with pytest.raises(WorkflowInvalid, match="IN_PROGRESS"):
        await control.front(second.id)
    with pytest.raises(JobNotFound):
        await control.front("nobody")
    assert state(queue).waiting == [first]


async def test_a_job_that_was_put_to_the_front_is_there_after_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.open()
    queue = JobQueue(GatewayLimits(), journal, clock=lambda: journal.clock())
    for _ in range(2):
        await submitted(queue)
    last = await submitted(queue)
    await queue.to_front(last.id)
    await journal.close()
    again = Journal(tmp_path)
    recovered = again.open()
    await again.close()
    assert [job.id for job in recovered.live if job.front] == [last.id]


async def test_a_worker_of_the_gateways_own_is_drained_at_once(queue: JobQueue) -> None:
    said = Said()
    control = QueueControl(queue, said)
    queue.workers.register("local", WorkerKind.LOCAL, "local:1")
    await control.drain("local", on=True)
    job = await submitted(queue)
    taking = asyncio.create_task(queue.take("local", wait=20))
    await asyncio.sleep(0.01)
    assert not taking.done()
    await control.drain("local", on=False)
    (lease,) = await taking
    assert lease.job is job
    with pytest.raises(WorkflowInvalid, match="own machine"):
        await control.gone("local")
    with pytest.raises(JobNotFound):
        await control.drain("nobody", on=True)
    assert said == Said()


async def test_of_joined_workers_it_is_said_where_it_lasts(queue: JobQueue) -> None:
    said = Said()
    control = QueueControl(queue, said)
    queue.workers.register("attic", WorkerKind.JOINED, f"{'0' * 32}.{'1' * 32}")
    await control.drain("attic", on=True)
    await control.gone("attic")
    assert (said.drained, said.gone_for_good) == ([("attic", True)], ["attic"])


async def test_the_queue_says_what_happens(
    queue: JobQueue, clock: Clock, events: list[QueueEvent]
) -> None:
    job = await submitted(queue)
    (lease,) = await queue.take("w", wait=0)
    clock.now += 3
    queue.put_back([lease], "It did not reach the worker.")
    await queue.take("w", wait=0)
    clock.now += 5
    queue.worker_is_gone("w", EngineCrashed("It has died."))
    await queue.take("v", wait=0)
    clock.now += queue.limits.worker_silence + 1
    queue.sweep()
    queue.finish(job.id, "v", result=b"{}")
    await queue.get(job.id)
    queue.workers.seen("v")
    put_back, repeated = (
        next(event for event in events if isinstance(event, kind))
        for kind in (JobPutBack, JobRepeated)
    )
    assert (put_back.worker_id, put_back.ran) == ("w", 3)
    assert (repeated.worker_id, repeated.ran, repeated.why) == ("w", 5, "It has died.")
    assert Counter(type(event) for event in events) == {
        JobAccepted: 1,
        WorkerJoined: 2,
        JobStarted: 3,
        JobPutBack: 1,
        JobRepeated: 1,
        WorkerGone: 1,
        WorkerSilent: 1,
        JobEnded: 1,
        WorkerBack: 1,
    }
