"""The loop that takes jobs from a source and awaits a handler for each."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import JsonValue

from comfy_remote.errors import ComfyRemoteError, ConfigurationError, EngineCrashed, OutOfMemory
from comfy_remote.net.retry import Backoff
from comfy_remote.worker.loop import TakenJob, work

AT_ONCE = Backoff(first=0.0, jitter=0.0)


class Source:
    """Gives the jobs of a list, notes what becomes of them, and is closed when there is none."""

    def __init__(self, *payloads: str) -> None:
        self.jobs = [
            TakenJob(str(number), 1, payload.encode()) for number, payload in enumerate(payloads)
        ]
        self.notes: list[tuple[str, Any]] = []
        self.stop = asyncio.Event()

    @property
    def closed(self) -> bool:
        return not self.jobs

    async def take(self) -> TakenJob | None:
        return self.jobs.pop(0)

    async def progress(self, job: TakenJob, snapshot: dict[str, JsonValue]) -> None:
        self.notes.append(("progress", snapshot))

    async def stopped(self, job: TakenJob) -> None:
        await self.stop.wait()

    async def dropped(self, job: TakenJob) -> None:
        self.notes.append(("dropped", job.id))
        self.stop.clear()

    async def finish(self, job: TakenJob, *, output: JsonValue, error: JsonValue) -> None:
        self.notes.append(("finish", (output, error)))

    async def fail(self, job: TakenJob, error: ComfyRemoteError) -> None:
        self.notes.append(("fail", error.code))

    async def put_back(self, job: TakenJob) -> None:
        self.notes.append(("put back", job.id))

    def not_ready(self, error: ComfyRemoteError) -> None:
        self.notes.append(("not ready", error.code))


async def test_jobs_end_with_what_the_handler_gives() -> None:
    async def handler(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        match payload:
            case "ours":
                raise OutOfMemory("Full.")
            case "theirs":
                raise ValueError("bad")
            case "gives up":
                raise asyncio.CancelledError
            case "failed":
                return {"error": "no", "rest": 1, "refresh_worker": True}
        await report({"sequence": 1})
        return {"x": payload}

    source = Source('"ours"', '"theirs"', '"gives up"', '"failed"', "7", f'"{"y" * 20_000}"')
    await work(source, handler)
    assert source.notes == [
        ("fail", "out_of_memory"),
        ("fail", "execution_failed"),
        ("fail", "execution_failed"),
        ("finish", ({"rest": 1}, "no")),
        ("progress", {"sequence": 1}),
        ("finish", ({"x": 7}, None)),
        ("progress", {"sequence": 1}),
        ("finish", ({"x": "y" * 20_000}, None)),
    ]


async def test_a_stopped_job_has_ended_before_it_is_dropped_and_the_next_begins() -> None:
    source = Source("0", "1")

    async def handler(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        if payload == 1:
            return {"next": True}
        source.stop.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            source.notes.append(("ended", job_id))
        return {}

    await work(source, handler)
    assert source.notes == [("ended", "0"), ("dropped", "0"), ("finish", ({"next": True}, None))]


async def test_cancelled_the_handler_ends_first_and_then_the_job_is_put_back() -> None:
    source = Source("0", "1")
    begun = asyncio.Event()

    async def handler(job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            source.notes.append(("ended", job_id))
        return {}

    task = asyncio.create_task(work(source, handler))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.notes == [("ended", "0"), ("put back", "0")]


@pytest.mark.parametrize("left", [False, True])
async def test_what_an_engine_may_go_on_with_is_not_put_back(left: bool) -> None:
    source = Source("0", "1")
    begun = asyncio.Event()

    class OnAnEngineThatRunsByItself:
        async def left_running(self) -> bool:
            return left

        async def __call__(self, job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
            begun.set()
            await asyncio.sleep(60)
            return {}

    task = asyncio.create_task(work(source, OnAnEngineThatRunsByItself()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.notes == [("fail", "output_lost") if left else ("put back", "0")]


class Unready:
    """Gets ready after so many errors."""

    def __init__(self, *errors: ComfyRemoteError) -> None:
        self.errors = list(errors)

    async def ready(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    async def __call__(self, job_id: str, payload: Any, report: Any) -> dict[str, JsonValue]:
        return {"x": payload}


async def test_no_job_is_taken_before_the_handler_is_ready() -> None:
    source = Source("0")
    await work(source, Unready(EngineCrashed("No."), EngineCrashed("No.")), backoff=AT_ONCE)
    assert source.notes == [
        ("not ready", "engine_crashed"),
        ("not ready", "engine_crashed"),
        ("finish", ({"x": 0}, None)),
    ]


async def test_a_wrong_setting_ends_the_worker() -> None:
    source = Source("0")
    with pytest.raises(ConfigurationError):
        await work(source, Unready(ConfigurationError("Wrong.")))
    assert len(source.jobs) == 1
