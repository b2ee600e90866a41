"""What all folders of tests share: the real ComfyUI, git, ports, processes, waiting."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

COMFYUI_PYTHON = os.environ.get("COMFYUI_PYTHON", sys.executable)
COMFYUI_START_SECONDS = 110


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Return once the condition holds; looks at it every 20 ms."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)


async def settled(turns: int = 200) -> None:
    """Let everything run that is ready to, in this event loop: for what no thread or socket does.

    Unlike a sleep, it gives others as many turns on a slow machine as on a quick one.
    """
    for _ in range(turns):
        await asyncio.sleep(0)


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """As `until`, where there is no event loop; looks at it every 50 ms."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def find_comfyui() -> Path | None:
    """The folder with ComfyUI's ``main.py``."""
    named = os.environ.get("COMFYUI_DIR")
    places = [Path(named)] if named else [Path.home() / "comfy/ComfyUI", Path.home() / "ComfyUI"]
    found = next((place for place in places if (place / "main.py").is_file()), None)
    if named and found is None:
        pytest.exit(f"COMFYUI_DIR={named} has no main.py", returncode=pytest.ExitCode.USAGE_ERROR)
    return found


def real_comfyui() -> Path:
    """The folder with ComfyUI's ``main.py``; without one, the test is skipped."""
    found = find_comfyui()
    if found is None:
        pytest.skip("skipped: no ComfyUI")
    return found


def git(folder: Path, *arguments: str) -> str:
    """What git prints in a folder, with an identity to commit by."""
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


_PORTS = iter(sorted(range(20_000, 32_000), key=lambda port: (port - os.getpid() * 97) % 12_000))


def free_port() -> int:
    """A port that nobody listens on, for a program that cannot take one by itself (port 0).

    It is none of those that the system gives out, so nobody gets it by chance before it is used;
    and another test process begins to look elsewhere.
    """
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once ``/system_stats`` answers."""
    deadline = time.monotonic() + COMFYUI_START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"ComfyUI ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        try:
            with urllib.request.urlopen(f"{url}/system_stats", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    pytest.fail(f"ComfyUI did not answer in {COMFYUI_START_SECONDS} s:\n{log.read_text()[-3000:]}")


def start_sandbox(
    *arguments: str, program: Sequence[str] = ("-m", "comfy_remote.sandbox")
) -> tuple[str, subprocess.Popen[bytes]]:
    """Start a sandbox, or what says its address as one does; gives the URL and the process."""
    process = subprocess.Popen(
        [sys.executable, *program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    return json.loads(process.stdout.readline())["url"], process


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process politely, then firmly."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def in_comfyui_python(script: Path, folder: Path) -> str:
    """What a script prints that a real ComfyUI's Python runs, with this package and ComfyUI's own.

    Args:
        folder: The current one, for the script.
    """
    paths = [str(Path(__file__).resolve().parents[1]), str(find_comfyui() or "")]
    done = subprocess.run(
        [COMFYUI_PYTHON, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
