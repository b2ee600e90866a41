"""A gateway and workers that join it, as processes."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import free_port
from serve_kit import Command, ask, job_of, wait_for


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
        assert command.ended() == 0, command.text
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
        return ask(f"{self.url}/{path}", body)

    def submit(self, prompt: object, **policy: object) -> str:
        return str(self.ask("run", job_of(prompt, **policy))["id"])

    def begin(self, prompt: object, *arguments: str) -> tuple[Command, str]:
        """A worker named attic, and a job that has begun on it."""
        worker = self.worker("attic", *arguments)
        job = self.submit(prompt)
        worker.says(f"Job {job} begins")
        return worker, job

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


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, free_port())
    yield made
    made.stop()
