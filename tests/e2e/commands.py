"""The two commands, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["Cli", "Commands"]


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
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

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
