"""What happens to a job, as one stream of typed events.

A closed union, made for ``match``::

    async for event in job:
        match event:
            case Progress(nodes_done=done, nodes_total=total): ...
            case Finished(state=JobState.SUCCEEDED): ...

Events stand beside `errors` and `outputs` below every other module, and not in ``jobs/``:
targets produce them, and jobs stand above targets.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, field, replace
from enum import Enum
from typing import Generic, Literal, TypeAlias, TypeVar

from .clean import cleaned_error, cleaned_json, cleaned_text
from .data_class import dataclass
from .errors import ComfyRemoteError
from .outputs import OutputProblem, RemoteOutput
from .types import JsonValue
from .units import seconds_text

__all__ = [
    "DidItRun",
    "Event",
    "EventOf",
    "Finished",
    "JobState",
    "Log",
    "NodeText",
    "OutputReady",
    "Phase",
    "Preview",
    "Progress",
    "Queued",
    "Shown",
    "ShownValues",
    "Started",
    "cleaned",
    "event_to_json",
]


ShownValues: TypeAlias = Mapping[str, "JsonValue"]
"""What a node shows in ComfyUI's page (its ``ui``): by key, ``None`` where the key holds nothing
but outputs that are described as such, in their order; else all of the key's value, its files
named as on the target."""


class JobState(str, Enum):
    """The state of a job. The last four are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    __str__ = str.__str__

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class DidItRun(str, Enum):
    """Whether a job without a result ran, and so cost anything.

    Only after the first two is it safe to run the same job elsewhere.
    """

    NEVER_ACCEPTED = "never_accepted"
    """The target did not take it."""
    WITHDRAWN = "withdrawn"
    """The target took it, and gave it up before it began."""
    STOPPED = "stopped"
    """It began, and ended without a result."""
    UNKNOWN = "unknown"
    """It may have run, may be running, or may run yet."""

    __str__ = str.__str__

    @property
    def surely_not(self) -> bool:
        """Whether it certainly did not run, and will not."""
        return self in (DidItRun.NEVER_ACCEPTED, DidItRun.WITHDRAWN)

    def noted_in(self, error: ComfyRemoteError) -> None:
        """Put it into an error's details, unless they say it already."""
        error.details.setdefault(_DID_IT_RUN, self.value)

    @classmethod
    def of(cls, error: ComfyRemoteError | None) -> DidItRun | None:
        """What an error's details say; ``None`` if they do not."""
        said = None if error is None else error.details.get(_DID_IT_RUN)
        return next((one for one in cls if one.value == said), None)


_DID_IT_RUN = "did_it_run"


@dataclass(frozen=True, slots=True)
class Queued:
    """The target has accepted the job and has not begun.

    Attributes:
        position: Jobs ahead of this one; ``None`` when the target does not say.
    """

    position: int | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The target has begun to run the job."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What a job waits for, besides others, before or while it runs.

    Only where the target tells: a job may have none of these.

    Attributes:
        name: ``starting``: a worker starts. ``throttled``: one waits for a GPU that is free.
            ``loading``: models are loaded. ``computing``: that is over.
        usual_seconds: What a start took the last time; ``None`` where that is not known.
    """

    name: Literal["starting", "throttled", "loading", "computing"]
    usual_seconds: float | None = None

    def __str__(self) -> str:
        """``A worker is starting (92 s the last time)``."""
        words = _PHASES[self.name]
        if self.usual_seconds is None:
            return words
        return f"{words} ({seconds_text(self.usual_seconds)} the last time)"


_PHASES = {
    "starting": "A worker is starting",
    "throttled": "A worker waits for a free GPU",
    "loading": "Loading models",
    "computing": "Running",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """A full snapshot, not a difference: only the newest one counts.

    Attributes:
        nodes_done: Nodes finished or taken from cache, ``0 <= nodes_done <= nodes_total``.
        nodes_total: Nodes that will run; 0 when not known.
        node_id: The node that is running, ``None`` between nodes.
        node_class: Its ``class_type``.
        step: Steps of that node done, in ``0..steps``; ``None`` when it counts none.
        steps: Steps of that node in all.
        message: A line for people ("loading model"); may be empty.
        estimated: The target sends no progress, and this is a guess.
    """

    nodes_done: int = 0
    nodes_total: int = 0
    node_id: str | None = None
    node_class: str | None = None
    step: float | None = None
    steps: float | None = None
    message: str = ""
    estimated: bool = False

    @property
    def fraction(self) -> float:
        """Share of the nodes done, steps of the running one counted in, ``0.0..1.0``."""
        if self.nodes_total <= 0:
            return 0.0
        within = self.step / self.steps if self.step is not None and self.steps else 0.0
        return min(1.0, (self.nodes_done + min(1.0, within)) / self.nodes_total)

    def __str__(self) -> str:
        """``3 of 7 nodes, KSampler 12/20``."""
        parts = []
        if self.nodes_total > 1:
            parts.append(f"{self.nodes_done} of {self.nodes_total} nodes")
        if self.node_class:
            counts = self.step is not None and self.steps
            steps = f" {self.step:g}/{self.steps:g}" if counts else ""
            parts.append(f"{self.node_class}{steps}")
        if self.message:
            parts.append(self.message)
        return ", ".join(parts)

    def _repr_html_(self) -> str:
        """A bar, for notebooks."""
        from html import escape  # here: only a notebook needs it

        return f"<progress value='{self.fraction:.3f}' max='1'></progress> {escape(str(self))}"


@dataclass(frozen=True, slots=True)
class Preview:
    """A small picture of work in progress.

    Attributes:
        node_id: The node that made it, ``None`` when the target does not say.
        media_type: ``image/jpeg``, ``image/png`` or ``image/webp``.
        data: The encoded picture.
    """

    node_id: str | None
    media_type: str
    data: bytes = field(repr=False)


_OutputT = TypeVar("_OutputT", bound=RemoteOutput, covariant=True)


@dataclass(frozen=True, slots=True)
class OutputReady(Generic[_OutputT]):
    """One output exists on the target. May come before the job has finished.

    Attributes:
        output: From a `Job` or a `SyncJob`, it can be fetched and saved at once.
    """

    output: _OutputT


@dataclass(frozen=True, slots=True)
class Shown:
    """What a node shows in ComfyUI's page. Comes before the node's outputs, where it comes at all.

    Attributes:
        node_id: The node.
        values: See `ShownValues`; empty where the node's outputs are all that it shows.
    """

    node_id: str
    values: ShownValues


@dataclass(frozen=True, slots=True)
class NodeText:
    """A text that a node shows while it runs, instead of the one before.

    Attributes:
        node_id: The node.
        text: May have several lines.
    """

    node_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Log:
    """A line for people: a lost socket, a retry, a notice from the target."""

    message: str
    level: str = "info"


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of every job.

    Attributes:
        state: A final state.
        error: Why, unless the job succeeded.
        outputs: Everything the job produced, in the order of the prompt's nodes and, within
            a node, in the order the node listed them. Of a job that failed, what it
            saved before that, as far as the target still returns it.
        details: JSON-able facts from the target: timings in seconds, worker, engine; and
            ``warnings``, sentences about the job that were also sent as `Log`.
        problems: What the workflow asked for and is not among the outputs, or is damaged.
        shown: By node, what it shows besides its outputs. Nodes that show nothing else are left
            out; empty where the target does not say.
        did_it_run: For a job without a result, how certain it is that it did not run.
    """

    state: JobState
    error: ComfyRemoteError | None = None
    outputs: tuple[RemoteOutput, ...] = ()
    details: dict[str, JsonValue] = field(default_factory=dict)
    problems: tuple[OutputProblem, ...] = ()
    shown: Mapping[str, ShownValues] = field(default_factory=dict)
    did_it_run: DidItRun | None = None


EventOf: TypeAlias = (
    Queued
    | Phase
    | Started
    | Progress
    | Preview
    | Shown
    | NodeText
    | OutputReady[_OutputT]
    | Log
    | Finished
)
"""An event whose `OutputReady` has outputs of that type."""

Event: TypeAlias = EventOf[RemoteOutput]


def event_to_json(event: Event) -> dict[str, JsonValue]:
    """The event as one JSON object with an ``event`` key."""
    match event:
        case Queued(position):
            return {"event": "queued", "position": position}
        case Phase(name, usual):
            return {"event": "phase", "phase": name, "usual_seconds": usual}
        case Started():
            return {"event": "started"}
        case Progress():
            return {"event": "progress", **asdict(event), "fraction": round(event.fraction, 4)}
        case Preview():
            return {
                "event": "preview",
                "node_id": event.node_id,
                "media_type": event.media_type,
                "data": base64.b64encode(event.data).decode("ascii"),
            }
        case Shown(node_id, values):
            return {"event": "shown", "node_id": node_id, "values": dict(values)}
        case NodeText(node_id, text):
            return {"event": "text", "node_id": node_id, "text": text}
        case OutputReady(output):
            return {"event": "output", "output": output.to_json()}
        case Log():
            return {"event": "log", "level": event.level, "message": event.message}
        case Finished():
            return {
                "event": "finished",
                "state": event.state.value,
                "error": event.error.to_json() if event.error else None,
                "details": event.details,
                "problems": [problem.to_json() for problem in event.problems],
                "shown": {node_id: dict(values) for node_id, values in event.shown.items()},
                **({"did_it_run": event.did_it_run.value} if event.did_it_run else {}),
            }


def cleaned(event: Event) -> Event:
    """The same event with its texts cleaned; what a workflow has made is left as it is."""
    match event:
        case Log():
            return replace(event, message=cleaned_text(event.message))
        case Progress() if event.message:
            return replace(event, message=cleaned_text(event.message))
        case NodeText():
            return replace(event, text=cleaned_text(event.text))
        case Finished():
            if event.error is not None:
                cleaned_error(event.error)
            problems = tuple(
                replace(
                    one,
                    node_class=cleaned_text(one.node_class) if one.node_class else None,
                    filename=cleaned_text(one.filename) if one.filename else None,
                    reason=cleaned_text(one.reason),
                )
                for one in event.problems
            )
            return replace(event, details=cleaned_json(event.details), problems=problems)
        case _:
            return event
