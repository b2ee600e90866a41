"""How the RunPod SDK's worker takes jobs here, and that the SDK is the one this was written for."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from helpers import until
from virtual_time import in_virtual_time

rp_scale = pytest.importorskip("runpod.serverless.modules.rp_scale")
http_client = pytest.importorskip("runpod.http_client")

from comfy_remote.worker.sdk import OneJobScaler, SdkTimes  # noqa: E402 - needs the SDK

WRITTEN_FOR = {
    # replaced by `OneJobScaler.run`
    "run": "f6c6b5f871b94c72",
    "get_jobs": "e08b2e0cfb262643",
    "run_jobs": "74cd623de98ef8b4",
    # replaced
    "handle_shutdown": "5d8a51e34251f513",
    # called as they are
    "handle_job": "fe2350bfac7373f7",
    "monitor_stop_signals": "3bf52c6dcde159b4",
    "stop_job": "dc57f329f526b934",
    "kill_worker": "863effbe007ad0f9",
}


def test_the_sdk_is_the_one_that_this_was_written_for() -> None:
    """If this fails: read what changed in `JobScaler`, make `OneJobScaler` fit, record the hash."""
    found = {
        name: hashlib.sha256(inspect.getsource(getattr(rp_scale.JobScaler, name)).encode())
        for name in WRITTEN_FOR
    }
    assert {name: seen.hexdigest()[:16] for name, seen in found.items()} == WRITTEN_FOR


class Queue:
    """RunPod's side: jobs to take, stops to send, and what was asked for when."""

    def __init__(self, *jobs: str) -> None:
        self.jobs = list(jobs)
        self.stops: asyncio.Queue[str] = asyncio.Queue()
        self.asked: list[tuple[int, str]] = []
        self.waits = 0
        self.running: set[str] = set()
        self.ended: list[str] = []
        self.refusals: list[Exception] = []

    async def take(self, _session: object, count: int) -> list[dict[str, Any]] | None:
        self.asked.append((count, ",".join(sorted(self.running))))
        if self.refusals:
            raise self.refusals.pop()
        if not self.jobs:
            self.waits += 1
            await asyncio.sleep(60)
        return [{"id": self.jobs.pop(0), "input": {}}]

    async def stop_signals(self, _session: object) -> list[str]:
        return [await self.stops.get()]


class Jobs:
    """Runs jobs: each until it is released, those of ``quick`` at once."""

    def __init__(self, queue: Queue, quick: str = "") -> None:
        self.queue, self.quick = queue, quick
        self.release = asyncio.Event()
        self.config: dict[str, object] = {}

    async def run(self, _session: object, config: dict[str, object], job: dict[str, Any]) -> None:
        self.config = config
        job_id = job["id"]
        self.queue.running.add(job_id)
        try:
            if job_id not in self.quick:
                await self.release.wait()
            self.queue.ended.append(job_id)
            if job_id == "broken":
                raise ValueError("this one fails")
        except asyncio.CancelledError:
            self.queue.ended.append(f"{job_id} stopped")
            raise
        finally:
            self.queue.running.discard(job_id)


async def always() -> bool:
    return True


def scaler_of(
    queue: Queue, jobs: Jobs, ready: Callable[[], Awaitable[bool]] = always
) -> OneJobScaler:
    scaler = OneJobScaler({}, ready, SdkTimes(poll=30.0, too_many=0.01, failure=0.01))
    scaler.jobs_fetcher = queue.take
    scaler.jobs_handler = jobs.run
    scaler.stop_signals_fetcher = queue.stop_signals
    return scaler


@in_virtual_time
async def test_one_job_is_taken_at_a_time_and_the_next_as_soon_as_it_has_ended() -> None:
    queue = Queue("a", "b", "c")
    jobs = Jobs(queue, quick="abc")
    scaler = scaler_of(queue, jobs)
    begun = time.monotonic()
    running = asyncio.ensure_future(scaler.run())
    await until(lambda: queue.waits == 1)
    # The SDK's own loops would have slept two seconds by now.
    assert time.monotonic() - begun < 0.9
    assert queue.ended == ["a", "b", "c"]
    assert queue.asked == [(1, "")] * 4, "one job at a time, and none while one runs"
    assert scaler.job_progress.get_job_list() is None
    scaler.kill_worker()
    await asyncio.wait_for(running, 60)


async def test_a_job_that_runs_is_known_to_the_pings_and_can_be_stopped() -> None:
    queue = Queue("a", "b")
    scaler = scaler_of(queue, Jobs(queue))
    running = asyncio.ensure_future(scaler.run())
    await until(lambda: queue.running == {"a"})
    assert scaler.job_progress.get_job_list() == "a"
    queue.stops.put_nowait("a")
    await until(lambda: queue.running == {"b"})
    assert queue.ended == ["a stopped"], "and the worker takes the next"
    assert scaler.job_progress.get_job_list() == "b"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_asked_to_end_an_idle_worker_ends_at_once() -> None:
    queue = Queue()
    scaler = scaler_of(queue, Jobs(queue))
    running = asyncio.ensure_future(scaler.run())
    await until(lambda: queue.waits == 1)
    # As a signal handler would: outside of the loop, which sleeps.
    threading.Thread(target=scaler.handle_shutdown, args=(signal.SIGTERM, None)).start()
    await asyncio.wait_for(running, 60)


async def test_asked_to_end_a_busy_worker_finishes_its_job_and_takes_no_other() -> None:
    queue = Queue("a", "b")
    jobs = Jobs(queue)
    scaler = scaler_of(queue, jobs)
    running = asyncio.ensure_future(scaler.run())
    await until(lambda: queue.running == {"a"})
    scaler.handle_shutdown(signal.SIGTERM, None)
    await asyncio.sleep(0.05)
    assert not running.done()
    jobs.release.set()
    await asyncio.wait_for(running, 60)
    assert (queue.ended, queue.jobs) == (["a"], ["b"])


async def test_asked_to_end_while_it_gets_ready_a_worker_asks_for_no_job() -> None:
    """A question that is given up may have been answered with a job, which would be lost."""
    queue = Queue("a")

    async def ready() -> bool:
        scaler.handle_shutdown(signal.SIGTERM, None)
        await asyncio.sleep(0.01)
        return True

    scaler = scaler_of(queue, Jobs(queue), ready)
    await asyncio.wait_for(scaler.run(), 60)
    assert (queue.asked, queue.jobs) == ([], ["a"])


@pytest.mark.parametrize("odd", [{"id": ["a"], "input": {}}, {"input": {}}, "a", None])
async def test_what_is_not_a_job_does_not_end_the_worker(odd: object) -> None:
    queue = Queue("a")
    given: list[Any] = [[odd]]

    async def take(session: object, count: int) -> Any:
        return given.pop() if given else await queue.take(session, count)

    scaler = scaler_of(queue, Jobs(queue, quick="a"))
    scaler.jobs_fetcher = take
    running = asyncio.ensure_future(scaler.run())
    await until(lambda: queue.waits == 1)
    assert queue.ended == ["a"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_worker_that_is_to_be_replaced_ends_with_its_job() -> None:
    queue = Queue("a", "b")
    jobs = Jobs(queue, quick="ab")
    scaler = scaler_of(queue, jobs)
    scaler.config["refresh_worker"] = True
    await asyncio.wait_for(scaler.run(), 60)  # though the question for stops goes on
    assert (queue.ended, queue.jobs) == (["a"], ["b"])


async def test_no_job_is_taken_before_the_worker_is_ready_for_it() -> None:
    queue = Queue("a", "b")
    answers = [True, False]

    async def ready() -> bool:
        return answers.pop(0)

    await asyncio.wait_for(scaler_of(queue, Jobs(queue, quick="ab"), ready).run(), 60)
    assert (queue.ended, queue.jobs) == (["a"], ["b"])


async def test_a_queue_that_cannot_be_asked_is_asked_again() -> None:
    queue = Queue("broken", "a")
    address = aiohttp.client_reqrep.RequestInfo(  # what an answer of aiohttp says of its request
        url="http://queue", method="GET", headers={}, real_url="http://queue"
    )
    queue.refusals = [
        http_client.TooManyRequests(address, (), status=429),
        aiohttp.ClientConnectionError("refused"),
        Exception("Job has missing field(s): id or input."),
        asyncio.TimeoutError(),
    ]
    running = asyncio.ensure_future(scaler_of(queue, Jobs(queue, quick="broken a")).run())
    await until(lambda: queue.waits == 1)
    assert queue.ended == ["broken", "a"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_the_processors_name_is_looked_up_for_the_sdks_debugger_alone() -> None:
    script = (
        "import sys, cpuinfo\n"
        "from comfy_remote.worker import runpod_entry\n"
        "look = cpuinfo.get_cpu_info\n"
        "with runpod_entry.without_processor_name():\n"
        "    from comfy_remote.worker import sdk\n"
        "assert cpuinfo.get_cpu_info is look\n"
        "print(sys.modules['runpod.serverless.utils.rp_debugger'].PROCESSOR)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert ended.stdout == "Unable to get processor info.\n", ended.stderr
