"""``comfy-run-remote``: what the whole command costs, and its memory with many large outputs."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from common import WARM_UPS, Skipped, comfy_cli, comfyui, command, our_command, prompt, size

from comfy_remote.worker.engine import Engine

RUNS = size(15, 1)
FILES, FILE_SIZE = size(200, 3), size(20_000_000, 20_000)


def bench_terminal() -> None:
    """Whole processes: against a bare loop, and against ``comfy run --wait``."""
    try:
        with comfyui() as engine, tempfile.TemporaryDirectory() as folder:
            _compare(asyncio.run(engine.ready()), Path(folder))
    except Skipped as why:
        print(f"terminal: skipped, {why}")
    # In a process of its own, since the peak of children is that of all of them.
    subprocess.run([sys.executable, __file__], check=True, timeout=900)


def _compare(url: str, folder: Path) -> None:
    ours = our_command("comfy-run-remote")
    host, port = urlsplit(url).hostname or "", str(urlsplit(url).port)
    first = random.randrange(1 << 20)
    environment = {"COMFY_REMOTE_HOME": str(folder)}

    def workflow(index: int) -> str:
        path = folder / "workflow.json"
        path.write_text(json.dumps(prompt(first + index)))
        return str(path)

    def run_ours(path: str) -> None:
        command(
            *(ours, "--workflow", path, "--pod-url", url), environment=environment, folder=folder
        )

    def run_theirs(path: str) -> None:
        command(
            *(comfy, "--skip-prompt", "run", "--workflow", path, "--wait"),
            *("--host", host, "--port", port),
        )

    def run_bare(path: str) -> None:
        command(sys.executable, str(Path(__file__).parent / "bare_loop.py"), url, path, str(folder))

    ways: dict[str, Callable[[str], None]] = {"comfy-run-remote": run_ours, "bare loop": run_bare}
    try:
        comfy = comfy_cli()
        ways["comfy run --wait (fetches nothing)"] = run_theirs
    except Skipped as why:
        print(f"terminal: comfy run --wait is skipped, {why}")
    times: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(-WARM_UPS, RUNS):
        for number, (name, run) in enumerate(ways.items()):
            path = workflow(len(ways) * index + number)
            began = time.perf_counter()
            run(path)
            if index >= 0:
                times[name].append(time.perf_counter() - began)
    for name, spent in times.items():
        over = [a - b for a, b in zip(spent, times["bare loop"], strict=True)]
        more = (
            ""
            if name == "bare loop"
            else f", {statistics.median(over) * 1000:+.0f} ms against the bare loop (at most "
            f"{max(over) * 1000:+.0f} ms)"
        )
        print(f"terminal: {name}: {statistics.median(spent) * 1000:.0f} ms{more}")
    logs = [json.loads(path.read_text()) for path in (folder / "logs/generations").glob("*.json")]
    inside = statistics.median(log["seconds"] for log in logs)
    print(
        f"terminal: of that, from reading the workflow to the saved picture: {inside * 1000:.0f} ms"
        f" ({RUNS} runs in turn, medians; whole processes)"
    )


def _bench_memory() -> None:
    engine = Engine.named("sandbox")
    engine.start()
    try:
        url = asyncio.run(engine.ready())
        with tempfile.TemporaryDirectory() as folder:
            seconds = _fetch_many(url, Path(folder))
    finally:
        engine.stop()
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # KiB on Linux
    print(
        f"terminal: {FILES} outputs of {FILE_SIZE // 10**6} MB in {seconds:.0f} s, peak memory "
        f"{peak:.0f} MiB"
    )


def _fetch_many(url: str, folder: Path) -> float:
    inputs = {"subfolder": "", "size": FILE_SIZE, "list_under": "files"}
    inputs |= {"listed_filename": "", "listed_subfolder": ""}
    made = {
        str(number): {
            "class_type": "SandboxFile",
            "inputs": {**inputs, "filename": f"bench-{number}.bin"},
        }
        for number in range(FILES)
    }
    path = folder / "many.json"
    path.write_text(json.dumps(made))
    began = time.perf_counter()
    subprocess.run(
        [our_command("comfy-run-remote"), "--workflow", path, "--pod-url", url],
        cwd=folder,
        env={**os.environ, "COMFY_REMOTE_HOME": str(folder)},
        capture_output=True,
        check=True,
        timeout=600,
    )
    saved = [one.stat().st_size for one in (folder / "output").iterdir()]
    assert saved == [FILE_SIZE] * FILES
    return time.perf_counter() - began


if __name__ == "__main__":
    _bench_memory()
