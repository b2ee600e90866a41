"""The job queue's rules, with a clock that the test turns."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from gateway_kit import Clock
from helpers import settled
from memory_journal import MemoryJournal

from comfy_remote.errors import (
    EngineCrashed,
    JobNotFound,
    JobTimedOut,
    OutputLost,
    OutputTooLarge,
    RateLimited,
    WorkflowInvalid,
)
from comfy_remote.gateway.job import Job, Policy, Submission
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.gateway.offers import Needs
from comfy_remote.gateway.queue import JobQueue
from comfy_remote.wire.runpod import JobStatus, RunPodState, error_from_runpod

LIMITS = GatewayLimits()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal() -> MemoryJournal:
    return MemoryJournal()


@pytest.fixture
def queue(clock: Clock, journal: MemoryJournal) -> JobQueue:
    return JobQueue(LIMITS, journal, clock=clock)


def submission(value: object = 1, **policy: object) -> Submission:
    return Submission(input={"value": value}, policy=Policy.model_validate(policy))


def more_of(job: Job) -> dict[str, object]:
    """What the queue itself adds to the job's status."""
    more = json.loads(job.more)
    assert isinstance(more, dict)
    return more


async def take(queue: JobQueue, worker: str = "w", count: int = 1) -> list[Job]:
    return [lease.job for lease in await queue.take(worker, wait=0, count=count)]


async def take_one(queue: JobQueue, worker: str = "w") -> Job:
    (job,) = await take(queue, worker)
    return job


async def ended(queue: JobQueue, job: Job) -> Job:
    """The job as the journal has it, when its end is on disk."""
    found = await queue.get(job.id)
    assert job not in queue.live
    return found


async def test_a_job_goes_from_the_line_to_a_worker_to_its_result(
    queue: JobQueue, clock: Clock
) -> None:
    job = await queue.add(submission("a"))
    assert job.status() == {"id": job.id, "status": "IN_QUEUE"}

    clock.now += 2
    assert (await take_one(queue)) is job
    queue.progress(job.id, "w", b'{"output":{"step":1}}')
    assert more_of(job) == {"output": {"step": 1}}
    assert queue.health().jobs.in_progress == 1

    clock.now += 3
    assert queue.finish(job.id, "w", result="file")
    assert job.result == "file"
    assert more_of(job) == {}, "what was shown meanwhile has gone"
    assert job.status() == {
        "id": job.id,
        "status": "COMPLETED",
        "delayTime": 2000,
        "executionTime": 3000,
        "workerId": "w",
    }
    assert JobStatus.model_validate(job.status()).execution_time == 3000
    assert not job.may_be_retried


async def test_first_come_first_served_and_low_priority_last(queue: JobQueue) -> None:
    low = await queue.add(submission(lowPriority=True))
    first, second = await queue.add(submission()), await queue.add(submission())
    assert await take(queue, count=5) == [first, second, low]


async def test_take_waits_for_a_job_and_gives_it_to_one_worker_only(queue: JobQueue) -> None:
    takers = [asyncio.create_task(queue.take(f"w{n}", wait=60)) for n in range(3)]
    await settled()
    job = await queue.add(submission())
    await settled()
    assert [len(taker.result()) for taker in takers if taker.done()] == [1]
    queue.close()
    assert sorted(map(len, await asyncio.gather(*takers))) == [0, 0, 1]
    assert job.state is RunPodState.IN_PROGRESS


async def test_a_taker_that_is_cancelled_takes_no_job_along(queue: JobQueue) -> None:
    job = await queue.add(submission())
    leases = await queue.take("first", wait=0)
    taker = asyncio.create_task(queue.take("gone", wait=60))
    await settled()
    queue.put_back(leases, "It hung up.")
    taker.cancel()  # the wake-up is on its way already
    with pytest.raises(asyncio.CancelledError):
        await taker
    assert await take_one(queue, "alive") is job


async def test_a_taker_that_is_cancelled_before_its_lease_is_on_disk_does_not_have_it(
    queue: JobQueue, journal: MemoryJournal
) -> None:
    job = await queue.add(submission())
    journal.slow = True
    taker = asyncio.create_task(queue.take("gone", wait=60))
    await settled()
    assert job.worker_id == "gone"
    taker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taker
    assert (job.state, job.attempt) == (RunPodState.IN_QUEUE, 0)
    journal.slow = False
    assert await take_one(queue, "alive") is job


async def test_a_job_that_is_cancelled_before_its_lease_is_on_disk_is_not_given(
    queue: JobQueue, journal: MemoryJournal
) -> None:
    job = await queue.add(submission())
    journal.slow = True
    taker = asyncio.create_task(queue.take("w", wait=60))
    await settled()
    cancelling = asyncio.create_task(queue.cancel(job.id))
    await settled()
    journal.commit()
    assert await taker == []
    assert (await cancelling).state is RunPodState.CANCELLED


async def test_nothing_is_promised_before_it_is_on_disk(
    queue: JobQueue, journal: MemoryJournal
) -> None:
    journal.slow = True
    adding = asyncio.create_task(queue.add(submission()))
    await settled()
    assert not adding.done()
    assert await queue.take("w", wait=0) == []
    journal.commit()
    job = await adding
    taking = asyncio.create_task(queue.take("w", wait=0))
    await settled()
    assert not taking.done()
    journal.commit()
    await taking
    queue.finish(job.id, "w", result="here")
    asking = asyncio.create_task(queue.get(job.id))
    await settled()
    assert not asking.done(), "a client that is told of an end must not see another one later"
    journal.commit()
    assert (await asking).state is RunPodState.COMPLETED


async def test_a_job_whose_submitter_hangs_up_is_in_the_line_or_not_there(
    queue: JobQueue, journal: MemoryJournal
) -> None:
    journal.slow = True
    adding = asyncio.create_task(queue.add(submission()))
    await settled()
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    journal.commit()
    await settled()
    journal.slow = False
    (job,) = await take(queue)
    assert journal.rows[job.id].state is RunPodState.IN_PROGRESS


async def test_jobs_that_could_not_be_delivered_keep_their_place(queue: JobQueue) -> None:
    jobs = [await queue.add(submission(n)) for n in range(3)]
    taken = await queue.take("w", wait=0, count=2)
    queue.put_back(taken, "It hung up.")
    assert await take(queue, "other", 3) == jobs
    assert [job.attempt for job in jobs] == [1, 1, 1], "what was not delivered is not counted"


async def test_a_cancelled_job_is_not_put_back(queue: JobQueue) -> None:
    job = await queue.add(submission())
    taken = await queue.take("w", wait=0)
    await queue.cancel(job.id)
    queue.put_back(taken, "It hung up.")
    assert job.state is RunPodState.CANCELLED
    assert await queue.take("w", wait=0) == []


async def test_what_comes_after_the_result_is_ignored(queue: JobQueue) -> None:
    job = await queue.add(submission())
    await take_one(queue)
    assert queue.finish(job.id, "w", result="first")
    queue.progress(job.id, "w", b'{"output":"late progress"}')
    assert queue.finish(job.id, "w", result="again"), "it does not know yet that it has been taken"
    await ended(queue, job)
    assert not queue.finish(job.id, "w", result="late", failed=True)
    assert (job.state, job.result, more_of(job)) == (RunPodState.COMPLETED, "first", {})


async def test_another_workers_result_is_ignored(queue: JobQueue) -> None:
    job = await queue.add(submission())
    await take_one(queue, "mine")
    assert not queue.finish(job.id, "somebody", result="forged")
    assert job.state is RunPodState.IN_PROGRESS


async def test_cancelling_a_queued_job_ends_it_at_once(queue: JobQueue) -> None:
    job = await queue.add(submission())
    await queue.cancel(job.id)
    assert job.state is RunPodState.CANCELLED
    assert await queue.take("w", wait=0) == []


async def test_cancelling_a_running_job_tells_its_worker_once_and_drops_the_result(
    queue: JobQueue,
) -> None:
    job = await queue.add(submission())
    await take_one(queue)
    waiting = asyncio.create_task(queue.workers.take_stops("w", wait=60))
    await settled()
    await queue.cancel(job.id)
    assert await waiting == [job.id]
    assert await queue.workers.take_stops("w", wait=0) == []
    assert not queue.finish(job.id, "w", result="too late")
    assert (job.state, job.result) == (RunPodState.CANCELLED, None)


async def test_a_stop_signal_waits_until_the_worker_has_begun(
    queue: JobQueue, clock: Clock
) -> None:
    job = await queue.add(submission())
    await take_one(queue)
    await queue.cancel(job.id)
    assert await queue.workers.take_stops("w", wait=0, settle=0.5) == []
    clock.now += 0.5
    assert await queue.workers.take_stops("w", wait=0, settle=0.5) == [job.id]


async def test_a_dead_workers_job_is_started_once_more_and_then_fails(queue: JobQueue) -> None:
    job, other = await queue.add(submission()), await queue.add(submission())
    await take_one(queue, "dying")
    await take_one(queue, "alive")
    queue.worker_is_gone("dying", EngineCrashed("It died."))
    assert job.status() == {"id": job.id, "status": "IN_QUEUE"}
    assert other.state is RunPodState.IN_PROGRESS
    assert await take_one(queue, "second") is job
    assert job.status()["attempt"] == 2
    assert queue.health().jobs.retried == 1
    queue.worker_is_gone("second", EngineCrashed("It died, too."))
    error = error_from_runpod(more_of(await ended(queue, job))["error"])
    assert isinstance(error, EngineCrashed)
    assert error.message == "It died, too. The job has been started again once already."
    assert await take(queue) == []


@pytest.mark.parametrize(
    ("policy", "needs"),
    [({"retryLost": False}, Needs()), ({}, Needs(may_cost=True))],
    ids=["its request says so", "it may cost"],
)
async def test_what_may_not_be_repeated_fails_with_its_worker(
    queue: JobQueue, policy: dict[str, object], needs: Needs
) -> None:
    job = await queue.add(submission(**policy), needs=needs)
    await take_one(queue)
    queue.worker_is_gone("w", EngineCrashed("It died."))
    error = error_from_runpod(more_of(await ended(queue, job))["error"])
    assert "The job is not started again" in error.message
    assert await take(queue) == []


async def test_a_worker_that_asks_for_work_without_having_answered_has_lost_the_result(
    queue: JobQueue,
) -> None:
    job = await queue.add(submission())
    await take_one(queue)
    queue.worker_is_idle("w")
    assert isinstance(error_from_runpod(more_of(job)["error"]), OutputLost)


async def test_retry_keeps_the_id_and_removes_the_old_result(queue: JobQueue, clock: Clock) -> None:
    job = await queue.add(submission("again"))
    await take_one(queue)
    queue.finish(job.id, "w", result="no", failed=True)
    clock.now += 5
    retried = await queue.retry(job.id)
    assert retried.status() == {"id": job.id, "status": "IN_QUEUE"}
    clock.now += 1
    again = await take_one(queue)
    assert again is retried
    assert again.result is None
    assert again.status()["delayTime"] == 1000
    assert queue.health().jobs.retried == 1


async def test_a_retried_job_is_not_stopped_by_the_old_signal(
    queue: JobQueue, clock: Clock
) -> None:
    job = await queue.add(submission(executionTimeout=5000))
    await take_one(queue)
    clock.now += 6
    queue.sweep()
    assert job.state is RunPodState.TIMED_OUT
    await queue.retry(job.id)
    assert (await take_one(queue)).id == job.id
    assert await queue.workers.take_stops("w", wait=0) == []


async def test_only_failed_jobs_are_retried(queue: JobQueue) -> None:
    job = await queue.add(submission())
    with pytest.raises(WorkflowInvalid, match="IN_QUEUE"):
        await queue.retry(job.id)


async def test_purge_cancels_what_waits_and_nothing_else(queue: JobQueue) -> None:
    running = await queue.add(submission())
    await take_one(queue)
    waiting = [await queue.add(submission()), await queue.add(submission(lowPriority=True))]
    assert await queue.purge() == 2
    assert {job.state for job in waiting} == {RunPodState.CANCELLED}
    assert running.state is RunPodState.IN_PROGRESS


async def test_a_job_that_runs_too_long_times_out_and_is_stopped(
    queue: JobQueue, clock: Clock
) -> None:
    job = await queue.add(submission(executionTimeout=5000))
    clock.now += 100  # time in the queue does not count
    await take_one(queue)
    clock.now += 4.9
    queue.sweep()
    assert job.state is RunPodState.IN_PROGRESS
    clock.now += 0.2
    queue.sweep()
    assert job.state is RunPodState.TIMED_OUT
    assert isinstance(error_from_runpod(more_of(job)["error"]), JobTimedOut)
    assert await queue.workers.take_stops("w", wait=0) == [job.id]


@pytest.mark.parametrize("running", [False, True])
async def test_a_job_is_dropped_after_its_time_to_live(
    queue: JobQueue, clock: Clock, running: bool
) -> None:
    job = await queue.add(submission(ttl=10_000))
    if running:
        await take_one(queue)
    clock.now += 10.1
    queue.sweep()
    with pytest.raises(JobNotFound):
        await queue.get(job.id)
    assert await queue.take("w", wait=0) == []
    assert await queue.workers.take_stops("w", wait=0) == ([job.id] if running else [])


@pytest.mark.parametrize(("sync", "kept"), [(False, 1800), (True, 60)])
async def test_results_are_kept_for_a_while(
    queue: JobQueue, journal: MemoryJournal, clock: Clock, sync: bool, kept: int
) -> None:
    job = await queue.add(submission(), sync=sync)
    await take_one(queue)
    queue.finish(job.id, "w", result="here")
    clock.now += kept - 1
    journal.forget(clock.now)
    assert (await queue.get(job.id)).result == "here"
    clock.now += 2
    journal.forget(clock.now)
    with pytest.raises(JobNotFound):
        await queue.get(job.id)


async def test_what_has_ended_takes_no_memory_and_is_there(queue: JobQueue) -> None:
    jobs = []
    for n in range(1000):
        jobs.append(await queue.add(submission(n), idempotency_key=str(n)))
        queue.finish((await take_one(queue)).id, "w", result="here")
    assert [(await queue.get(job.id)).result for job in jobs] == ["here"] * 1000
    assert (len(queue.live), queue.live.memory) == (0, 0)
    again = [await queue.add(submission(), idempotency_key=str(n)) for n in range(1000)]
    assert [job.id for job in again] == [job.id for job in jobs]
    assert (len(queue.live), queue.live.memory) == (0, 0)


async def test_a_key_is_good_for_longer_than_its_jobs_result(
    queue: JobQueue, journal: MemoryJournal, clock: Clock
) -> None:
    job = await queue.add(submission(), sync=True, idempotency_key="k")
    await take_one(queue)
    queue.finish(job.id, "w", result="here")
    await ended(queue, job)
    clock.now += LIMITS.runsync_retention + 1
    journal.forget(clock.now)
    with pytest.raises(JobNotFound, match="not stored any more"):
        await queue.get(job.id)
    again = await queue.add(submission(), idempotency_key="k")
    assert again.id == job.id, "it would run twice"
    assert again.status()["status"] == "COMPLETED"
    assert await take(queue) == []


async def test_a_result_stays_until_its_webhook_was_called(
    queue: JobQueue, journal: MemoryJournal, clock: Clock
) -> None:
    job = await queue.add(Submission(input=1, webhook="https://example.com/x"))
    await take_one(queue)
    queue.finish(job.id, "w", result="here")
    await queue.committed()
    clock.now += LIMITS.run_retention + 1
    journal.forget(clock.now)
    assert await queue.get(job.id) is job
    queue.webhook_called(job, job.finished)
    await queue.committed()
    assert (len(queue.live), queue.live.memory) == (0, 0)
    journal.forget(clock.now)
    with pytest.raises(JobNotFound):
        await queue.get(job.id)


async def test_a_job_that_is_retried_while_its_webhook_is_called_owes_the_next_one(
    queue: JobQueue, clock: Clock
) -> None:
    await queue.add(Submission(input=1, webhook="https://example.com/x"))
    job = await take_one(queue)
    queue.finish(job.id, "w", result="no", failed=True)
    before = (await queue.get(job.id)).finished
    clock.now += 1
    await queue.retry(job.id)
    queue.webhook_called(job, before)
    assert await take_one(queue) is job
    queue.finish(job.id, "w", result="yes")
    assert (await queue.get(job.id)).owed


async def test_memory_is_bounded_and_given_back(clock: Clock) -> None:
    queue = JobQueue(GatewayLimits(memory_bytes=10_000), MemoryJournal(), clock=clock)
    while queue.live.memory < 10_000:
        job = await queue.add(submission())
    with pytest.raises(RateLimited) as full:
        await queue.add(submission())
    assert full.value.details["retry_after"] > 0
    assert await queue.get(job.id) is job, "what is promised is not given up for room"
    await queue.purge()
    await ended(queue, job)
    assert queue.live.memory == 0
    await queue.add(submission())


async def test_the_line_is_bounded(clock: Clock) -> None:
    queue = JobQueue(GatewayLimits(queued_jobs=1), MemoryJournal(), clock=clock)
    job = await queue.add(submission())
    with pytest.raises(RateLimited):
        await queue.add(submission())
    assert await take_one(queue) is job
    await queue.add(submission())


async def test_the_same_key_is_the_same_job(queue: JobQueue) -> None:
    job = await queue.add(submission(), idempotency_key="k")
    assert await queue.add(submission(), idempotency_key="k") is job
    assert await queue.add(submission(), idempotency_key="other") is not job
    assert len(await queue.take("w", wait=0, count=9)) == 2
    assert await queue.add(submission(), idempotency_key="k") is job, "also while it runs"


async def test_silence_proves_nothing(queue: JobQueue, clock: Clock) -> None:
    job = await queue.add(submission())
    await take_one(queue)
    clock.now += LIMITS.worker_silence - 1
    queue.workers.seen("w")
    clock.now += LIMITS.worker_silence + 1
    queue.sweep()
    assert job.state is RunPodState.IN_PROGRESS
    assert queue.health().workers.running == queue.health().workers.idle == 0
    assert queue.finish(job.id, "w", result="late, and welcome")
    assert (await ended(queue, job)).result == "late, and welcome"


async def test_streamed_chunks_come_once_in_order_and_are_bounded(clock: Clock) -> None:
    queue = JobQueue(GatewayLimits(stream_bytes=200), MemoryJournal(), clock=clock)
    job = await queue.add(submission())
    await take_one(queue)
    queue.stream(job.id, "w", b"1")
    queue.stream(job.id, "w", b"2")
    assert queue.live.take_stream(job) == [b"1", b"2"]
    assert queue.live.take_stream(job) == []
    with pytest.raises(OutputTooLarge):
        queue.stream(job.id, "w", b"x" * 200)


async def test_health_counts(queue: JobQueue) -> None:
    done, failed, running, _ = [await queue.add(submission(n)) for n in range(4)]
    for _ in range(3):
        await take_one(queue)
    queue.finish(done.id, "w", result="1")
    queue.finish(failed.id, "w", result="no", failed=True)
    await queue.take("idle", wait=0, count=0)
    assert running.state is RunPodState.IN_PROGRESS
    assert queue.health().model_dump(by_alias=True) == {
        "jobs": {"completed": 1, "failed": 1, "inProgress": 1, "inQueue": 1, "retried": 0},
        "workers": {"idle": 1, "running": 1, "initializing": 0, "throttled": 0},
        "idleTimeout": None,
        "hardware": None,
    }


async def test_closing_answers_everybody_and_has_jobs_stopped(queue: JobQueue) -> None:
    job = await queue.add(submission())
    await take_one(queue)
    waiters = [
        asyncio.create_task(queue.take("other", wait=60)),
        asyncio.create_task(queue.workers.take_stops("w", wait=60)),
        asyncio.create_task(queue.wait_until_final(job.id, 60)),
    ]
    await settled()
    queue.close()
    assert await asyncio.wait_for(asyncio.gather(*waiters), 60) == [[], [job.id], None]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "JSON"),
        (b"[]", "body"),
        (b"{}", "input"),
        (b'{"input": {}, "policy": {"executionTimeout": 10}}', "out of range"),
        (b'{"input": {}, "policy": {"ttl": 10}}', "out of range"),
        *(
            (b'{"input": 1, "policy": {"%s": %s}}' % (name, number), "policy|out of range")
            for name in (b"ttl", b"executionTimeout")
            for number in (b"9" * 400, b"9" * 5000, b"1e400", b"-1", b"1.5", b'"x"', b"9" * 18)
        ),
        (b'{"input": NaN}', "JSON"),
        (b'{"input": 1, "policy": {"ttl": Infinity}}', "JSON"),
        (b'{"input": 1, "policy": {"lowPriority": 7}}', "lowPriority"),
        (b'{"input": 1, "webhook": "https://x/' + b"y" * 3000 + b'"}', "webhook"),
        (b'{"input": [' + b"[],[]," * 300_000 + b"1]}", "values"),
        (b'{"input": ' + b"[" * 100_000, "JSON"),
        (b'{"input": {}, "webhook": "http://example.com/x"}', "https"),
        (b'{"input": {}, "webhook": "file:///etc/passwd"}', "https"),
        (b'{"input": {}, "webhook": "https://127.0.0.1/x"}', "private network"),
        (b'{"input": {}, "webhook": "https://169.254.169.254/x"}', "private network"),
        (b'{"input": {}, "webhook": "http://localhost:8188/x"}', "COMFY_REMOTE_WEBHOOK_HOSTS"),
        (b'{"input": {}, "webhook": "https://2130706433/x"}', "unusual form"),
    ],
)
def test_a_wrong_submission_says_what_is_wrong(body: bytes, words: str) -> None:
    with pytest.raises(WorkflowInvalid, match=words):
        Submission.parse(body, LIMITS)


def test_a_webhook_may_be_public_or_where_the_owner_allows() -> None:
    limits = replace(LIMITS, webhook_hosts=frozenset({"127.0.0.1:9"}))
    for address in ("https://example.com/x", "http://127.0.0.1:9/x"):
        body = f'{{"input": 1, "webhook": "{address}"}}'.encode()
        assert Submission.parse(body, limits).webhook == address
