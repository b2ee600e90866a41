"""One result a job: which proofs that a start is dead the queue takes, and what comes late.

The rows of the tables in docs/serve.md, one by one; `test_gateway_promises` has them in any order.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import until
from memory_journal import MemoryJournal

from comfy_remote.errors import EngineCrashed, LocalStorageError, WorkflowInvalid
from comfy_remote.gateway import GatewayServer
from comfy_remote.gateway.earlier_process import is_running, start_of
from comfy_remote.gateway.job import Job, Policy, Submission
from comfy_remote.gateway.journal import Journal
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.gateway.queue import JobQueue
from comfy_remote.gateway.workers import WorkerKind
from comfy_remote.wire.joined import Held, HolderState
from comfy_remote.wire.runpod import RunPodState, error_from_runpod

FIRST, AGAIN = f"{1:032x}.{1:032x}", f"{1:032x}.{2:032x}"
GONE = EngineCrashed("Its owner says so.")


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture
def queue(journal: MemoryJournal) -> JobQueue:
    return JobQueue(GatewayLimits(), journal)


async def given(queue: JobQueue, worker: str = "w", **policy: object) -> Job:
    """A job that a joined worker has been given."""
    await queue.hello(worker, FIRST, [])
    await queue.add(Submission(input=1, policy=Policy.model_validate(policy)))
    (lease,) = await queue.take(worker, wait=0)
    return lease.job


def held(job: Job, state: HolderState = HolderState.RUNNING, attempt: int = 1) -> Held:
    return Held(job=job.id, attempt=attempt, state=state)


async def test_a_worker_that_is_back_with_its_job_goes_on_with_it(queue: JobQueue) -> None:
    job = await given(queue)
    assert await queue.hello("w", FIRST, [held(job)]) == []
    assert (job.state, job.attempt) == (RunPodState.IN_PROGRESS, 1)
    assert queue.finish(job.id, "w", result=b'{"output":1}', attempt=1)


async def test_a_job_that_never_reached_its_worker_waits_and_is_not_counted(
    queue: JobQueue,
) -> None:
    job = await given(queue)
    assert await queue.hello("w", FIRST, []) == []
    assert (job.state, job.attempt, job.lost) == (RunPodState.IN_QUEUE, 0, 0)


async def test_a_worker_that_was_started_again_has_lost_what_it_does_not_name(
    queue: JobQueue,
) -> None:
    job = await given(queue)
    await queue.hello("w", AGAIN, [])
    assert (job.state, job.attempt, job.lost) == (RunPodState.IN_QUEUE, 1, 1)
    (lease,) = await queue.take("w", wait=0)
    assert (lease.job, lease.attempt) == (job, 2)
    assert job.status()["attempt"] == 2


async def test_a_worker_that_was_started_again_delivers_what_it_had_finished(
    queue: JobQueue,
) -> None:
    job = await given(queue)
    assert await queue.hello("w", AGAIN, [held(job, HolderState.ENDED)]) == []
    assert (job.state, job.boot) == (RunPodState.IN_PROGRESS, AGAIN)
    assert queue.finish(job.id, "w", result=b'{"output":1}', attempt=1)
    assert (await queue.get(job.id)).state is RunPodState.COMPLETED


async def test_what_has_ended_elsewhere_is_dropped(queue: JobQueue) -> None:
    job = await given(queue)
    await queue.cancel(job.id)
    unknown = Held(job="unknown", attempt=1)
    assert await queue.hello("w", FIRST, [held(job), unknown]) == [held(job), unknown]


async def test_a_late_result_is_taken_and_the_later_start_stopped(queue: JobQueue) -> None:
    job = await given(queue)
    queue.worker_is_gone("w", GONE)
    await queue.hello("other", FIRST, [])
    (second,) = await queue.take("other", wait=0)
    assert (second.job, second.attempt) == (job, 2)
    assert await queue.hello("w", AGAIN, [held(job, HolderState.ENDED)]) == [], "it may deliver"
    assert not queue.finish(job.id, "w", result=b"{}", attempt=2), "that start is another's"
    assert queue.finish(job.id, "w", result=b'{"output":"late"}', attempt=1)
    assert await queue.workers.take_stops("other", wait=0) == [job.id]
    assert not queue.finish(job.id, "other", result=b'{"output":"later"}', attempt=2)
    ended = await queue.get(job.id)
    assert (ended.more, ended.worker_id) == (b'{"output":"late"}', "w")


async def test_a_late_failure_does_not_end_a_later_start(queue: JobQueue) -> None:
    job = await given(queue)
    queue.worker_is_gone("w", GONE)
    await queue.hello("other", FIRST, [])
    await queue.take("other", wait=0)
    assert not queue.finish(job.id, "w", result=b'{"error":"no"}', attempt=1, failed=True)
    assert (job.state, job.worker_id) == (RunPodState.IN_PROGRESS, "other")


async def test_a_late_result_comes_too_late_once_there_is_one(queue: JobQueue) -> None:
    job = await given(queue)
    queue.worker_is_gone("w", GONE)
    await queue.hello("other", FIRST, [])
    await queue.take("other", wait=0)
    queue.finish(job.id, "other", result=b'{"output":"first"}', attempt=2)
    assert (await queue.get(job.id)).more == b'{"output":"first"}'
    assert not queue.finish(job.id, "w", result=b'{"output":"late"}', attempt=1)
    assert await queue.hello("w", AGAIN, [held(job, HolderState.ENDED)]) == [
        held(job, HolderState.ENDED)
    ]


async def test_a_start_that_was_wrongly_said_to_be_dead_goes_on_unless_there_is_another(
    queue: JobQueue,
) -> None:
    job = await given(queue)
    queue.worker_is_gone("w", GONE)
    assert await queue.hello("w", FIRST, [held(job)]) == []
    assert (job.state, job.worker_id, job.attempt, job.lost) == (
        RunPodState.IN_PROGRESS,
        "w",
        1,
        0,
    )
    queue.worker_is_gone("w", GONE)
    await queue.hello("other", FIRST, [])
    assert len(await queue.take("other", wait=0)) == 1
    assert await queue.hello("w", FIRST, [held(job)]) == [held(job)]


async def test_a_result_is_taken_once_more_while_it_is_not_on_disk(
    queue: JobQueue, journal: MemoryJournal
) -> None:
    job = await given(queue)
    journal.slow = True
    journal.refused = LocalStorageError("The disk is full.")
    assert queue.finish(job.id, "w", result=b'{"output":1}', attempt=1)
    with pytest.raises(LocalStorageError):
        await queue.committed()
    assert queue.finish(job.id, "w", result=b'{"output":1}', attempt=1), "it is to be held still"
    journal.slow, journal.refused = False, None
    await queue.committed()
    assert (await queue.get(job.id)).more == b'{"output":1}'


async def test_no_worker_takes_the_name_of_one_of_the_gateways_own(queue: JobQueue) -> None:
    queue.workers.register("local", WorkerKind.LOCAL, "local:1")
    with pytest.raises(WorkflowInvalid, match="of its own"):
        await queue.hello("local", FIRST, [])


async def test_a_restart_leaves_a_joined_workers_job_with_it(
    queue: JobQueue, journal: MemoryJournal
) -> None:
    job = await given(queue)
    after = journal.after_crash()
    second = JobQueue(GatewayLimits(), after)
    second.restore(after.live())
    assert await second.take("another", wait=0) == []
    assert await second.hello("w", FIRST, [held(job)]) == []
    assert second.finish(job.id, "w", result=b'{"output":1}', attempt=1)
    assert (await second.get(job.id)).state is RunPodState.COMPLETED


# What ran on this machine when the gateway ended


def start_process() -> subprocess.Popen[bytes]:
    code = "import time; time.sleep(60)"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


def left_behind(folder: Path, boot: str) -> str:
    """The folder of a gateway that ended while a worker with that boot had a job; its id."""

    async def leave() -> str:
        journal = Journal(folder)
        journal.open()
        queue = JobQueue(GatewayLimits(), journal, clock=lambda: journal.clock())
        queue.workers.register("old", WorkerKind.of(boot), boot)
        job = await queue.add(Submission(input=1))
        await queue.take("old", wait=0)
        await journal.close()
        return job.id

    return asyncio.run(leave())


def test_a_process_is_known_by_its_start() -> None:
    process = start_process()
    try:
        start = start_of(process.pid)
        assert start
        assert start != start_of(os.getpid())
        assert is_running(process.pid, start)
        assert not is_running(process.pid, start + "1"), "another one has that number now"
    finally:
        process.kill()
        process.wait()
    assert not is_running(process.pid, start)


def test_an_sdk_workers_process_is_ended_before_its_job_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comfy_remote.gateway.earlier_process._WORKER_PATIENCE", 1.0)
    process = start_process()
    boot = f"sdk:{process.pid}:{start_of(process.pid)}"
    job_id = left_behind(tmp_path, boot)

    async def start() -> None:
        async with GatewayServer(folder=tmp_path) as gateway:
            job = await gateway.queue.get(job_id)
            assert job.state is RunPodState.IN_PROGRESS, "it may be computing"
            await until(lambda: job.state is RunPodState.IN_QUEUE)
            assert (job.attempt, job.lost) == (1, 1)
            assert process.poll() is not None

    try:
        # Ours to reap: whoever inherits it does that at once.
        threading.Thread(target=process.wait, daemon=True).start()
        asyncio.run(start())
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("boot", "words"),
    [
        ("url:1", "may still be running it"),
        ("sdk", "can deliver no result any more"),
        ("sdk:1:", "can deliver no result any more"),
    ],
)
async def test_what_may_be_running_still_fails_and_says_so(
    tmp_path: Path, boot: str, words: str
) -> None:
    job_id = await asyncio.to_thread(left_behind, tmp_path, boot)
    async with GatewayServer(folder=tmp_path) as gateway:
        await gateway.queue.wait_until_final(job_id, 5)
        job = await gateway.queue.get(job_id)
        assert job.state is RunPodState.FAILED
        assert words in error_from_runpod(json.loads(job.more)["error"]).message
