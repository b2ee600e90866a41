"""An engine that does not stop when it is asked to: the next job does not wait for it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from fake_target import output
from helpers import settled, until, wait_until
from pydantic import JsonValue
from worker_fakes import PROMPT, EngineTarget, FakeEngine, connect_to, succeeded

from comfy_remote.errors import (
    ComfyRemoteError,
    EngineCrashed,
    TargetStalled,
    TargetUnreachable,
)
from comfy_remote.wire.runpod import error_from_runpod
from comfy_remote.worker.engine import NOT_STARTED, Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings

OURS = {"format": "comfy-remote/1", "workflow": PROMPT}


async def silent(snapshot: dict[str, JsonValue]) -> None:
    return None


class OwnEngine(FakeEngine):
    """A process of ours; it counts how often it was started."""

    def __init__(self) -> None:
        super().__init__()
        self.pid = 1
        self.broken: ComfyRemoteError | None = None

    def stop(self) -> None:
        super().stop()
        self.alive = False

    async def ready(self) -> str:
        if self.broken is not None:
            raise self.broken
        return await super().ready()


def handler_on(target: EngineTarget, engine: FakeEngine, grace: float = 0.2) -> JobHandler:
    settings = WorkerSettings(cancel_grace=grace)
    return JobHandler(engine, settings, connect=connect_to(target), environ={})


async def cancelled(handler: JobHandler, target: EngineTarget) -> None:
    job = asyncio.create_task(handler("j", OURS, silent))
    await until(lambda: target.requests)
    await settled()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job


@pytest.mark.parametrize("held", [True, TargetUnreachable("nothing answers")])
async def test_an_engine_that_goes_on_after_a_cancel_is_started_again(
    held: bool | ComfyRemoteError,
) -> None:
    target, engine = EngineTarget([60.0], held=held), OwnEngine()
    handler = handler_on(target, engine)
    await cancelled(handler, target)
    await handler.ready()
    assert (engine.stops, engine.starts) == (1, 1)


async def test_an_engine_that_follows_a_cancel_in_time_stays() -> None:
    target, engine = EngineTarget([60.0], held=True), OwnEngine()
    handler = handler_on(target, engine, grace=5.0)
    await cancelled(handler, target)
    asyncio.get_running_loop().call_later(0.1, setattr, target, "held", False)
    await handler.ready()
    assert (engine.stops, engine.starts) == (0, 0)


async def test_the_wait_is_not_part_of_the_next_jobs_time() -> None:
    target, engine = EngineTarget([60.0], held=True), OwnEngine()
    handler = handler_on(target, engine, grace=2.0)
    await handler("j", {**OURS, "timeout": 0.1}, silent)
    target.events, target.files = succeeded(output("a.bmp")), {"a.bmp": b"x"}
    answer = await handler("next", {**OURS, "timeout": 1.5}, silent)
    assert "error" not in answer
    assert engine.stops == 1


async def test_an_engine_of_somebody_else_is_left_alone() -> None:
    target, engine = EngineTarget([60.0], held=True), FakeEngine()
    handler = handler_on(target, engine)
    await cancelled(handler, target)
    await handler.ready()
    assert engine.stops == 0


@pytest.mark.parametrize(
    ("held", "engine", "left"),
    [
        (True, FakeEngine(), True),
        (TargetUnreachable("nothing answers"), FakeEngine(), True),
        (False, FakeEngine(), False),
        (True, OwnEngine(), False),  # it ends with its worker
    ],
)
async def test_whether_somebody_elses_engine_goes_on_with_a_job_is_known(
    held: bool | ComfyRemoteError, engine: FakeEngine, left: bool
) -> None:
    target = EngineTarget([60.0], held=held)
    handler = handler_on(target, engine)
    assert await handler.left_running() is False
    await cancelled(handler, target)
    assert await handler.left_running() is left


async def test_a_job_that_ended_leaves_nothing_to_wait_for() -> None:
    target = EngineTarget(succeeded(output("a.bmp")), {"a.bmp": b"x"}, held=True)
    engine = OwnEngine()
    handler = handler_on(target, engine, grace=60.0)
    await handler("j", OURS, silent)
    await asyncio.wait_for(handler.ready(), 60)


@pytest.mark.parametrize(
    "error", [TargetUnreachable("no answer for 60 s"), TargetStalled("it runs nothing")]
)
async def test_an_engine_that_hangs_is_ended_and_the_job_run_again(
    error: ComfyRemoteError,
) -> None:
    first = EngineTarget([error])
    second = EngineTarget(succeeded(output("a.bmp")), {"a.bmp": b"x"})
    engine = OwnEngine()
    handler = JobHandler(engine, WorkerSettings(), connect=connect_to(first, second), environ={})
    answer = await handler("j", OURS, silent)
    assert "hung and was ended" in str(answer["warnings"])
    assert engine.stops == 1


async def test_an_engine_that_answers_with_an_error_does_not_hang() -> None:
    error = TargetUnreachable("HTTP 500", details={"http_status": 500})
    engine = OwnEngine()
    result = await handler_on(EngineTarget([error]), engine)("j", OURS, silent)
    assert error_from_runpod(result["error"]).code == "target_unreachable"
    assert engine.stops == 0


async def test_an_engine_that_cannot_be_started_asks_for_a_fresh_worker() -> None:
    engine = OwnEngine()
    engine.broken = EngineCrashed("it ended", details={NOT_STARTED: True})
    handler = handler_on(EngineTarget(), engine)
    with pytest.raises(EngineCrashed):
        await handler.ready()
    assert handler.broken is engine.broken
    result = await handler("j", OURS, silent)
    assert result["refresh_worker"] is True


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
async def test_a_stopped_process_is_replaced(tmp_path: Path) -> None:
    engine = Engine.named("sandbox")
    settings = WorkerSettings(folder=tmp_path / "worker", cancel_grace=0.5, engine_patience=0.3)
    handler = JobHandler(engine, settings)
    try:
        await handler.ready()
        url = await engine.ready()
        stopped = engine.pid
        assert stopped is not None
        picture = {"width": 8, "height": 8, "batch_size": 1, "color": 1}
        steps = {"steps": 3000, "seconds_per_step": 0.1, "preview": False, "seed": 0}
        slow: dict[str, Any] = {
            "1": {"class_type": "EmptyImage", "inputs": picture},
            "2": {"class_type": "SandboxSlow", "inputs": {"image": ["1", 0], **steps}},
            "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
        }
        job = asyncio.create_task(handler("j", {**OURS, "workflow": slow}, silent))
        await asyncio.to_thread(
            wait_until, lambda: json.load(urlopen(f"{url}/queue"))["queue_running"]
        )
        os.kill(stopped, signal.SIGSTOP)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        await handler.ready()
        assert engine.pid not in (None, stopped)
    finally:
        engine.stop()
