"""The log that a run leaves: a ``.log`` for people, and a ``.json`` with the same for programs.

It is written as the run goes, so that one that was killed leaves what was known by then. Values
of secrets in the environment are masked.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from ..clean import clean, one_line
from ..errors import ComfyRemoteError
from ..events import Event, Finished, Log, OutputReady, Progress, Queued, Started
from ..jobs.record import SavedOutput
from ..media.file_changes import remove_file, replace_file
from ..media.files import safe_relative_path, storage_errors
from ..net.address import shown
from ..outputs import OutputProblem
from ..secrets import redact
from ..targets.base import Capabilities
from ..types import JsonValue, with_texts
from ..version import __version__
from ..workflow.prompt import Prompt
from .advice import for_terminal
from .console import resume_command
from .errors import explain
from .reporter import ListedOutput, Outputs, PassingReporter, Reporter, node_label

__all__ = ["LoggedReporter", "RunLog"]

FORMAT = "comfy-remote-log/1"


class RunLog:
    """What is known of one run, and its two files.

    Args:
        folder: Where they go; made if it is missing.
        image_id: A word for the run: ``<time>_<image id>.log``.
        clock: Seconds; `time.monotonic` by default.
    """

    def __init__(
        self, folder: Path, image_id: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._began = self._phase_began = clock()
        self._phase = "prepare"
        self._node: tuple[str, float] | None = None
        self._prompt: Prompt = {}
        self._broken = self._unsaved = False
        began = datetime.now(timezone.utc).astimezone()
        name = safe_relative_path(f"{began:%Y%m%d-%H%M%S}_{image_id.replace('/', '_')}").name
        self.facts: dict[str, JsonValue] = {
            "format": FORMAT,
            "image_id": image_id,
            "job_id": None,
            "started": began.isoformat(timespec="milliseconds"),
            "state": "preparing",
            "seconds": None,
            "phases": {},
            "nodes": [],
            "target": {},
            "versions": {
                "comfy_remote": __version__,
                "python": platform.python_version(),
                "platform": platform.platform(),
            },
            "workflow": None,
            "prompt": None,
            "details": {},
            "outputs": [],
            "error": None,
            "resume": None,
        }
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self.path = _new_file(folder, name)

    def line(self, text: str) -> None:
        """Add a line to the ``.log``: the time, the seconds since the start, and the words."""
        now = datetime.now(timezone.utc).astimezone()
        since = self._clock() - self._began
        self._write(
            lambda: _append(
                self.path,
                f"{now:%H:%M:%S}.{now.microsecond // 1000:03} +{since:8.3f}  "
                f"{one_line(redact(text, os.environ))}\n",
            )
        )

    def phase(self, name: str) -> None:
        """End a phase and begin another. Each is counted in seconds; those of one name add up."""
        now = self._clock()
        phases = self.facts["phases"]
        assert isinstance(phases, dict)  # noqa: S101  # it is ours
        before = phases.get(self._phase, 0.0)
        spent = now - self._phase_began
        phases[self._phase] = round((before if isinstance(before, float) else 0.0) + spent, 3)
        self._phase, self._phase_began = name, now

    def node(self, node_id: str | None) -> None:
        """Another node runs now; ``None`` for none. Times are as they were seen here."""
        now = self._clock()
        if self._node is not None:
            known, began = self._node
            if known == node_id:
                return
            nodes = self.facts["nodes"]
            assert isinstance(nodes, list)  # noqa: S101  # it is ours
            node = self._prompt.get(known)
            nodes.append(
                {
                    "node_id": known,
                    "class_type": node["class_type"] if node else None,
                    "seconds": round(now - began, 3),
                }
            )
        self._node = None if node_id is None else (node_id, now)
        if node_id is not None:
            self.line(f"Node {node_label(self._prompt, node_id)}")

    def target(self, name: str, capabilities: Capabilities | None = None) -> None:
        """Where the job goes, and what is there."""
        known: dict[str, JsonValue] = {"name": shown(name)}
        if capabilities is not None:
            known |= {"engine": capabilities.engine, "device": capabilities.device}
            if capabilities.engine is not None:
                self.line(f"{capabilities.engine} on {capabilities.device}")
        self.facts["target"] = known

    def submitted(self, job_id: str, prompt: Prompt) -> None:
        """The target has the job."""
        self._prompt = prompt
        self.facts |= {
            "job_id": job_id,
            "prompt": json.loads(json.dumps(prompt)),
            "resume": resume_command(job_id),
        }

    def ended(self, state: str) -> None:
        """Nothing more will be known."""
        self.node(None)
        self.phase("over")
        self.facts |= {"state": state, "seconds": round(self._clock() - self._began, 3)}
        phases = self.facts["phases"]
        if isinstance(phases, dict):
            spent = ", ".join(f"{name} {seconds} s" for name, seconds in phases.items())
            self.line(f"Phases: {spent}")
        self.save()

    def save(self) -> None:
        """Write the ``.json``, whole or not at all."""
        facts = with_texts(self.facts, lambda text: clean(redact(for_terminal(text), os.environ)))
        text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        beside = self.path.with_suffix(".json.part")

        try:
            remove_file(beside, missing_ok=True)
            _append(beside, text)
            replace_file(beside, self.path.with_suffix(".json"))
            self._unsaved = False
        except OSError:  # a full disk, say, which must not end a run that goes well
            self._unsaved = True

    def close(self) -> None:
        """Write the ``.json`` if that failed. Not on an event loop, where nothing is waited for."""
        if self._unsaved:
            self.save()

    def _write(self, write: Callable[[], None]) -> None:
        """Write, unless that failed before: a full disk must not end a run that goes well."""
        if self._broken:
            return
        try:
            write()
        except OSError:
            self._broken = True


class LoggedReporter(PassingReporter):
    """Passes each step on to another reporter, and writes it to the log."""

    def __init__(self, inner: Reporter, log: RunLog) -> None:
        super().__init__(inner)
        self._log = log

    def __exit__(self, *exc_info: object) -> None:
        self._log.close()
        super().__exit__(*exc_info)

    def note(self, message: str) -> None:
        self._log.line(message)
        self._inner.note(message)

    def connecting(self, target: str) -> None:
        self._log.phase("submit")
        self._log.target(target)
        self._log.line(f"Connecting to {shown(target)}")
        self._inner.connecting(target)

    def following(self, job_id: str, target: str, prompt: Prompt) -> None:
        self._log.phase("queue")
        self._log.submitted(job_id, prompt)
        self._log.facts["state"] = "submitted"
        self._log.line(f"Submitted as {job_id}; {resume_command(job_id)}")
        self._log.save()
        self._inner.following(job_id, target, prompt)

    def left(self, job_id: str) -> None:
        self._log.ended("submitted")
        self._inner.note(f"Log: {self._log.path}")
        self._inner.left(job_id)

    def event(self, event: Event) -> None:
        match event:
            case Queued(position):
                self._log.line(f"Queued, {position} ahead" if position else "Queued")
            case Started():
                self._log.phase("run")
                self._log.line("Running")
            case Progress() if not event.estimated:
                self._log.node(event.node_id)
            case OutputReady(output):
                self._log.line(f"Output {output.filename} of node {output.node_id}")
            case Log():
                self._log.line(f"{event.level.capitalize()}: {event.message}")
            case Finished():
                self._log.node(None)
                self._log.phase("download")
                self._log.line(f"Finished: {event.state.value}")
                self._log.facts["details"] = event.details
        self._inner.event(event)

    def done(
        self, outputs: Outputs, seconds: float, problems: Sequence[OutputProblem] = ()
    ) -> None:
        self._log_outputs(outputs)
        if problems:
            self._log.facts["problems"] = [problem.to_json() for problem in problems]
        self._log.ended("succeeded")
        self._inner.done(outputs, seconds, problems)
        self._inner.note(f"Log: {self._log.path}")

    def partial(self, outputs: Sequence[SavedOutput]) -> None:
        self._log_outputs(outputs)
        self._inner.partial(outputs)

    def _log_outputs(self, outputs: Outputs) -> None:
        self._log.facts["outputs"] = [_described(output) for output in outputs]
        for output in outputs:
            if isinstance(output, SavedOutput):
                what = f"{output.size} bytes, SHA-256 {output.sha256}"
                self._log.line(f"Saved {output.path} ({what})")

    def failed(self, error: ComfyRemoteError, job_id: str | None, *, resumable: bool) -> None:
        self._log.facts["error"] = error.to_json()
        for line in explain(error, resumable=job_id if resumable else None):
            self._log.line(line)
        self._log.ended("cancelled" if error.code == "cancelled" else "failed")
        # First, so that the error and what to do about it stand last.
        self._inner.note(f"Log: {self._log.path}")
        self._inner.failed(error, job_id, resumable=resumable)


def _described(output: SavedOutput | ListedOutput) -> dict[str, JsonValue]:
    """As JSON; an address without its query, where that is a signature and no file's name."""
    data = output.to_json()
    if isinstance(output, ListedOutput) and output.url is not None:
        source = output.output.source
        if source is None:
            data["url"] = None
        elif source.path is None:
            data["url"] = shown(output.url)
    return data


def _new_file(folder: Path, name: str) -> Path:
    """A new empty file that only its owner can read."""
    for count in range(1, 1000):
        path = folder / (f"{name}.log" if count == 1 else f"{name}_{count}.log")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"{folder / name}.log")


def _append(path: Path, text: str) -> None:
    number = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    with os.fdopen(number, "a", encoding="utf-8") as file:
        file.write(text)
