"""A worker on a machine where the engine does not start: it takes no job, and does not just end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("runpod")


@pytest.fixture
def queue() -> Iterator[tuple[str, list[str]]]:
    """RunPod's side for workers, which has a job for everybody; and what was asked of it."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = b'{"id": "j", "input": {"workflow": {}}}'
            self.send_response(200 if "job-take" in self.path else 204)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def worker(url: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "comfy_remote.worker.runpod_entry", "--engine", str(folder)],
        env={
            **os.environ,
            "RUNPOD_POD_ID": "w",
            "RUNPOD_ENDPOINT_ID": "e",
            "RUNPOD_AI_API_KEY": "none",
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_WEBHOOK_GET_JOB": f"{url}/job-take/$ID?gpu=x",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{url}/job-done/$ID?gpu=x",
            "RUNPOD_WEBHOOK_PING": f"{url}/ping",
            "COMFYUI_PYTHON": sys.executable,
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=180,
    )


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    (tmp_path / "comfy").mkdir()
    (tmp_path / "main.py").write_text("raise SystemExit('RuntimeError: no kernel image')")
    return tmp_path


def test_an_engine_that_does_not_start_costs_no_job(
    queue: tuple[str, list[str]], comfyui: Path
) -> None:
    url, asked = queue
    ended = worker(url, comfyui, RUNPOD_SKIP_GPU_CHECK="true")
    assert ended.returncode == 5, ended.stderr
    assert "ended before it was ready" in ended.stderr
    assert "no kernel image" in ended.stderr
    assert not [path for path in asked if "job-take" in path]


def test_a_gpu_that_cannot_be_used_costs_no_job(
    queue: tuple[str, list[str]], comfyui: Path
) -> None:
    url, asked = queue
    # This Python has a torch without a GPU, or none at all.
    ended = worker(url, comfyui, RUNPOD_SKIP_GPU_CHECK="false", CUDA_VISIBLE_DEVICES="")
    assert ended.returncode == 5, ended.stderr
    assert "GPU cannot be used" in ended.stderr
    assert not [path for path in asked if "job-take" in path]


def test_a_setting_that_is_wrong_ends_it_at_once(
    queue: tuple[str, list[str]], comfyui: Path
) -> None:
    url, asked = queue
    ended = worker(url, comfyui, COMFY_REMOTE_JOB_TIMEOUT="soon")
    assert ended.returncode == 2
    assert "COMFY_REMOTE_JOB_TIMEOUT is not a number above 0" in ended.stderr
    assert asked == []
