"""What a command that follows a job tells while it does, and the JSON way of telling it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import ComfyRemoteError
from ..events import Event, JobState, Preview, event_to_json
from ..jobs.record import SavedOutput
from ..outputs import OutputProblem, RemoteOutput
from ..workflow.prompt import Prompt
from .console import print_json, printable_line, resume_command, say

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = [
    "JsonReporter",
    "ListedOutput",
    "Reporter",
    "incomplete",
    "node_label",
    "print_listed",
    "print_paths",
    "relative",
]


@dataclass(frozen=True, slots=True)
class ListedOutput:
    """An output that stays where it is; ``url`` is ``None`` if it came with the result alone."""

    output: RemoteOutput
    url: str | None


class Reporter(Protocol):
    """Told of each step; used as a context manager, since a live display has an end."""

    def __enter__(self) -> Reporter: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def note(self, message: str) -> None:
        """A line for people: which target was taken, that cancelling has begun."""

    def connecting(self, target: str) -> None:
        """The target is being opened (and the job sent)."""

    def following(self, job_id: str, target: str, prompt: Prompt) -> None:
        """The target has the job."""

    def event(self, event: Event) -> None:
        """Something happened to it."""

    def fetching(self, outputs: Sequence[RemoteOutput]) -> None:
        """The job has succeeded; its outputs are on their way."""

    def received(self, size: int) -> None:
        """So many more bytes of them are here."""

    def saved(
        self,
        outputs: Sequence[SavedOutput],
        seconds: float,
        problems: Sequence[OutputProblem] = (),
    ) -> None:
        """The outputs are here, but for those with a problem, each of which was a `Log` before."""

    def listed(
        self,
        outputs: Sequence[ListedOutput],
        seconds: float,
        problems: Sequence[OutputProblem] = (),
    ) -> None:
        """The job has succeeded, and its outputs are not fetched: where they are."""

    def partial(self, outputs: Sequence[SavedOutput]) -> None:
        """The job has failed, and what it had saved before is here. `failed` follows."""

    def failed(self, error: ComfyRemoteError, job_id: str | None, *, resumable: bool) -> None:
        """It did not work out."""

    def choose(self, question: str, options: Sequence[str]) -> int | None:
        """Let the person choose: the index of an option; ``None`` where there is nobody to ask."""


def node_label(prompt: Prompt, node_id: str) -> str:
    """A node as people know it: ``KSampler (3)``; with its title, if it has one of its own."""
    node = prompt.get(node_id)
    if node is None:
        return f"node {node_id}"
    return f"{node.get('_meta', {}).get('title') or node['class_type']} ({node_id})"


class JsonReporter:
    """One JSON object a line on standard output: the events, then the result or the error.

    Args:
        previews: Whether to print the preview pictures, base64.
    """

    def __init__(self, *, previews: bool = True) -> None:
        self._previews = previews
        self._job_id: str | None = None
        self._target: str | None = None

    def __enter__(self) -> JsonReporter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def note(self, message: str) -> None:
        """See `Reporter`. For people only."""

    def connecting(self, target: str) -> None:
        """See `Reporter`."""
        self._target = target

    def following(self, job_id: str, target: str, prompt: Prompt) -> None:  # noqa: ARG002
        """``{"event": "submitted", "job_id", "target"}``."""
        self._job_id, self._target = job_id, target
        self._print({"event": "submitted", "target": target})

    def event(self, event: Event) -> None:
        """`event_to_json`, with ``job_id``."""
        if self._previews or not isinstance(event, Preview):
            self._print(event_to_json(event))

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
        """``{"event": "result", "state", "target", "outputs", "problems", "seconds"}``."""
        self._result([output.to_json() for output in outputs], seconds, problems)

    def listed(
        self,
        outputs: Sequence[ListedOutput],
        seconds: float,
        problems: Sequence[OutputProblem] = (),
    ) -> None:
        """Like `saved`; each output as `RemoteOutput.to_json` has it, with its ``url``."""
        self._result([{**o.output.to_json(), "url": o.url} for o in outputs], seconds, problems)

    def partial(self, outputs: Sequence[SavedOutput]) -> None:
        """``{"event": "partial", "outputs"}``, before the error."""
        self._print({"event": "partial", "outputs": [output.to_json() for output in outputs]})

    def choose(self, question: str, options: Sequence[str]) -> int | None:  # noqa: ARG002
        """Nobody is there."""
        return None

    def failed(self, error: ComfyRemoteError, job_id: str | None, *, resumable: bool) -> None:
        """``{"event": "error", "code", "message", "advice", "details", "resume"}``."""
        self._job_id = job_id
        resume = resume_command(job_id) if job_id and resumable else None
        self._print({"event": "error", **error.to_json(), "resume": resume})

    def _result(
        self,
        outputs: Sequence[Mapping[str, JsonValue]],
        seconds: float,
        problems: Sequence[OutputProblem],
    ) -> None:
        self._print(
            {
                "event": "result",
                "state": JobState.SUCCEEDED.value,
                "target": self._target,
                "outputs": outputs,
                "problems": [problem.to_json() for problem in problems],
                "seconds": round(seconds, 3),
            }
        )

    def _print(self, data: Mapping[str, object]) -> None:
        print_json({**data, "job_id": self._job_id})


def incomplete(problems: Sequence[OutputProblem]) -> str:
    """The line for people that ends a run with problems."""
    plural = "" if len(problems) == 1 else "s"
    return f"Incomplete: {len(problems)} problem{plural}, see the warnings above."


def print_paths(outputs: Sequence[SavedOutput]) -> None:
    """Where the outputs are, a path a line, on standard output."""
    for output in outputs:
        print(relative(output.path), flush=True)


def print_listed(outputs: Sequence[ListedOutput]) -> None:
    """Where the outputs of `Reporter.listed` are, a URL a line, on standard output."""
    for listed in outputs:
        if listed.url is not None:
            print(printable_line(listed.url), flush=True)
        else:
            say(f"{listed.output.filename} has no address: it is fetched with the result.")


def relative(path: Path) -> Path:
    """Relative to the current folder where that is shorter."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
