"""What the queue tells `placing` of its workers, and what comes of it."""

from __future__ import annotations

import asyncio
import time

import pytest
from gateway_kit import Clock
from memory_journal import MemoryJournal
from pydantic import JsonValue
from virtual_time import in_virtual_time

from comfy_remote.gateway import GatewayServer
from comfy_remote.gateway.job import Job, Policy, Submission
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.gateway.offers import Needs, Offer
from comfy_remote.gateway.queue import JobQueue
from comfy_remote.wire.joined import Held
from comfy_remote.wire.runpod import RunPodState

A, B = Needs(models=frozenset({"vae/a"})), Needs(models=frozenset({"vae/b"}))
RARE = Needs(nodes=frozenset({"Rare"}))
HAS_RARE, LACKS_RARE = Offer(nodes=frozenset({"Rare"})), Offer(nodes=frozenset())
BOOT = "0" * 32 + "." + "1" * 32


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> JobQueue:
    return JobQueue(GatewayLimits(), MemoryJournal(), clock=clock)


async def add(queue: JobQueue, needs: Needs, **policy: object) -> Job:
    submission = Submission(input=1, policy=Policy.model_validate(policy))
    return await queue.add(submission, needs=needs)


async def take(queue: JobQueue, worker: str) -> Job | None:
    leases = await queue.take(worker, wait=0)
    return leases[0].job if leases else None


async def test_a_worker_that_says_hello_again_is_still_warm(queue: JobQueue) -> None:
    await queue.hello("one", BOOT, [], offer=Offer())
    job = await add(queue, A)
    assert await take(queue, "one") is job
    await queue.hello("one", BOOT, [Held(job=job.id, attempt=1)], offer=Offer())
    queue.finish(job.id, "one", result=b"{}", attempt=1)
    await queue.hello("one", BOOT, [], offer=HAS_RARE)

    await queue.hello("two", BOOT, [], offer=Offer())
    again = await add(queue, A)
    assert await take(queue, "two") is None
    assert queue.why(again) == "It is about to be taken."
    await queue.hello("one", BOOT.replace("1", "2"), [], offer=Offer())
    assert await take(queue, "two") is again, "a worker that was started again has nothing loaded"


async def test_what_a_worker_says_is_paid_is_not_started_once_more(queue: JobQueue) -> None:
    await queue.hello("one", BOOT, [], offer=Offer(paid=frozenset({"Rare"})))
    assert not (await add(queue, RARE)).repeat_lost
    assert (await add(queue, A)).repeat_lost


@in_virtual_time
async def test_who_waits_for_a_warm_worker_is_woken_when_that_ends() -> None:
    queue = JobQueue(GatewayLimits(warm_patience=0.05), MemoryJournal(), clock=time.monotonic)
    await queue.hello("one", BOOT, [], offer=Offer())
    await queue.hello("two", BOOT, [], offer=Offer())
    first = await add(queue, A)
    assert await take(queue, "one") is first
    queue.finish(first.id, "one", result=b"{}")
    second = await add(queue, A)
    assert await take(queue, "two") is None
    (lease,) = await asyncio.wait_for(queue.take("two", wait=30), 60)
    assert lease.job is second


async def test_a_job_waits_for_a_worker_that_is_silent_and_has_its_nodes(
    queue: JobQueue, clock: Clock
) -> None:
    await queue.hello("having", BOOT, [], offer=HAS_RARE)
    await take(queue, "having")
    clock.now += 500
    await queue.hello("lacking", BOOT, [], offer=LACKS_RARE)
    queue.sweep()
    job = await add(queue, RARE)
    assert await take(queue, "lacking") is None
    assert queue.why(job) == "Each worker that can run it is away: having. The others lack Rare."
    assert await take(queue, "having") is job


async def test_after_a_restart_jobs_wait_for_who_has_their_nodes(clock: Clock) -> None:
    queue = JobQueue(GatewayLimits(), MemoryJournal(), clock=clock)
    waits = Job("j", 1000.0, 9000.0, 60.0, 60.0, 1000, needs=RARE, queued=1000.0)
    queue.restore([waits])
    queue.expect_workers()
    await queue.hello("lacking", BOOT, [], offer=LACKS_RARE)
    assert await take(queue, "lacking") is None
    await queue.hello("having", BOOT, [], offer=HAS_RARE)
    assert await take(queue, "having") is waits


async def test_after_a_restart_nobody_is_waited_for_for_ever(clock: Clock) -> None:
    queue = JobQueue(GatewayLimits(), MemoryJournal(), clock=clock)
    waits = Job("j", 1000.0, 9000.0, 60.0, 60.0, 1000, needs=RARE, queued=1000.0)
    queue.restore([waits])
    queue.expect_workers()
    await queue.hello("lacking", BOOT, [], offer=LACKS_RARE)
    clock.now += 30
    assert await take(queue, "lacking") is waits


async def test_a_new_worker_was_not_idle_before_it_was_ready(queue: JobQueue, clock: Clock) -> None:
    await queue.hello("one", BOOT, [], offer=Offer())
    job = await add(queue, A)
    assert await take(queue, "one") is job
    await queue.hello("two", BOOT, [], offer=Offer())
    clock.now += 100  # its engine starts
    await add(queue, A)
    clock.now += 2
    assert await take(queue, "two") is None


async def test_what_a_submitted_job_needs_is_read_from_its_input() -> None:
    async def handler(job_id: str, payload: JsonValue, report: object) -> dict[str, JsonValue]:
        return {}

    loads: JsonValue = {"1": {"class_type": "VAELoader", "inputs": {"vae_name": "a.pt"}}}
    pays: JsonValue = {"1": {"class_type": "FluxProUltraImageNode", "inputs": {}}}
    long: JsonValue = {**loads, "2": {"class_type": "X", "inputs": {"text": "x" * 20_000}}}
    async with GatewayServer() as gateway:

        async def submit(workflow: JsonValue) -> Job:
            given = Submission(input={"workflow": workflow})
            status = await gateway.endpoint.submit(given, sync=False, idempotency_key=None)
            return await gateway.queue.get(str(status["id"]))

        job = await submit(loads)
        assert job.needs == Needs(frozenset({"VAELoader"}), frozenset({"vae/a.pt"}))
        assert job.repeat_lost
        assert (await submit(long)).needs.models == {"vae/a.pt"}, "in a thread"
        assert not (await submit(pays)).repeat_lost
        gateway.add_local_worker(handler)
        await gateway.queue.wait_until_final(job.id, 5)
        assert (await gateway.queue.get(job.id)).state is RunPodState.COMPLETED
