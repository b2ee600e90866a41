"""``comfy-remote api`` killed in the middle of fifty jobs: each ends right after its restart, once.

Some have ended, one runs, others wait at the target, and some are being posted at that moment.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from gated_sandbox import Gate
from helpers import free_port
from serve_kit import Command, commands, wait_for

__all__ = ["commands"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
FAST, WAITING, POSTED = 20, 19, 10
TIMES = ("created_at", "started_at", "completed_at", "expires_at")


def fetch(url: str, body: object = None, **headers: str) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    said = {"Content-Type": "application/json", **headers}
    with urllib.request.urlopen(urllib.request.Request(url, data, said), timeout=60) as answer:
        content: bytes = answer.read()
        return content


def ask(url: str, body: object = None, **headers: str) -> Any:
    return json.loads(fetch(url, body, **headers))


def prompt(number: int) -> dict[str, Any]:
    inputs = {"width": 16, "height": 16, "batch_size": 1, "color": number}
    saved = {"images": ["1", 0], "filename_prefix": f"job{number}"}
    return {
        "1": {"class_type": "EmptyImage", "inputs": inputs},
        "2": {"class_type": "SaveImage", "inputs": saved},
    }


def test_fifty_jobs_end_right_once_after_a_kill(
    commands: list[Command], gated_url: str, tmp_path: Path
) -> None:
    gate, port = Gate(tmp_path), free_port()
    api = f"http://127.0.0.1:{port}/api/v2"
    before = set(ask(f"{gated_url}/history"))

    def front() -> Command:
        command = Command(
            *("api", "--on", gated_url, "--port", str(port), "--name", "fifty"),
            COMFY_REMOTE_HOME=str(tmp_path / "home"),
        )
        commands.append(command)
        command.says("Ctrl-C stops it.")
        return command

    def post(number: int) -> str:
        workflow = gate.prompt if number == FAST else prompt(number)
        key = {"Idempotency-Key": f"key-{number}"}
        job: str = ask(f"{api}/jobs", {"workflow": workflow}, **key)["id"]
        return job

    def listed() -> dict[str, str]:
        jobs = ask(f"{api}/jobs")["jobs"]
        return {job["id"]: job["status"] for job in jobs}

    first = front()
    with ThreadPoolExecutor(POSTED) as pool:
        acknowledged = set(pool.map(post, range(FAST)))
        acknowledged.add(post(FAST))
        wait_for(lambda: "running" in listed().values())
        acknowledged |= set(pool.map(post, range(FAST + 1, FAST + 1 + WAITING)))
        last = range(FAST + 1 + WAITING, FAST + 1 + WAITING + POSTED)
        posts: list[Future[str]] = [pool.submit(post, number) for number in last]
        wait(posts, return_when="FIRST_COMPLETED")
        first.kill()
    for number, posted in zip(last, posts, strict=True):
        if posted.exception() is None:
            acknowledged.add(posted.result())
            continue
        # Whoever got no answer sends the same key again: a refusal means that the job is there.
        assert isinstance(posted.exception(), OSError), number

    front()
    for number in last:
        try:
            acknowledged.add(post(number))
        except urllib.error.HTTPError as refusal:
            assert refusal.code == 422
            assert json.loads(refusal.read())["error"]["code"] == "idempotency_key_reuse"
    gate.open()
    wait_for(lambda: set(listed().values()) == {"succeeded"})
    jobs = listed()
    assert len(jobs) == FAST + 1 + WAITING + POSTED
    assert acknowledged <= jobs.keys()
    assert set(ask(f"{gated_url}/history")) - before == jobs.keys()  # each ran once
    for job_id in jobs:
        job = ask(f"{api}/jobs/{job_id}")
        (output,) = job["outputs"]
        content = fetch(output["url"])
        assert output["hash"] == f"blake3:{blake3(content).hexdigest()}"
        assert output["size_bytes"] == len(content)
        # As times: a whole second has no fraction in it, and would come last as text.
        times = [datetime.fromisoformat(job[key].replace("Z", "+00:00")) for key in TIMES]
        assert times[0] <= times[1] <= times[2] < times[3]
