"""A submission that is interrupted before the job was sent: nothing runs, and that is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web
from fake_comfy_api import ASSETS, JOBS, FakeComfyApi, job_json, refusal
from fake_comfy_api import PROMPT as PROMPT_ALONE
from fake_target import FakeTarget
from scripted_server import Answer

from comfy_remote import Client
from comfy_remote.aio import Deadline
from comfy_remote.errors import JobTimedOut
from comfy_remote.events import DidItRun, Event, Finished, JobState, Started
from comfy_remote.jobs.interruption import Patience, started
from comfy_remote.jobs.record import Record
from comfy_remote.jobs.submission import send
from comfy_remote.net.http import HttpLimits
from comfy_remote.net.retry import Backoff
from comfy_remote.targets.base import RemoteRef, RunRequest, before_sending
from comfy_remote.targets.comfy_api.target import ComfyApiTarget, ComfyApiTimes
from comfy_remote.targets.sending import Sending
from comfy_remote.workflow.prompt import Prompt

ID = "11111111-2222-4333-8444-555555555555"
PROMPT: Prompt = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}
LONG = Patience(submit=3600.0)
"""Whoever waits for it does not end in time."""


@pytest.fixture
async def server() -> AsyncIterator[FakeComfyApi]:
    async with FakeComfyApi() as server:
        yield server


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    with Record(tmp_path / "home") as record:
        yield record


def client_of(server: FakeComfyApi, record: Record) -> Client:
    times = ComfyApiTimes(
        requests=HttpLimits(backoff=Backoff(attempts=2, first=0.005, longest=0.01)),
        full=Backoff(attempts=9, first=3600.0, longest=3600.0),
    )
    target = ComfyApiTarget(server.url, times=times)
    return Client(target, record=record, on_interrupt="cancel", patience=LONG)


async def interrupted(
    server: FakeComfyApi, record: Record, folder: Path, reached: asyncio.Event
) -> None:
    """Send a job with a file, and stop once the server has reached that point."""
    (folder / "in.png").write_bytes(b"\x89PNG some picture")
    async with client_of(server, record) as client:
        sending = asyncio.ensure_future(client.submit(PROMPT, job_id=ID, base=folder))
        await reached.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
    entry = record.get(ID)
    assert (entry.state, entry.did_it_run) == (JobState.CANCELLED, DidItRun.NEVER_ACCEPTED)


async def test_while_a_file_is_sent(server: FakeComfyApi, record: Record, tmp_path: Path) -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    async def held(_: web.Request) -> web.StreamResponse:
        reached.set()
        await go.wait()
        return web.Response()

    server.on(ASSETS, held)
    await interrupted(server, record, tmp_path, reached)
    go.set()
    assert server.count(JOBS) == 0


async def test_while_a_deployment_starts(
    server: FakeComfyApi, record: Record, tmp_path: Path
) -> None:
    reached = asyncio.Event()

    async def full(_: web.Request) -> web.StreamResponse:
        reached.set()
        return refusal(429, "deployment_not_ready").response()

    server.on(JOBS, full)
    await interrupted(server, record, tmp_path, reached)


async def test_a_server_that_ends_does_not_give_up_a_job_of_its_clients(record: Record) -> None:
    """It looks for it, and sends it, when it is back."""
    record.add(ID, target="x", source="x", folder=None, prompt=PROMPT)
    target = _StillPrepares("http://127.0.0.1:9")
    sending = asyncio.ensure_future(send(target, record, RunRequest(ID, PROMPT), Deadline(None)))
    await target.preparing.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    entry = record.get(ID)
    assert (entry.state, entry.error) == (JobState.QUEUED, None)


class _StillPrepares(ComfyApiTarget):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.preparing = asyncio.Event()

    async def submit(self, request: RunRequest) -> RemoteRef:
        with before_sending():
            self.preparing.set()
            await asyncio.Event().wait()
        raise AssertionError("unreachable")


async def test_a_time_limit_that_ends_before_the_job_was_sent(record: Record) -> None:
    record.add(ID, target="x", source="x", folder=None, prompt=PROMPT)
    target = _StillPrepares("http://127.0.0.1:9")
    with pytest.raises(JobTimedOut, match="could not be sent") as late:
        await send(target, record, RunRequest(ID, PROMPT), Deadline(0.01))
    assert DidItRun.of(late.value) is DidItRun.NEVER_ACCEPTED
    assert record.get(ID).state is JobState.FAILED


async def test_a_job_that_is_on_its_way_is_waited_for_and_cancelled(
    server: FakeComfyApi, record: Record, tmp_path: Path
) -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    async def held(_: web.Request) -> web.StreamResponse:
        reached.set()
        await go.wait()
        return Answer(job_json(), 201).response()

    async def cancelled(_: web.Request) -> web.StreamResponse:
        ended = job_json("canceled")
        server.on("GET /api/v2/jobs/j1", Answer(ended))
        return Answer(ended).response()

    server.on(JOBS, held)
    server.on("POST /api/v2/jobs/j1/cancel", cancelled)
    (tmp_path / "in.png").write_bytes(b"\x89PNG some picture")
    async with client_of(server, record) as client:
        sending = asyncio.ensure_future(client.submit(PROMPT, job_id=ID, base=tmp_path))
        await reached.wait()
        sending.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await sending
    assert server.count("POST /api/v2/jobs/j1/cancel") == 1
    assert record.get(ID).state is JobState.CANCELLED


async def test_what_is_stopped_while_it_prepares_never_sends() -> None:
    """Also if it is ready at the very moment."""
    preparing, ready, sent = asyncio.Event(), asyncio.Event(), []

    async def submit() -> None:
        with Sending().watched():
            with before_sending():
                preparing.set()
                with suppress(asyncio.CancelledError):  # as if it had been ready first
                    await ready.wait()
            sent.append(True)

    task = asyncio.ensure_future(started(submit(), patience=LONG))
    await preparing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not sent


def test_one_of_several_that_was_sent_counts() -> None:
    whole, first, second = Sending(), Sending(), Sending()
    with whole.watched():
        with first.watched(), before_sending():
            assert whole.surely_not
        with second.watched(), before_sending():
            assert not whole.surely_not
    assert not second.surely_not


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([Started()], "was cancelled at fake, which has not said that it has ended. "),
        ([Started(), Finished(JobState.SUCCEEDED)], "had ended at fake: succeeded."),
    ],
)
async def test_a_cancel_is_reported_as_far_as_its_end_is_known(
    record: Record, caplog: pytest.LogCaptureFixture, events: list[Event], said: str
) -> None:
    patience = Patience(end=0.05)
    client = Client(FakeTarget(events), record=record, on_interrupt="cancel", patience=patience)
    with pytest.raises(ZeroDivisionError):
        async with client:
            job = await client.submit({**PROMPT_ALONE})
            raise ZeroDivisionError
    assert f"Interrupted: job {job.id} {said}" in caplog.text
