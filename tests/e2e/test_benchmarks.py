"""Every benchmark runs, one after the other, as ``make bench`` runs them: here with tiny sizes."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def run_all(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The whole list, once."""
    home = tmp_path_factory.mktemp("home")
    without = {"COMFYUI_DIR", "COMFYUI_PYTHON", "WORKER_COMFYUI_DIR"}
    environment = {name: value for name, value in os.environ.items() if name not in without}
    environment |= {"BENCH_TINY": "1", "COMFY_REMOTE_HOME": str(home)}
    return subprocess.run(
        [sys.executable, BENCHMARKS / "run.py"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


@pytest.mark.timeout(1600)
def test_the_whole_list_runs(run_all: subprocess.CompletedProcess[str]) -> None:
    assert run_all.returncode == 0, run_all.stdout + run_all.stderr
    assert "Traceback" not in run_all.stderr


@pytest.mark.parametrize(
    "name",
    [
        *("help", "command", "overhead", "terminal", "gateway", "worker", "sdk-jobs"),
        *("gateway-jobs", "gateway-submit", "gateway-stored", "gateway-results", "gateway-growth"),
        *("gateway-start", "fleet"),
        *(
            "models",
            "sync",
            "lane",
            "download",
            "conversion",
            "values",
            "offload",
            "batch-rows",
            "sheet",
        ),
        *("page-load", "estimate", "page-cost", "page-typing"),
        *("api-jobs", "api-latency", "api-upload", "api-events"),
    ],
)
def test_each_says_what_it_measured_or_why_it_did_not(
    name: str, run_all: subprocess.CompletedProcess[str]
) -> None:
    assert any(line.startswith(name) for line in run_all.stdout.splitlines()), run_all.stdout


async def test_a_gateway_that_stands_still_gets_no_more_connections_than_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With 500 pollers, it closes those above 800 without an answer."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    load: Any = importlib.import_module("http_load")
    opened, answers = 0, asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"{}"):
                await answers.wait()
                writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"id":"1"}')
        writer.close()

    async def answer_once_all_have_come() -> None:
        before = -1
        while opened != before or not opened:
            before = opened
            await asyncio.sleep(0.5)
        answers.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        endpoint = load.Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "")
        answering = asyncio.create_task(answer_once_all_have_come())
        ids, took = await load.submit(endpoint, 400, every=0.0, given={})
        await answering
    assert len(ids) == len(took) == 400
    assert opened <= 200
    assert min(took) > 0.1  # what waits for a connection waits for its answer


def test_an_unknown_name_is_refused_with_those_there_are() -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "run.py", "help", "speed"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 1
    assert "no benchmark 'speed'; there are: help," in done.stderr
