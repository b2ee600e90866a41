"""Progress that is guessed: when, how far, and that it never says more than it knows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from fake_target import FakeTarget
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import in_virtual_time

from comfy_remote.errors import TargetUnreachable
from comfy_remote.events import Event, Finished, JobState, Progress, Queued, Started
from comfy_remote.jobs import guessed_progress
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.guessed_progress import ProgressEstimate, estimate_progress, with_estimates
from comfy_remote.jobs.record import Record
from comfy_remote.workflow.prompt import Prompt
from comfy_remote.workflow.workload import workload_of

PROMPT: Prompt = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "3": {"class_type": "KSampler", "inputs": {"model": ["4", 0], "steps": 18}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
}
"""20 units of work: 1, 18, 1."""

DONE = Finished(JobState.SUCCEEDED)


def guess(seconds: float = 20.0, prompt: Prompt = PROMPT) -> ProgressEstimate:
    return ProgressEstimate(prompt, workload_of(prompt), seconds, "by past runs: 3")


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with Record(tmp_path) as made:
        yield made


# How far


def test_it_goes_through_the_nodes_as_their_work_says() -> None:
    estimate = guess(18.0)  # nine tenths of it are due after 18 s: one unit of work a second
    first = estimate.at(0.5)
    assert (first.node_id, first.node_class, first.nodes_done) == ("4", "CheckpointLoaderSimple", 0)
    middle = estimate.at(10.5)
    assert (middle.node_id, middle.node_class) == ("3", "KSampler")
    assert (middle.nodes_done, middle.nodes_total, middle.step, middle.steps) == (1, 3, 9.0, 18.0)
    late = estimate.at(10_000.0)
    assert (late.node_id, late.nodes_done, late.step) == ("9", 2, None)


def test_each_guess_says_that_it_is_one_and_what_it_is_taken_from() -> None:
    assert guess().at(3.2).message == "about 17 s left (estimated: by past runs: 3)"
    assert guess().at(30).message == "longer than expected (estimated: by past runs: 3)"
    assert guess().at(3).estimated


@given(
    st.lists(st.floats(0, 1e7), min_size=2, max_size=30),
    st.floats(0.1, 1e5),
    st.lists(st.integers(1, 60) | st.none(), max_size=6),
)
def test_it_only_ever_grows_and_never_says_that_the_job_is_done(
    times: list[float], seconds: float, steps: list[int | None]
) -> None:
    prompt: Prompt = {
        str(n): {"class_type": "KSampler", "inputs": {} if count is None else {"steps": count}}
        for n, count in enumerate(steps)
    }
    estimate = guess(seconds, prompt)
    fractions = [estimate.at(time).fraction for time in sorted(times)]
    assert fractions == sorted(fractions)
    assert all(0.0 <= fraction < 1.0 for fraction in fractions)
    for moment in times:
        snapshot = estimate.at(moment)
        assert snapshot.nodes_done <= max(0, snapshot.nodes_total - 1)


# By what


def ran(record: Record, seconds: float, prompt: Prompt = PROMPT, target: str = "gpu") -> None:
    job_id = f"job-{len(record.newest(100))}"
    record.add(job_id, target=target, source="x", folder=None, prompt=prompt)
    record.state(job_id, JobState.SUCCEEDED, run_seconds=seconds)


def test_past_runs_say_how_long_it_takes(record: Record) -> None:
    assert "no past run" in estimate_progress(record, "gpu", PROMPT).at(1).message
    ran(record, 5.0, target="another")
    assert "no past run" in estimate_progress(record, "gpu", PROMPT).at(1).message
    ran(record, 100.0, {"1": {"class_type": "KSampler", "inputs": {"steps": 10}}})
    others = estimate_progress(record, "gpu", PROMPT).at(1).message
    assert others == "about 199 s left (estimated: by past runs of other workflows)"
    ran(record, 40.0)
    own = estimate_progress(record, "gpu", PROMPT).at(1).message
    assert own == "about 39 s left (estimated: by past runs: 1)"


def test_the_last_start_of_a_worker_is_remembered(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])

    def job(name: str, waits: float, runs: float = 10.0, target: str = "gpu") -> None:
        record.add(name, target=target, source="x", folder=None, prompt=PROMPT)
        now[0] += waits
        record.state(name, JobState.RUNNING)
        now[0] += runs
        record.state(name, JobState.SUCCEEDED)

    assert record.last_start("gpu") is None
    job("awake", 1.0)
    assert record.last_start("gpu") is None
    job("cold", 100.0)
    job("awake again", 1.0)
    job("another", 70.0, target="other")
    assert record.last_start("gpu") == pytest.approx(100.0)
    # One that waited for another job says nothing of a worker's start.
    record.add("first", target="gpu", source="x", folder=None, prompt=PROMPT)
    now[0] += 1
    record.add("behind", target="gpu", source="x", folder=None, prompt=PROMPT)
    now[0] += 50
    record.state("first", JobState.SUCCEEDED)
    record.state("behind", JobState.RUNNING)
    record.state("behind", JobState.SUCCEEDED)
    assert record.last_start("gpu") == pytest.approx(100.0)


# When


def at_once(seconds: float = 20.0) -> Callable[[], Awaitable[ProgressEstimate]]:
    async def estimated() -> ProgressEstimate:
        return guess(seconds)

    return estimated


async def told(events: list[Event | float | Exception]) -> AsyncGenerator[Event, None]:
    """Events, and pauses in seconds between them."""
    for event in events:
        if isinstance(event, float):
            await asyncio.sleep(event)
        elif isinstance(event, Exception):
            raise event
        else:
            yield event


async def followed(
    *events: Event | float | Exception, elapsed: float = 0.0, seconds: float = 20.0
) -> list[Event]:
    followed = with_estimates(
        told(list(events)), at_once(seconds), elapsed=elapsed, patience=0.2, interval=0.05
    )
    return [event async for event in followed]


def guesses(events: list[Event]) -> list[Progress]:
    return [event for event in events if isinstance(event, Progress) and event.estimated]


@in_virtual_time
async def test_a_silent_job_is_guessed_while_it_runs() -> None:
    events = await followed(Queued(), 0.4, Started(), 0.6, DONE, seconds=1.0)
    assert events[:2] == [Queued(), Started()]  # nothing while it waits
    assert events[-1] == DONE
    made = guesses(events)
    assert 3 <= len(made) <= 9
    assert made == events[2:-1]
    fractions = [one.fraction for one in made]
    assert fractions == sorted(fractions)
    assert fractions[0] < fractions[-1]


@in_virtual_time
async def test_a_job_that_tells_is_left_alone() -> None:
    real = Progress(nodes_done=1, nodes_total=3)
    events = await followed(Started(), real, 0.5, DONE)
    assert events == [Started(), real, DONE]


@in_virtual_time
async def test_the_first_real_word_ends_the_guessing() -> None:
    real = Progress(nodes_done=1, nodes_total=3)
    events = await followed(Started(), 0.35, real, 0.5, real, DONE)
    place = events.index(real)
    assert guesses(events[:place])
    assert events[place:] == [real, real, DONE]


@in_virtual_time
async def test_a_quick_job_is_not_guessed() -> None:
    assert await followed(Started(), 0.05, DONE) == [Started(), DONE]


@in_virtual_time
async def test_a_job_whose_worker_died_begins_anew() -> None:
    events = await followed(Started(), 0.35, Queued(), 0.4, Started(), 0.35, DONE, seconds=1.0)
    requeued = events.index(Queued())
    assert guesses(events[:requeued])
    assert events[requeued + 1] == Started()
    again = guesses(events[requeued:])
    assert again
    assert "about 1 s left" in again[0].message  # counted from its second start


@in_virtual_time
async def test_a_job_that_is_taken_up_goes_on_where_it_was() -> None:
    events = await followed(Started(), 0.3, DONE, elapsed=15.0)
    assert guesses(events)[0].message.startswith("about 5 s left")


@in_virtual_time
async def test_an_error_of_the_target_passes_through() -> None:
    with pytest.raises(TargetUnreachable):
        await followed(Started(), 0.3, TargetUnreachable("gone"))


@pytest.mark.parametrize("pause", [0.01, 0.3])
@in_virtual_time
async def test_who_stops_listening_closes_the_target(pause: float) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[Event, None]:
        try:
            yield Started()
            await asyncio.sleep(3600)
        finally:
            closed.set()

    async def listen() -> None:
        async for _ in with_estimates(endless(), at_once(), patience=0.1, interval=0.05):
            pass

    task = asyncio.ensure_future(listen())
    await asyncio.sleep(pause)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await asyncio.wait_for(closed.wait(), 60)


async def test_a_job_shows_it_and_the_record_says_so(
    record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guessed_progress, "PATIENCE", 0.05)
    monkeypatch.setattr(guessed_progress, "INTERVAL", 0.05)
    async with Client(FakeTarget([Started()]), record=record) as client:
        job = await client.submit(PROMPT)
        async for event in job:
            if isinstance(event, Progress):
                break
    progress = record.get(job.id).progress
    assert progress is not None
    assert progress["estimated"] is True
    assert progress["nodes_total"] == 3
