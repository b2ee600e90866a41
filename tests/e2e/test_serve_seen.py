"""What ``serve`` shows of its jobs, in its log, overview and metrics; also after ``kill -9``."""

from __future__ import annotations

import re
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serve_kit import Serve, ask, job_of, servers, wait_for

__all__ = ["servers"]

TOKEN = secrets.token_urlsafe(24)
METRICS = secrets.token_urlsafe(24)
PRIVATE = "a-word-of-the-prompt"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends SIGKILL")


@pytest.fixture
def serve(servers: list[Serve], tmp_path: Path) -> Callable[[], Serve]:
    """Starts a gateway with two engines and a token for metrics, in the same folder each time."""
    token = tmp_path / "metrics.txt"
    token.write_text(METRICS)

    def start() -> Serve:
        servers.append(
            Serve(
                *("--endpoint", "desk", "--engine", "sandbox", "--engine", "sandbox"),
                *("--metrics-token-file", str(token)),
                COMFY_REMOTE_TOKEN=TOKEN,
                COMFY_REMOTE_HOME=str(tmp_path / "home"),
            )
        )
        return servers[-1]

    return start


def ask_desk(url: str, path: str, body: object = None, token: str = TOKEN) -> Any:
    return ask(f"{url}/desk/{path}", body, {"Authorization": f"Bearer {token}"})


def metrics(url: str, token: str) -> dict[str, float]:
    request = urllib.request.Request(
        url.removesuffix("v2") + "metrics", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def prompt(seconds: float, seed: int, mode: str = "") -> dict[str, object]:
    slow = {"image": ["1", 0], "steps": 10, "seconds_per_step": seconds / 10, "seed": seed}
    fail = {"image": ["2", 0], "mode": mode, "message": "It was told to."}
    color = {"width": 16, "height": 16, "batch_size": 1, "color": seed}
    last = "3" if mode else "2"
    return {
        "1": {"class_type": "EmptyImage", "inputs": color},
        "2": {"class_type": "SandboxSlow", "inputs": {**slow, "preview": False}},
        **({"3": {"class_type": "SandboxFail", "inputs": fail}} if mode else {}),
        "4": {
            "class_type": "SaveImage",
            "inputs": {"images": [last, 0], "filename_prefix": PRIVATE},
        },
    }


def submit(url: str, workflow: dict[str, object], **policy: object) -> str:
    return str(ask_desk(url, "run", job_of(workflow, **policy))["id"])


def test_jobs_are_seen_from_the_line_to_their_end_and_over_a_kill(
    serve: Callable[[], Serve],
) -> None:
    server = serve()
    url = server.url()
    fails = submit(url, prompt(0.1, 0, "error"), client="laptop")
    jobs = [submit(url, prompt(0.2, seed), client="laptop", batch="b") for seed in range(1, 17)]
    long = submit(url, prompt(90, 98), client="desk")
    cancelled = submit(url, prompt(1, 99), lowPriority=True)
    ask_desk(url, f"cancel/{cancelled}", {})
    last = submit(url, prompt(0.2, 100), lowPriority=True)

    def ended() -> dict[str, dict[str, Any]]:
        return {job["id"]: job for job in ask_desk(url, "overview")["ended"]}

    wait_for(lambda: {fails, cancelled, *jobs, last} <= ended().keys())
    seen = ask_desk(url, "overview")
    assert (seen["totals"]["waiting"], seen["totals"]["running"]) == (0, 1)
    assert [job["id"] for job in seen["running"]] == [long]
    assert sorted(worker["state"] for worker in seen["workers"]) == ["idle", "running"]
    ends = ended()
    assert (ends[fails]["state"], ends[fails]["code"]) == ("FAILED", "execution_failed")
    assert (ends[cancelled]["state"], ends[cancelled]["seconds"]) == ("CANCELLED", None)
    assert all((ends[job]["state"], ends[job]["files"]) == ("COMPLETED", 1) for job in jobs)

    with pytest.raises(urllib.error.HTTPError) as refused:
        metrics(url, "a-token-that-is-wrong")
    assert refused.value.code == 401
    with pytest.raises(urllib.error.HTTPError):
        ask_desk(url, "overview", token=METRICS)
    counted = metrics(url, METRICS)
    assert counted["comfy_remote_jobs_accepted_total"] == 20
    assert counted["comfy_remote_jobs_started_total"] == 19
    assert counted['comfy_remote_jobs_finished_total{state="completed",code=""}'] == 17
    assert counted['comfy_remote_jobs_finished_total{state="failed",code="execution_failed"}'] == 1
    assert counted['comfy_remote_jobs_finished_total{state="cancelled",code=""}'] == 1
    assert counted["comfy_remote_jobs_running"] == 1
    used = sum(value for name, value in counted.items() if "gpu_seconds_total" in name)
    assert used > 17 * 0.2

    server.kill()
    again = serve()
    url = again.url()
    wait_for(lambda: [job["id"] for job in ask_desk(url, "overview")["running"]] == [long])
    (repeated,) = ask_desk(url, "overview")["running"]
    assert repeated["attempt"] == 2
    assert {name: end["state"] for name, end in ended().items()} == {
        name: end["state"] for name, end in ends.items()
    }
    assert ended()[fails]["code"] == "execution_failed"
    counted = metrics(url, METRICS)
    assert counted["comfy_remote_jobs_repeated_total"] == 1
    assert counted["comfy_remote_jobs_started_total"] == 1

    log = server.text
    own = [line for line in log.splitlines() if re.search(r" (Job|Worker) \S", line)]
    for job in jobs:
        lines = [line.partition(f"Job {job} ")[2] for line in own if job in line]
        assert len(lines) == 3
        assert lines[0] == "(of laptop, batch b) waits."
        assert re.fullmatch(r"runs on engine\d, after waiting .*\.", lines[1])
        assert re.fullmatch(r"was completed on engine\d after .*: 1 file, .*B\.", lines[2])
    assert any(f"Job {fails} failed on" in line and "execution_failed" in line for line in own)
    assert any(line.endswith(f"Job {cancelled} was cancelled before it ran.") for line in own)
    assert f"Job {long} is to be started once more: " in again.text
    assert re.search(rf"Job {long} runs on engine\d \(attempt 2\)", again.text)
    assert PRIVATE not in log
    assert not any(secret in log + again.text for secret in (TOKEN, METRICS))
