"""``comfy-remote serve`` is killed or stopped while a job runs, and started again.

See the table "What happens when what dies" in docs/serve.md.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from helpers import start_sandbox, stop
from serve_kit import Serve, alive, ask, children_of, job_of, servers, slow, wait_for

from comfy_remote.wire.runpod import error_from_runpod

__all__ = ["servers"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
FINAL = ("COMPLETED", "FAILED")


def serve(servers: list[Serve], home: Path, *arguments: str) -> Serve:
    server = Serve(
        *("--endpoint", "desk", *(arguments or ("--engine", "sandbox"))),
        COMFY_REMOTE_HOME=str(home),
    )
    servers.append(server)
    return server


def ask_desk(server: Serve, path: str, prompt: object = None, key: str = "") -> dict[str, Any]:
    body = None if prompt is None else job_of(prompt)
    headers = {"Idempotency-Key": key} if key else None
    found: dict[str, Any] = ask(f"{server.url()}/desk/{path}", body, headers)
    return found


def wait_until(server: Serve, job: str, *states: str, output: bool = False) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        status = ask_desk(server, f"status/{job}")
        if status["status"] in states and (status.get("output") or not output):
            return status
        time.sleep(0.05)
    raise AssertionError(f"{status}\n{server.text}")


@pytest.mark.parametrize("worker", ["local", "runpod"])
def test_after_a_kill_what_ran_is_started_once_more_and_the_rest_goes_on(
    servers: list[Serve], tmp_path: Path, worker: str
) -> None:
    if worker == "runpod" and find_spec("runpod") is None:
        pytest.skip("the RunPod SDK is not installed")
    options = ("--engine", "sandbox", "--worker", worker)
    first = serve(servers, tmp_path, *options)
    done = ask_desk(first, "run", slow(0.1), key="done")["id"]
    done_status = wait_until(first, done, *FINAL)
    assert done_status["status"] == "COMPLETED"
    runs = ask_desk(first, "run", slow(3, color=1), key="runs")["id"]
    waits = ask_desk(first, "run", slow(0.1, color=2), key="waits")["id"]
    wait_until(first, runs, "IN_PROGRESS", output=True)
    started = children_of(first.process.pid)
    first.kill()

    second = serve(servers, tmp_path, *options)
    assert ask_desk(second, f"status/{done}") == done_status
    again = wait_until(second, runs, *FINAL)
    assert (again["status"], again["attempt"]) == ("COMPLETED", 2), again
    other = wait_until(second, waits, *FINAL)
    assert (other["status"], other.get("attempt", 1)) == ("COMPLETED", 1)
    assert ask_desk(second, "run", slow(0.1), key="runs")["id"] == runs
    assert ask_desk(second, "health")["jobs"]["completed"] == 3
    wait_for(lambda: not alive(started), 60)
    assert "Traceback" not in second.text


def test_ctrl_c_puts_what_runs_back_into_the_line_and_does_not_count_it(
    servers: list[Serve], tmp_path: Path
) -> None:
    first = serve(servers, tmp_path)
    runs = ask_desk(first, "run", slow(3))["id"]
    waits = ask_desk(first, "run", slow(0.1, color=1))["id"]
    wait_until(first, runs, "IN_PROGRESS", output=True)
    started = children_of(first.process.pid)
    assert first.stop(signal.SIGINT) == 0
    wait_for(lambda: not alive(started), 60)

    second = serve(servers, tmp_path)
    for job in (runs, waits):
        status = wait_until(second, job, *FINAL)
        assert (status["status"], status.get("attempt", 1)) == ("COMPLETED", 1)
    assert "Traceback" not in first.text + second.text


def test_on_an_engine_that_goes_on_a_kill_fails_the_job_and_a_stop_takes_it_back(
    servers: list[Serve], tmp_path: Path
) -> None:
    url, engine = start_sandbox()
    try:
        first = serve(servers, tmp_path, "--engine", url)
        runs = ask_desk(first, "run", slow(300))["id"]
        waits = ask_desk(first, "run", slow(0.1, color=1))["id"]
        wait_until(first, runs, "IN_PROGRESS", output=True)
        first.kill()

        second = serve(servers, tmp_path, "--engine", url)
        failed = wait_until(second, runs, *FINAL)
        assert failed["status"] == "FAILED"
        assert "may still be running it" in error_from_runpod(failed["error"]).message
        with urllib.request.urlopen(f"{url}/queue", timeout=60) as answer:
            assert len(json.load(answer)["queue_running"]) == 1, "it does go on there"
        urllib.request.urlopen(urllib.request.Request(f"{url}/interrupt", b"{}"), timeout=60)
        assert wait_until(second, waits, *FINAL)["status"] == "COMPLETED"

        runs = ask_desk(second, "run", slow(3, color=2))["id"]
        wait_until(second, runs, "IN_PROGRESS", output=True)
        assert second.stop(signal.SIGINT) == 0
        with urllib.request.urlopen(f"{url}/queue", timeout=60) as answer:
            assert json.load(answer)["queue_running"] == [], "it was stopped there"
        third = serve(servers, tmp_path, "--engine", url)
        status = wait_until(third, runs, *FINAL)
        assert (status["status"], status.get("attempt", 1)) == ("COMPLETED", 1)
    finally:
        stop(engine)


def test_a_second_serve_on_the_same_endpoint_refuses_to_start(
    servers: list[Serve], tmp_path: Path
) -> None:
    first = serve(servers, tmp_path)
    first.url()
    second = serve(servers, tmp_path)
    assert second.process.wait(180) == 2
    assert "Another gateway is running" in second.text
    assert "another endpoint id" in second.text
    other = Serve(
        "--engine", "sandbox", "--endpoint", "other", COMFY_REMOTE_HOME=os.fspath(tmp_path)
    )
    servers.append(other)
    other.url()
