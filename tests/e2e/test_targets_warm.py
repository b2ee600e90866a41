"""``comfy-remote targets warm``: an endpoint's idle timeout is changed, and always put back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from commands import Commands

WORKERS = {"min": 0, "max": 3, "idleTimeout": 5, "unknown": "stays"}


class RunPod(BaseHTTPRequestHandler):
    """As much of RunPod as it takes: one endpoint, its jobs, and its account."""

    workers: dict[str, Any]
    patches: list[dict[str, Any]]
    may_change: bool
    jobs: int

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self.path == "/v2/serverless/ep":
            self.answer({"id": "ep", "name": "Portraits", "workers": self.server.workers})  # type: ignore[attr-defined]
        elif self.path.endswith("/health"):
            jobs = {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0}
            self.answer({"jobs": jobs, "workers": {"idle": 0, "running": 0}})
        else:
            error = "This is no job for worker-comfyui."
            self.answer({"id": "j", "status": "FAILED", "error": error, "workerId": "w"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/run"):
            self.server.jobs += 1  # type: ignore[attr-defined]
        self.answer({"id": "j", "status": "IN_QUEUE"})

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server: Any = self.server
        if not server.may_change:
            self.answer({"error": "forbidden"}, 403)
            return
        server.patches.append(body)
        server.workers = body["workers"]
        self.answer({"id": "ep", "workers": server.workers})

    def answer(self, body: Any, status: int = 200) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def runpod() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), RunPod)
    server.workers, server.patches, server.may_change, server.jobs = {**WORKERS}, [], True, 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with closing(server.socket):
        yield server
        server.shutdown()


@pytest.fixture
def cli(tmp_path: Path, runpod: Any) -> Iterator[Commands]:
    made = Commands(tmp_path)
    url = f"http://127.0.0.1:{runpod.server_address[1]}"
    made.environment |= {
        "RUNPOD_API_BASE_URL": url,
        "RUNPOD_ENDPOINT_BASE_URL": f"{url}/v2",
        "RUNPOD_API_KEY": "rpa_PLANTED0123456789",
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }
    yield made
    made.close()


def until_warm(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(process.stdout.readline())
    return line


HOLD = ("targets", "warm", "runpod:ep", "--until", "2h", "--json")


def test_a_worker_is_started_and_nothing_is_changed(cli: Commands, runpod: Any) -> None:
    done = cli.run("main", "targets", "warm", "runpod:ep")
    assert done.returncode == 0, done.stderr
    assert "A worker of runpod:ep is ready, after" in done.stderr
    assert (runpod.jobs, runpod.patches) == (1, [])


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_the_idle_timeout_is_put_back_at_ctrl_c(cli: Commands, runpod: Any) -> None:
    process = cli.start("main", *HOLD)
    said = until_warm(process)
    assert (said["event"], said["target"]) == ("warm", "runpod:ep")
    assert runpod.workers == {**WORKERS, "idleTimeout": 600}
    # Nobody else may do so meanwhile.
    second = cli.run("main", *HOLD)
    assert second.returncode == 2 and "keeps workers of runpod:ep waiting already" in second.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait(180) == 130
    assert runpod.workers == WORKERS
    assert not [*(cli.folder / "home" / "warm").glob("*.json")]


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
@pytest.mark.parametrize("changed", [False, True])
def test_after_a_kill_the_next_command_puts_it_back(
    cli: Commands, runpod: Any, changed: bool
) -> None:
    process = cli.start("main", *HOLD)
    until_warm(process)
    process.kill()
    process.wait(180)
    runpod.may_change = False
    not_yet = cli.run("main", "targets")
    assert "still wait 600 s" in not_yet.stderr and "may not change" in not_yet.stderr
    runpod.may_change = True
    if changed:  # by their owner, in the console
        runpod.workers["idleTimeout"] = 30
    listed = cli.run("main", "targets")
    assert listed.returncode == 0
    assert runpod.workers["idleTimeout"] == (30 if changed else 5)
    again = cli.run("main", "targets")
    assert "Idle workers" not in again.stderr
    assert len(runpod.patches) == (1 if changed else 2)


def test_a_key_that_may_not_change_the_endpoint_says_so(cli: Commands, runpod: Any) -> None:
    runpod.may_change = False
    done = cli.run("main", *HOLD)
    assert done.returncode == 3, done.stderr
    assert "The key may not change the endpoint ep." in done.stderr
    assert runpod.workers == WORKERS
    assert not [*(cli.folder / "home" / "warm").glob("*.json")]


def test_where_nothing_stops_there_is_nothing_to_keep(cli: Commands) -> None:
    done = cli.run("main", "targets", "warm", "sandbox", "--until", "18:00")
    assert done.returncode == 2 and "no workers that could be started ahead" in done.stderr
    for wrong in ("25:00", "3d", "soon"):
        assert cli.run("main", "targets", "warm", "runpod:ep", "--until", wrong).returncode == 2
