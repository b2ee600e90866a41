"""The library, interrupted: the GPU does not go on for nobody, or the log says that it does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from helpers import wait_until

from comfy_remote import Client, Record, resume, run
from comfy_remote.calls.target import call
from comfy_remote.errors import JobTimedOut
from comfy_remote.events import Event, JobState, Progress

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
_SEEDS = iter(range(int(time.time() * 1000), 1 << 62))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def busy(sandbox_url: str) -> Iterator[Callable[[], int]]:
    """How many prompts run or wait there; none is left."""

    def count() -> int:
        with urllib.request.urlopen(f"{sandbox_url}/queue", timeout=60) as answer:
            queue = json.load(answer)
        return len(queue["queue_running"]) + len(queue["queue_pending"])

    def stop() -> None:
        for path, body in (("queue", {"clear": True}), ("interrupt", {})):
            sent, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{sandbox_url}/{path}", sent, headers)
            urllib.request.urlopen(request, timeout=60).close()
        wait_until(lambda: count() == 0)

    stop()  # what other tests have left there
    yield count
    stop()


def slow(seconds: float = 300.0) -> dict[str, Any]:
    steps = int(seconds * 10)
    inputs = {"steps": steps, "seconds_per_step": 0.1, "preview": False, "seed": next(_SEEDS)}
    picture = {"width": 8, "height": 8, "batch_size": 1, "color": 1}
    return {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {"class_type": "SandboxSlow", "inputs": {"image": ["1", 0], **inputs}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "i"}},
    }


class _Own(Exception):
    """The program's own."""


def _raise_at_a_step(event: Event) -> None:
    if isinstance(event, Progress) and event.step:
        raise _Own


async def test_a_job_that_waited_in_the_queue_is_recorded_as_cancelled(
    sandbox_url: str, busy: Callable[[], int], home: Path
) -> None:
    with pytest.raises(_Own):
        async with Client(sandbox_url) as client:
            await client.submit(slow())
            waiting = await client.submit(slow())
            raise _Own
    with contextlib.closing(Record(home)) as record:
        assert record.get(waiting.id).state is JobState.CANCELLED


def _exit_at_a_step(event: Event) -> None:
    if isinstance(event, Progress) and event.step:
        sys.exit(3)


def test_a_program_that_exits_in_mid_job_cancels(
    sandbox_url: str, busy: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        run(slow(), sandbox_url, on_event=_exit_at_a_step)
    wait_until(lambda: busy() == 0)
    assert "was cancelled at" in caplog.text


def test_an_exception_in_on_event_cancels(
    sandbox_url: str, busy: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(_Own):
        run(slow(), sandbox_url, on_event=_raise_at_a_step)
    wait_until(lambda: busy() == 0)
    assert "was cancelled at" in caplog.text


def test_or_leaves_it_and_says_how_to_fetch_it(
    sandbox_url: str, busy: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(_Own):
        run(slow(), sandbox_url, on_event=_raise_at_a_step, on_interrupt="leave")
    time.sleep(0.5)  # a cancel would come by now
    assert busy() == 1
    said = re.search(r"Resume job ([0-9a-f-]{36})", caplog.text)
    assert said is not None
    with Record(Path(os.environ["COMFY_REMOTE_HOME"])) as record:
        assert not record.get(said[1]).state.final


async def test_a_timeout_around_it_cancels(sandbox_url: str, busy: Callable[[], int]) -> None:
    followed = asyncio.Event()

    async def whole() -> None:
        async with Client(sandbox_url) as client:
            job = await client.submit(slow(600.0))
            async for _ in job:
                followed.set()

    async def timed_out(seconds: float) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(whole(), seconds)

    await timed_out(1.0)
    if not followed.is_set():  # a busy machine
        await timed_out(10.0)
    assert followed.is_set()
    await asyncio.to_thread(wait_until, lambda: busy() == 0)


async def test_cancelled_while_it_is_submitted(
    sandbox_url: str, busy: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy_remote.targets.comfyui.target import ComfyUITarget

    submit, sent = ComfyUITarget.submit, asyncio.Event()

    async def slowly(self: ComfyUITarget, request: Any) -> Any:
        ref = await submit(self, request)
        sent.set()
        await asyncio.sleep(0.5)
        return ref

    monkeypatch.setattr(ComfyUITarget, "submit", slowly)

    async def whole() -> None:
        async with Client(sandbox_url) as client:
            await client.submit(slow())

    running = asyncio.create_task(whole())
    await sent.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.to_thread(wait_until, lambda: busy() == 0)


@pytest.mark.parametrize("on_interrupt", ["cancel", "leave"])
async def test_a_resumed_job_goes_on_unless_it_is_to_be_cancelled(
    sandbox_url: str, busy: Callable[[], int], on_interrupt: Literal["cancel", "leave"]
) -> None:
    async with Client(sandbox_url) as client:
        job_id = (await client.submit(slow())).id
    with pytest.raises(_Own):
        async with resume(job_id, on_interrupt=on_interrupt) as job:
            async for event in job:
                _raise_at_a_step(event)
    if on_interrupt == "cancel":
        await asyncio.to_thread(wait_until, lambda: busy() == 0)
    else:
        await asyncio.sleep(0.5)  # a cancel would come by now
        assert busy() == 1


async def test_our_own_timeout_leaves_the_job_and_names_it(
    sandbox_url: str, busy: Callable[[], int]
) -> None:
    with pytest.raises(JobTimedOut) as caught:
        async with Client(sandbox_url) as client:
            await (await client.submit(slow(600.0), timeout=3.0)).outputs()
    assert busy() == 1
    assert str(caught.value.details["job_id"]) in caught.value.advice


async def test_an_exception_in_a_call_s_on_event_cancels(
    sandbox_url: str, busy: Callable[[], int]
) -> None:
    prompt = slow()
    inputs = {"key": "picture", "value": ["2", 0]}
    prompt["3"] = {"class_type": "ComfyRemoteOutput", "inputs": inputs}
    async with Client(sandbox_url) as client:
        with pytest.raises(_Own):
            await call(client, prompt, {}, on_event=_raise_at_a_step)
        await asyncio.to_thread(wait_until, lambda: busy() == 0)


_SCRIPT = """
import asyncio, json, sys
from comfy_remote import run
prompt, target, notebook = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3] == "notebook"
def told(event):
    print(type(event).__name__, flush=True)
async def cell():
    run(prompt, target, on_event=told)
if notebook:
    asyncio.new_event_loop().run_until_complete(cell())
elif sys.argv[3] == "coroutine":
    asyncio.run(cell())
else:
    run(prompt, target, on_event=told)
"""


@POSIX
@pytest.mark.parametrize("kind", ["script", "notebook", "coroutine"])
def test_ctrl_c_cancels(sandbox_url: str, busy: Callable[[], int], kind: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, json.dumps(slow()), sandbox_url, kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Progress"):
            break
    reader = threading.Thread(target=process.stdout.read)  # so that the pipe does not fill
    reader.start()
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(180) != 0
    reader.join()
    wait_until(lambda: busy() == 0)
    assert re.search(r"job [0-9a-f-]{36} was cancelled at", err), err
    assert "KeyboardInterrupt" in err


def test_the_log_says_it_without_a_set_up_logger() -> None:
    assert logging.getLogger("comfy_remote.jobs.interruption").isEnabledFor(logging.WARNING)
