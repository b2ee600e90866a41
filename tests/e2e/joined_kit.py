"""A gateway and workers that join it, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "comfy_remote"]


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

    def ended(self, seconds: float = 30.0) -> int:
        """Its exit status, once it has ended."""
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status

    def kill(self) -> None:
        self.process.kill()
        self.ended()

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        number = signal.SIGINT
        if sys.platform == "win32":
            number = signal.CTRL_BREAK_EVENT
        self.process.send_signal(number)


class Cluster:
    """A gateway without an engine of its own, on one port, and workers that join it.

    Args:
        folder: For the data of all of them.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.started: list[Command] = []
        self.head: Command | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v2/local"

    def command(self, *arguments: str, **environment: str) -> Command:
        home = str(self.folder / "head")
        made = Command(*arguments, **{"COMFY_REMOTE_HOME": home, **environment})
        self.started.append(made)
        return made

    def run(self, *arguments: str) -> str:
        """A command that ends, where the gateway is; what it wrote."""
        command = self.command(*arguments)
        assert command.ended(60) == 0, command.text
        return command.text

    def serve(self, *arguments: str) -> Command:
        self.head = self.command("serve", "--worker", "none", "--port", str(self.port), *arguments)
        self.head.says("Ready.")
        return self.head

    def token(self, name: str) -> Path:
        file = self.folder / f"{name}.token"
        if not file.exists():
            self.run("workers", "add", name, "-o", str(file))
        return file

    def worker(self, name: str, *arguments: str, join: str = "", **environment: str) -> Command:
        return self.command(
            *("worker", "--join", join or f"http://127.0.0.1:{self.port}"),
            *("--token-file", str(self.token(name))),
            *(
                arguments
                if "--engine" in arguments or "--comfyui" in arguments
                else ("--engine", "sandbox", *arguments)
            ),
            **{"COMFY_REMOTE_HOME": str(self.folder / f"box-{name}"), **environment},
        )

    def ask(self, path: str, body: object = None) -> Any:
        """A client's request."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{path}", data, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def submit(self, prompt: object, **policy: object) -> str:
        body = {"input": {"workflow": prompt, "format": "comfy-remote/1"}, "policy": policy}
        return str(self.ask("run", body)["id"])

    def status(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(f"status/{job}")
        return found

    def ends(self, job: str, seconds: float = 60.0) -> dict[str, Any]:
        """The status of a job once it is final."""
        final = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")

        def is_final() -> bool:
            try:
                return self.status(job)["status"] in final
            except (urllib.error.URLError, ConnectionError):
                return False

        wait_for(is_final, seconds, job)
        return self.status(job)

    def runs(self, job: str, seconds: float = 60.0) -> None:
        wait_for(lambda: self.status(job)["status"] == "IN_PROGRESS", seconds, job)

    def workers(self) -> dict[str, dict[str, Any]]:
        """What ``comfy-remote workers list`` says, by name."""
        lines = self.run("workers", "list", "--json").splitlines()
        rows = [json.loads(line) for line in lines if line.startswith("{")]
        return {row["name"]: row for row in rows}

    def stop(self) -> None:
        for command in self.started:
            if command.process.poll() is None:
                command.kill()


def engines_of(worker: Command) -> list[int]:
    """Process ids of the engines of a worker (not on Windows)."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    return [pid for pid, parent in pairs if parent == worker.process.pid]


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
    steps = max(1, round(seconds * 10))
    prompt["3"] = {
        "class_type": "SandboxSlow",
        "inputs": {
            "image": ["1", 0],
            "steps": steps,
            "seconds_per_step": 0.1,
            "preview": False,
        },
    }
    prompt["2"]["inputs"]["images"] = ["3", 0]
    return prompt
