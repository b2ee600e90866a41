"""The two commands, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import IO

from helpers import wait_until

from comfy_remote.events import JobState
from comfy_remote.jobs.record import Record

__all__ = ["Cli", "Commands", "line_with"]


def line_with(stream: IO[str] | None, text: str) -> str:
    """The first line that a process writes with this in it; it fails if the process ends first."""
    assert stream is not None
    seen = []
    for line in stream:
        seen.append(line)
        if text in line:
            return line
    raise AssertionError(f"no line with {text!r}:\n{''.join(seen)}")


class Commands:
    """Runs ``comfy-remote`` and ``comfy-run-remote`` in a folder, with a record of their own.

    Attributes:
        folder: Where they run; the record is in ``home`` below it.
        environment: What they inherit: this process's, without RunPod's variables.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RUNPOD_")},
            "COMFY_REMOTE_HOME": str(folder / "home"),
            "PYTHONUNBUFFERED": "1",
        }
        self._started: list[subprocess.Popen[str]] = []

    def start(self, module: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start the command whose ``main`` is in that module of ``comfy_remote.cli``."""
        code = f"from comfy_remote.cli.{module} import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._started.append(process)
        return process

    def run(
        self, module: str, *arguments: object, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """The same, to its end."""
        process = self.start(module, *arguments, **environment)
        out, err = process.communicate(timeout=180)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def until_recorded(self, job_id: str, state: JobState) -> None:
        """Return once the record has the job in that state."""
        with Record(self.folder / "home") as record:
            wait_until(lambda: record.get(job_id).state is state)

    def close(self) -> None:
        """End what still runs."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()


class Cli(Commands):
    """``comfy-remote``."""

    def __call__(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return self.run("main", *arguments, **environment)
