"""What a command reports while it follows a job, as JSON lines or plain lines.

`live` has the display of a terminal, `run_log` the log of a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ..data_class import dataclass
from ..errors import ComfyRemoteError
from ..events import (
    Event,
    Finished,
    JobState,
    Log,
    Phase,
    Preview,
    Progress,
    Queued,
    Started,
    event_to_json,
)
from ..jobs.record import SavedOutput
from ..net.address import shown
from ..outputs import OutputProblem, RemoteOutput
from ..types import JsonValue
from ..units import counted, seconds_text, size_text
from ..workflow.prompt import Prompt
from .console import print_document, print_json, printable_line, resume_command, say
from .errors import show_error

if TYPE_CHECKING:
    from typing_extensions import Self

    from .dry_run import DryRun

__all__ = [
    "LINES_VERSION",
    "JsonReporter",
    "ListedOutput",
    "Outputs",
    "Pace",
    "PassingReporter",
    "PlainReporter",
    "QuietReporter",
    "Reporter",
    "incomplete",
    "node_label",
    "outcome",
    "print_places",
    "relative",
]

LINES_VERSION = 1
"""Of the lines of ``--json``: see ``json_lines.schema.json``."""

_PROGRESS_EVERY = 10.0
_SENT_EVERY = 1.0
_SILENCE = 18.0


@dataclass(frozen=True, slots=True)
class ListedOutput:
    """An output that stays where it is; ``url`` is ``None`` if it came with the result alone."""

    output: RemoteOutput
    url: str | None

    def to_json(self) -> dict[str, JsonValue]:
        """As `RemoteOutput.to_json` has it, with ``url``."""
        return {**self.output.to_json(), "url": self.url}


Outputs: TypeAlias = "Sequence[SavedOutput] | Sequence[ListedOutput]"
"""What a job made: fetched, or listed with addresses."""


class Reporter:
    """Called at each step of a job; does nothing by itself.

    Used as a context manager, since a live display has an end.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def note(self, message: str) -> None:
        """A line for people: which target was taken, that cancelling has begun."""

    def connecting(self, target: str) -> None:
        """The target is being opened (and the job sent)."""

    def sending(self, sent: int, total: int) -> None:
        """So many bytes of the input files that travel by themselves are there."""

    def following(self, job_id: str, target: str, prompt: Prompt) -> None:
        """The target has the job."""

    def left(self, job_id: str) -> None:
        """The target has the job, and nobody waits for it: the command ends well."""

    def would_send(self, dry: DryRun) -> None:
        """What a run would send, and nothing was."""

    def event(self, event: Event) -> None:
        """Something happened to it."""

    def fetching(self, outputs: Sequence[RemoteOutput]) -> None:
        """The job has succeeded; its outputs are being fetched."""

    def received(self, size: int) -> None:
        """So many more bytes of them are here."""

    def done(
        self, outputs: Outputs, seconds: float, problems: Sequence[OutputProblem] = ()
    ) -> None:
        """The outputs are here, or listed; each with a problem was reported as a `Log` before."""

    def partial(self, outputs: Sequence[SavedOutput]) -> None:
        """The job has failed, and what it had saved before is here. `failed` follows."""

    def failed(self, error: ComfyRemoteError, job_id: str | None, *, resumable: bool) -> None:
        """The command ends with this error."""

    def waiting(self) -> None:
        """Nothing else may have happened; called about once a second."""

    def choose(self, question: str, options: Sequence[str]) -> int | None:
        """Let the person choose: the index of an option; ``None`` if nobody can be asked."""
        return None


class PassingReporter(Reporter):
    """Passes each step on to another reporter."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._inner.__exit__(*exc_info)

    def note(self, message: str) -> None:
        self._inner.note(message)

    def connecting(self, target: str) -> None:
        self._inner.connecting(target)

    def sending(self, sent: int, total: int) -> None:
        self._inner.sending(sent, total)

    def following(self, job_id: str, target: str, prompt: Prompt) -> None:
        self._inner.following(job_id, target, prompt)

    def left(self, job_id: str) -> None:
        self._inner.left(job_id)

    def would_send(self, dry: DryRun) -> None:
        self._inner.would_send(dry)

    def event(self, event: Event) -> None:
        self._inner.event(event)

    def fetching(self, outputs: Sequence[RemoteOutput]) -> None:
        self._inner.fetching(outputs)

    def received(self, size: int) -> None:
        self._inner.received(size)

    def done(
        self, outputs: Outputs, seconds: float, problems: Sequence[OutputProblem] = ()
    ) -> None:
        self._inner.done(outputs, seconds, problems)

    def partial(self, outputs: Sequence[SavedOutput]) -> None:
        self._inner.partial(outputs)

    def failed(self, error: ComfyRemoteError, job_id: str | None, *, resumable: bool) -> None:
        self._inner.failed(error, job_id, resumable=resumable)

    def waiting(self) -> None:
        self._inner.waiting()

    def choose(self, question: str, options: Sequence[str]) -> int | None:
        return self._inner.choose(question, options)


class Pace:
    """Says when so many seconds have passed since it said so last."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether they have."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


class JsonReporter(Reporter):
    """One JSON object a line on standard output: the events, then the result or the error.

    All of them, with their keys, are in ``json_lines.schema.json``.

    Preview pictures, base64, are among them if ``previews`` says so. Once the target has the job,
    there is a line at least every twenty seconds.

    Args:
        clock: Gives seconds, as `time.monotonic` does.
        quiet: Only the lines that say where the job is and how it ended.
        write: Takes each line, instead of standard output.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        *,
        previews: bool = True,
        quiet: bool = False,
        write: Callable[[Mapping[str, object]], None] = print_json,
    ) -> None:
        self._clock = clock
        self._began = self._said = clock()
        self._previews = previews
        self._quiet = quiet
        self._write = write
        self._job_id: str | None = None
        self._target: str | None = None
        self._member: JsonValue = None
        self._sending = Pace(_SENT_EVERY)

    def connecting(self, target: str) -> None:
        self._target = target

    def sending(self, sent: int, total: int) -> None:
        """``{"event": "sending", "sent", "total"}``, once a second."""
        if not self._quiet and self._sending.due():
            self._print({"event": "sending", "sent": sent, "total": total})

    def following(self, job_id: str, target: str, prompt: Prompt) -> None:
        """``{"event": "submitted", "job_id", "target"}``."""
        self._job_id, self._target = job_id, target
        self._print({"event": "submitted", "target": target})

    def would_send(self, dry: DryRun) -> None:
        """``{"event": "dry_run", …}``: `DryRun.to_json`."""
        self._print({"event": "dry_run", **dry.to_json()})

    def event(self, event: Event) -> None:
        """`event_to_json`, with ``job_id`` and ``version``."""
        if isinstance(event, Finished):
            self._member = event.details.get("member")
        if not self._quiet and (self._previews or not isinstance(event, Preview)):
            self._print(event_to_json(event))

    def done(
        self, outputs: Outputs, seconds: float, problems: Sequence[OutputProblem] = ()
    ) -> None:
        """``{"event": "result", "state", "target", "outputs", "problems", "seconds"}``.

        Of a route, with ``member``: the target that has made it.
        """
        self._print(
            {
                "event": "result",
                "state": JobState.SUCCEEDED.value,
                "target": self._target,
                **({} if self._member is None else {"member": self._member}),
                "outputs": [output.to_json() for output in outputs],
                "problems": [problem.to_json() for problem in problems],
                "seconds": round(seconds, 3),
            }
        )

    def partial(self, outputs: Sequence[SavedOutput]) -> None:
        """``{"event": "partial", "outputs"}``, before the error."""
        self._print({"event": "partial", "outputs": [output.to_json() for output in outputs]})

    def failed(self, error: ComfyRemoteError, job_id: str | None, *, resumable: bool) -> None:
        """``{"event": "error", "code", "message", "advice", "details", "resume"}``."""
        self._job_id = job_id
        resume = resume_command(job_id) if job_id and resumable else None
        self._print({"event": "error", **error.to_json(), "resume": resume})

    def waiting(self) -> None:
        """``{"event": "waiting", "seconds"}`` since the command began, if nothing was for long."""
        now = self._clock()
        if self._quiet or self._job_id is None:
            return
        if now - self._said >= _SILENCE:
            self._print({"event": "waiting", "seconds": round(now - self._began, 1)})

    def _print(self, data: Mapping[str, object]) -> None:
        self._said = self._clock()
        self._write({**data, "job_id": self._job_id, "version": LINES_VERSION})


class PlainReporter(Reporter):
    """Where nobody watches: lines on standard error, the outputs' paths on standard output.

    At least every twenty seconds there is a line.

    Args:
        clock: Gives seconds, as `time.monotonic` does.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._prompt: Prompt = {}
        self._clock = clock
        self._began = self._said = clock()
        self._doing = "preparing the workflow"
        self._received = 0
        self._running, self._sending = Pace(_PROGRESS_EVERY), Pace(_PROGRESS_EVERY)

    def note(self, message: str) -> None:
        self._say(message)

    def connecting(self, target: str) -> None:
        self._doing = f"connecting to {shown(target)}"

    def sending(self, sent: int, total: int) -> None:
        """A line every ten seconds, if it takes so long."""
        if self._sending.due():
            self._say(f"Sent {size_text(sent)} of {size_text(total)} of input files.")

    def following(self, job_id: str, target: str, prompt: Prompt) -> None:
        self._prompt = prompt
        self._doing = "waiting for the target"
        self._say(f"Job {job_id} on {target}.")

    def left(self, job_id: str) -> None:
        """The id, alone on standard output."""
        print(job_id, flush=True)
        self.note(f"To follow it, and fetch its outputs: {resume_command(job_id)}")

    def would_send(self, dry: DryRun) -> None:
        """The prompt alone on standard output, as a file in API format."""
        print_document(dry.request.prompt)
        for line in dry.lines():
            self.note(line)

    def event(self, event: Event) -> None:
        """A line for each, and for the progress every ten seconds."""
        match event:
            case Queued(position):
                self._doing = "queued"
                self._say(f"Queued, {position} ahead." if position else "Queued.")
            case Phase():
                self._doing = str(event)[0].lower() + str(event)[1:]
            case Started():
                self._doing = "running"
                self._say("Running.")
            case Progress():
                self._doing = self._progress_text(event) or self._doing
                if self._running.due():
                    self._say_doing()
            case Log():
                self._say(f"{event.level.capitalize()}: {event.message}")

    def fetching(self, outputs: Sequence[RemoteOutput]) -> None:
        self._doing = f"fetching {counted(len(outputs), 'output')}"

    def received(self, size: int) -> None:
        self._received += size

    def waiting(self) -> None:
        """A line if there was none for long."""
        if self._clock() - self._said >= _SILENCE:
            self._say_doing()

    def done(
        self, outputs: Outputs, seconds: float, problems: Sequence[OutputProblem] = ()
    ) -> None:
        self._say(f"Done in {seconds_text(seconds)}: {outcome(outputs)}.")
        if problems:
            self._say(incomplete(problems))
        print_places(outputs)

    def partial(self, outputs: Sequence[SavedOutput]) -> None:
        self._say(f"Saved before it failed: {len(outputs)}.")
        print_places(outputs)

    def failed(self, error: ComfyRemoteError, job_id: str | None, *, resumable: bool) -> None:
        show_error(error, resumable=job_id if resumable else None)

    def _say(self, line: str) -> None:
        self._said = self._clock()
        say(line)

    def _say_doing(self) -> None:
        arrived = f", {size_text(self._received)} are here" if self._received else ""
        self._say(f"{seconds_text(self._clock() - self._began)}: {self._doing}{arrived}")

    def _progress_text(self, progress: Progress) -> str:
        parts = []
        if progress.nodes_total:
            parts.append(f"{progress.nodes_done} of {progress.nodes_total} nodes")
        if progress.node_id is not None:
            parts.append(f"at {node_label(self._prompt, progress.node_id)}")
        if progress.step is not None and progress.steps:
            parts.append(f"step {progress.step:g} of {progress.steps:g}")
        if progress.message:
            parts.append(f"- {progress.message}")
        return " ".join(parts)


class QuietReporter(PlainReporter):
    """Where nobody wants to know: the outputs' places, and what is wrong, warnings included."""

    def note(self, message: str) -> None:
        pass

    def sending(self, sent: int, total: int) -> None:
        pass

    def following(self, job_id: str, target: str, prompt: Prompt) -> None:
        pass

    def event(self, event: Event) -> None:
        if isinstance(event, Log) and event.level in ("warning", "error"):
            super().event(event)

    def waiting(self) -> None:
        pass

    def done(
        self, outputs: Outputs, seconds: float, problems: Sequence[OutputProblem] = ()
    ) -> None:
        print_places(outputs)


def node_label(prompt: Prompt, node_id: str) -> str:
    """A node as people know it: ``KSampler (3)``; with its title, if it has one of its own."""
    node = prompt.get(node_id)
    if node is None:
        return f"node {node_id}"
    return f"{node.get('_meta', {}).get('title') or node['class_type']} ({node_id})"


def outcome(outputs: Outputs) -> str:
    """How many, and how large: ``2 outputs, 3.4 MB``."""
    sizes = [output.size for output in outputs if isinstance(output, SavedOutput)]
    size = size_text(sum(sizes)) if len(sizes) == len(outputs) else "not fetched"
    return f"{counted(len(outputs), 'output')}, {size}"


def incomplete(problems: Sequence[OutputProblem]) -> str:
    """The line for people that ends a run with problems."""
    return f"Incomplete: {counted(len(problems), 'problem')}, see the warnings above."


def print_places(outputs: Outputs) -> None:
    """Where the outputs are, a path or an address a line, on standard output."""
    for output in outputs:
        if isinstance(output, SavedOutput):
            print(relative(output.path), flush=True)
        elif output.url is not None:
            print(printable_line(output.url), flush=True)
        else:
            say(f"{output.output.filename} has no address: it comes with the result.")


def relative(path: Path) -> Path:
    """Relative to the current folder where that is shorter."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
