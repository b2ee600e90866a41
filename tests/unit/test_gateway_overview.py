"""What a gateway's page shows, as the JSON that it asks for."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import pytest
from seen_kit import a_job, a_state, a_worker, that_ran

from comfy_remote.errors import OutOfMemory
from comfy_remote.gateway.job import Ending, Job
from comfy_remote.gateway.offers import Offer
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
from comfy_remote.gateway.seen.job_log import log_event
from comfy_remote.gateway.seen.overview import RecentEnds, overview, progress_of
from comfy_remote.gateway.seen.shown import Shown
from comfy_remote.gateway.workers import Worker, WorkerState
from comfy_remote.secrets import SECRETS
from comfy_remote.wire.runpod import RunPodState, error_to_runpod

HOSTILE = "\x1b[2J\u202egpj.exe\nINFO all is well"


def found_slowly(_job: Job) -> str:
    """A reason that takes a while to find."""
    time.sleep(0.001)
    return "busy"


async def test_the_whole_of_it() -> None:
    running = a_job("r", worker_id="studio.0", started=90.0, attempt=2, client="desk")
    running.more = json.dumps({"output": {"nodes_done": 1, "nodes_total": 4}}).encode()
    warm = frozenset({"vae/x.safetensors"})
    worker = a_worker(
        "studio.0",
        running={"r": running},
        engine="ComfyUI 0.33.0",
        device="NVIDIA L4",
        version="0.2.0",
        offer=Offer(memory=5, labels=frozenset({"b", "a"}), warm=warm),
    )
    waiting = [a_job("w", queued=40.0, batch="night", priority=3, front=True), a_job("v")]
    ends = RecentEnds()
    ends(JobEnded(that_ran("studio.0", 5.0, RunPodState.FAILED, "out_of_memory")))
    seen = await overview(
        a_state(
            workers=[worker],
            running=[running],
            waiting=waiting,
            why=lambda job: f"why {job.id}",
            completed=7,
        ),
        ends,
    )
    assert seen.endpoint == "desk"
    assert (seen.totals.waiting, seen.totals.running, seen.totals.completed) == (2, 1, 7)
    (one,) = seen.workers
    assert (one.state, one.seconds, one.jobs) == (WorkerState.RUNNING, 10.0, ["r"])
    assert (one.id, one.kind, one.engine) == ("studio.0", "joined", "ComfyUI 0.33.0")
    assert (one.device, one.version, one.memory) == ("NVIDIA L4", "0.2.0", 5)
    assert (one.labels, one.warm) == (["a", "b"], ["vae/x.safetensors"])
    (run,) = seen.running
    assert (run.id, run.client, run.attempt, run.worker) == ("r", "desk", 2, "studio.0")
    assert (run.seconds, run.progress) == (10.0, 0.25)
    first, second = seen.waiting
    assert (first.position, first.id, first.why, first.seconds) == (1, "w", "why w", 60.0)
    assert (first.batch, first.priority, first.front) == ("night", 3, True)
    assert (second.position, second.id) == (2, "v")
    (end,) = seen.ended
    assert (end.state, end.code, end.worker) == ("FAILED", "out_of_memory", "studio.0")
    assert (end.seconds, end.ago) == (5.0, 85.0)


@pytest.mark.parametrize(
    ("worker", "state", "seconds"),
    [
        (a_worker(), WorkerState.IDLE, 5.0),
        (a_worker(ready=False), WorkerState.STARTING, None),
        (a_worker(draining=True), WorkerState.DRAINED, None),
        (a_worker(broken="It does not start."), WorkerState.BROKEN, None),
        (a_worker(running={"a": a_job(started=980.0)}), WorkerState.RUNNING, 20.0),
        (a_worker(running={"a": a_job(started=980.0)}, draining=True), WorkerState.RUNNING, 20.0),
        (a_worker(running={"a": a_job(started=980.0)}, silent=True), WorkerState.SILENT, 10.0),
        (a_worker(silent=True, broken="It does not start."), WorkerState.SILENT, 10.0),
    ],
)
async def test_what_a_worker_does(worker: Worker, state: WorkerState, seconds: float) -> None:
    (seen,) = (await overview(a_state(now=1000.0, workers=[worker]), RecentEnds())).workers
    assert (seen.state, seen.seconds) == (state, seconds)
    assert (seen.draining, seen.why) == (worker.draining, worker.broken)
    assert seen.jobs == list(worker.running)


async def test_what_strangers_say_is_cleaned_and_shortened() -> None:
    SECRETS.add("TOKEN", "a-secret-value-of-mine")
    worker = a_worker(
        broken=f"{HOSTILE} a-secret-value-of-mine",
        device=HOSTILE,
        offer=Offer(labels=frozenset({"x" * 10_000})),
    )
    state = a_state(
        workers=[worker], waiting=[a_job(client=HOSTILE, batch=HOSTILE)], why=lambda _job: HOSTILE
    )
    text = (await Shown(lambda: state).overview()).decode()
    assert not any(mark in text for mark in ("\\u001b", "\\n", "\u202e", "a-secret-value-of-mine"))
    assert "[TOKEN]" in text
    assert len(text) < 3000


@pytest.mark.parametrize(
    ("more", "progress"),
    [
        ({"nodes_done": 1, "nodes_total": 4, "step": 5, "steps": 10}, 0.375),
        ({"nodes_done": 4, "nodes_total": 4}, 1.0),
        ({"nodes_done": 9, "nodes_total": 4}, 1.0),
        ({"nodes_done": 1, "nodes_total": 2, "step": 7, "steps": 0}, 0.5),
        ({"nodes_done": 0, "nodes_total": 0}, None),
        ({"nodes_done": -1, "nodes_total": 2}, None),
        ({"nodes_done": "many", "nodes_total": 2}, None),
        ("half of it", None),
        (None, None),
    ],
)
def test_progress_of_whatever_a_worker_says(more: object, progress: float | None) -> None:
    assert progress_of(json.dumps({"output": more}).encode()) == progress


def test_no_progress_without_any() -> None:
    assert progress_of(b"{}") is None
    assert progress_of(b"") is None
    assert progress_of(b'{"output": ') is None


def test_only_the_last_ends_are_known() -> None:
    ends = RecentEnds(most=3)
    for number in range(9):
        ends(JobEnded(a_job(str(number), finished=float(number), state=RunPodState.CANCELLED)))
    assert [(end.id, end.ago) for end in ends.at(10.0)] == [("8", 2.0), ("7", 3.0), ("6", 4.0)]


def test_what_has_ended_before_a_restart_is_known() -> None:
    ends = RecentEnds()
    error = error_to_runpod(OutOfMemory("x"))
    failed = that_ran("w", 5.0, RunPodState.FAILED)
    failed.more = json.dumps({"output": {"outputs": [{"size": 7}]}, "error": error}).encode()
    ends.recall([failed, a_job("b", finished=20.0, state=RunPodState.CANCELLED)])
    newest, oldest = ends.at(30.0)
    assert (newest.id, newest.state, newest.ago) == ("b", "CANCELLED", 10.0)
    assert (oldest.code, oldest.files, oldest.size) == ("out_of_memory", 1, 7)


async def test_who_hangs_up_leaves_no_half_description() -> None:
    waiting = [a_job(str(number)) for number in range(50)]
    shown = Shown(lambda: a_state(waiting=waiting, why=found_slowly))
    asking = asyncio.create_task(shown.overview())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert asking.cancelled()
    assert len(json.loads(await shown.overview())["waiting"]) == 50


async def test_many_who_ask_are_answered_with_one_description_a_second() -> None:
    reads, now = [], 0.0

    def read() -> object:
        reads.append(now)
        return a_state()

    shown = Shown(read, clock=lambda: now)
    for _ in range(5):
        await shown.overview()
    assert len(reads) == 1
    now = 1.5
    await shown.overview()
    assert len(reads) == 2
    shown.on_event(JobEnded(a_job(finished=1.0, state=RunPodState.CANCELLED)))
    answer = json.loads(await shown.overview())
    assert len(reads) == 3, "who cancels a job sees that at once"
    assert [end["state"] for end in answer["ended"]] == ["CANCELLED"]


async def test_a_full_gateway_is_described_in_small_steps() -> None:
    """Nobody else waits for the whole of it, however long its reasons take to find."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    waiting = [a_job(str(number), queued=1.0) for number in range(100)]
    seen = await overview(a_state(waiting=waiting, why=found_slowly), RecentEnds())
    other.cancel()
    assert len(seen.waiting) == 100
    assert turns >= 30


def test_endings_of_results() -> None:
    files = [{"kind": "image", "filename": "a.png", "size": 10}, {"size": 5}, {"text": "x"}]
    assert Ending.of({"outputs": files}, None) == Ending("", 2, 15)
    assert Ending.of({"outputs": "?"}, None) == Ending()
    assert Ending.of(["a"], None) == Ending()
    assert Ending.of({"outputs": [{"size": -5}, {"size": 10**40}, 7]}, None) == Ending("", 2, 0)
    assert Ending.of(None, error_to_runpod(OutOfMemory("x"))).code == "out_of_memory"
    assert Ending.of(None, "it broke").code == "execution_failed"


RAN = that_ran("gpu-0", 42.0, RunPodState.COMPLETED)
RAN.ending = Ending("", 3, 12_000_000)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (JobAccepted(a_job()), "Job a waits."),
        (JobAccepted(a_job(client="desk", batch="night")), "Job a (of desk, batch night) waits."),
        (
            JobAccepted(a_job(client="x) waits. Job b failed", batch='"')),
            'Job a (of "x) waits. Job b failed", batch "\\"") waits.',
        ),
        (
            JobStarted(a_job(worker_id="gpu-0", queued=1.0, started=3.5, attempt=1)),
            "Job a runs on gpu-0, after waiting 2.5 s.",
        ),
        (
            JobStarted(a_job(worker_id="gpu-0", queued=1.0, started=3.5, attempt=2)),
            "Job a runs on gpu-0 (attempt 2), after waiting 2.5 s.",
        ),
        (JobEnded(RAN), "Job a was completed on gpu-0 after 42 s: 3 files, 12.0 MB."),
        (
            JobEnded(that_ran("gpu-0", 1.5, RunPodState.FAILED, "out_of_memory")),
            "Job a failed on gpu-0 after 1.5 s: out_of_memory.",
        ),
        (
            JobEnded(a_job(state=RunPodState.CANCELLED, finished=2.0)),
            "Job a was cancelled before it ran.",
        ),
        (
            JobPutBack(a_job(), "gpu-0", 1.0, "It did not reach the worker."),
            "Job a waits again: It did not reach the worker.",
        ),
        (
            JobRepeated(a_job(), "gpu-0", 1.0, "The worker's process ended."),
            "Job a is to be started once more: The worker's process ended.",
        ),
        (WorkerJoined("gpu-0"), "Worker gpu-0 asks for jobs."),
        (WorkerSilent("gpu-0", 120.0), "Worker gpu-0 has been silent for 2:00."),
        (WorkerBack("gpu-0"), "Worker gpu-0 is back."),
        (WorkerGone("gpu-0", "It has ended."), "Worker gpu-0 is gone: It has ended."),
        (WorkerGone("gpu-0", "Worker gpu-0 was removed."), "Worker gpu-0 was removed."),
    ],
)
def test_the_log_has_a_line_for_each(
    event: QueueEvent, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "comfy_remote")
    log_event(event)
    assert [record.getMessage() for record in caplog.records] == [line]
