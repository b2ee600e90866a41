"""Telling how a job goes where nobody watches: few lines, no colours, no redrawing."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..errors import ComfyRemoteError
from ..events import Event, Log, Progress, Queued, Started
from ..jobs.record import SavedOutput
from ..outputs import OutputProblem, RemoteOutput
from ..workflow.prompt import Prompt
from .console import human_seconds, human_size, say
from .errors import show_error
from .reporter import ListedOutput, incomplete, node_label, print_listed, print_paths

__all__ = ["PlainReporter"]

_PROGRESS_EVERY = 10.0


class PlainReporter:
    """Lines on standard error, the paths of the outputs on standard output."""

    def __init__(self) -> None:
        self._prompt: Prompt = {}
        self._began = self._told = time.monotonic()

    def __enter__(self) -> PlainReporter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def note(self, message: str) -> None:
        """See `Reporter`."""
        say(message)

    def connecting(self, target: str) -> None:
        """See `Reporter`."""

    def following(self, job_id: str, target: str, prompt: Prompt) -> None:
        """See `Reporter`."""
        self._prompt = prompt
        say(f"Job {job_id} on {target}.")

    def event(self, event: Event) -> None:
        """See `Reporter`."""
        match event:
            case Queued(position):
                say(f"Queued, {position} ahead." if position else "Queued.")
            case Started():
                say("Running.")
            case Progress() if time.monotonic() - self._told >= _PROGRESS_EVERY:
                self._told = time.monotonic()
                say(self._progress(event))
            case Log():
                say(f"{event.level.capitalize()}: {event.message}")

    def fetching(self, outputs: Sequence[RemoteOutput]) -> None:
        """See `Reporter`."""

    def received(self, size: int) -> None:
        """See `Reporter`."""

    def saved(
        self,
        outputs: Sequence[SavedOutput],
        seconds: float,
        problems: Sequence[OutputProblem] = (),
    ) -> None:
        """See `Reporter`."""
        size = sum(output.size for output in outputs)
        plural = "" if len(outputs) == 1 else "s"
        say(f"Done in {human_seconds(seconds)}: {len(outputs)} output{plural}, {human_size(size)}.")
        if problems:
            say(incomplete(problems))
        print_paths(outputs)

    def listed(
        self,
        outputs: Sequence[ListedOutput],
        seconds: float,
        problems: Sequence[OutputProblem] = (),
    ) -> None:
        """See `Reporter`."""
        plural = "" if len(outputs) == 1 else "s"
        say(f"Done in {human_seconds(seconds)}: {len(outputs)} output{plural}, not fetched.")
        if problems:
            say(incomplete(problems))
        print_listed(outputs)

    def partial(self, outputs: Sequence[SavedOutput]) -> None:
        """See `Reporter`."""
        say(f"Saved before it failed: {len(outputs)}.")
        print_paths(outputs)

    def choose(self, question: str, options: Sequence[str]) -> int | None:  # noqa: ARG002
        """Nobody is there."""
        return None

    def failed(self, error: ComfyRemoteError, job_id: str | None, *, resumable: bool) -> None:
        """See `Reporter`."""
        show_error(error, resumable=job_id if resumable else None)

    def _progress(self, progress: Progress) -> str:
        parts = [f"{human_seconds(time.monotonic() - self._began)}:"]
        if progress.nodes_total:
            parts.append(f"{progress.nodes_done} of {progress.nodes_total} nodes")
        if progress.node_id is not None:
            parts.append(f"at {node_label(self._prompt, progress.node_id)}")
        if progress.step is not None and progress.steps:
            parts.append(f"step {progress.step:g} of {progress.steps:g}")
        if progress.message:
            parts.append(f"- {progress.message}")
        return " ".join(parts)
