"""Commands of ours as processes, ``comfy-remote serve`` above all, and what they are asked."""

from __future__ import annotations

import json
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
from typing import Any, TypeVar

import pytest

COMMAND = [sys.executable, "-m", "comfy_remote"]
_Started = TypeVar("_Started", bound="Command")


def wait_for(condition: Callable[[], object], seconds: float = 60.0, what: str = "") -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


class Command:
    """A running command; `text` is all that it has written."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.text = ""
        # A Ctrl-Break on Windows goes to a whole group.
        flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            creationflags=flags,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line

    def says(self, words: str, seconds: float = 60.0) -> None:
        """Wait until it has written that."""

        def said() -> bool:
            assert self.process.poll() is None or words in self.text, self.text
            return words in self.text

        try:
            wait_for(said, seconds)
        except AssertionError:
            raise AssertionError(f"{words!r} is not in:\n{self.text}") from None

    def ended(self, seconds: float = 120.0) -> int:
        """Its exit status, once it has ended."""
        status = self.process.wait(seconds)
        self._reader.join(60)
        return status

    def kill(self) -> None:
        self.process.kill()
        self.ended()

    def stop(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.ended()

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        number = signal.SIGINT
        if sys.platform == "win32":
            number = signal.CTRL_BREAK_EVENT
        self.process.send_signal(number)


class Serve(Command):
    """A running ``comfy-remote serve``."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        super().__init__("serve", "--port", "0", *arguments, **environment)

    def url(self, seconds: float = 60) -> str:
        """What it says that clients need, once it is ready."""
        self.says("Ready.", seconds)
        self.says(" in a browser", seconds)
        found = re.search(r"BASE_URL=(\S+)", self.text)
        assert found, self.text
        return found[1]


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    """Those in this list are killed at the end."""
    yield from _killed_at_the_end([])


@pytest.fixture
def servers() -> Iterator[list[Serve]]:
    """As `commands`, for those that serve."""
    yield from _killed_at_the_end([])


def _killed_at_the_end(started: list[_Started]) -> Iterator[list[_Started]]:
    yield started
    for command in started:
        if command.process.poll() is None:
            command.kill()


def refusal(*arguments: str, status: int = 2, cwd: Path | None = None, **environment: str) -> str:
    """What a ``serve`` that ends by itself, with that status, says on standard error."""
    done = subprocess.run(
        [*COMMAND, "serve", "--port", "0", *arguments],
        cwd=cwd,
        env={**os.environ, "COMFY_REMOTE_TOKEN": "", **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert "Ready." not in done.stderr
    return done.stderr


def ask(url: str, body: object = None, headers: dict[str, str] | None = None) -> Any:
    """What is answered to a client's request: a POST if it has a body."""
    data = None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(url, data, given)
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def job_of(prompt: object, **policy: object) -> dict[str, object]:
    """The body of ``/run`` for a prompt."""
    return {"input": {"workflow": prompt, "format": "comfy-remote/1"}, "policy": policy}


def picture(*, color: int = 0, size: int = 8) -> dict[str, Any]:
    """A prompt that makes a picture at once."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": size, "height": size, "batch_size": 1, "color": color},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
    }


def slow(seconds: float, *, color: int = 0) -> dict[str, Any]:
    """A prompt of the sandbox that takes so long."""
    prompt = picture(color=color)
    steps = {"steps": max(1, round(seconds * 10)), "seconds_per_step": 0.1, "preview": False}
    prompt["3"] = {"class_type": "SandboxSlow", "inputs": {"image": ["1", 0], **steps}}
    prompt["2"]["inputs"]["images"] = ["3", 0]
    return prompt


def children_of(pid: int) -> set[int]:
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    parents = dict(map(int, line.split()) for line in listed.stdout.splitlines())
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True, check=True
    )
    states = dict(line.split(maxsplit=1) for line in listed.stdout.splitlines())
    return {pid for pid in pids if not states.get(str(pid), "Z").startswith("Z")}
