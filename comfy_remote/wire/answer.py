"""``comfy-remote/1``: what our worker answers, and the progress it sends meanwhile."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, JsonValue

from ..outputs import OutputKind, OutputProblem
from .installed import RanOn

__all__ = [
    "Answer",
    "AnswerOutput",
    "AnswerProblem",
    "PreviewSnapshot",
    "ProgressSnapshot",
]


class AnswerOutput(BaseModel):
    """One output. A file has ``data``, ``url`` or ``kept``; a text has ``text``.

    Attributes:
        url: Where it was stored: absolute, or below the endpoint's own address.
        delete_url: A signed address to DELETE once the file is here and checked.
        kept: Its name on the worker, which sends it in parts (see `wire.actions`).
        key: The one under which ComfyUI's history lists it; older workers omit it.
    """

    node_id: str | None = None
    kind: OutputKind
    filename: str
    subfolder: str = ""
    folder: str = "output"
    media_type: str = "application/octet-stream"
    size: int | None = Field(default=None, ge=0)
    sha256: str | None = None
    data: str | None = None
    url: str | None = None
    delete_url: str | None = None
    kept: str | None = None
    text: str | None = None
    key: str | None = None


class AnswerProblem(BaseModel):
    """See `outputs.OutputProblem`."""

    node_id: str | None = None
    node_class: str | None = None
    filename: str | None = None
    reason: str

    @classmethod
    def of(cls, problem: OutputProblem) -> AnswerProblem:
        """The problem as the wire has it."""
        return cls.model_validate(problem.to_json())

    def problem(self) -> OutputProblem:
        """The problem, read from the wire."""
        return OutputProblem(self.node_id, self.node_class, self.filename, self.reason)


class Answer(BaseModel):
    """The result of a job that succeeded, or what a failed one saved before its error.

    Attributes:
        status: ``error`` if the job failed; its error is then in RunPod's own field.
        outputs: In the order of the prompt's nodes and, within a node, of its list.
        timings: Seconds by phase: ``upload``, ``queue``, ``run``, ``collect``.
        engine: What ran the prompt, for example ``ComfyUI 0.33.0``.
        worker: The worker's id.
        warnings: What went wrong without failing the job, the problems in words included.
        problems: Which outputs are missing or damaged; ``None`` for none.
        shown: By node, what it shows in ComfyUI's page besides its outputs: see
            `events.ShownValues`. ``None`` from older workers.
        ran_on: What it was run with; ``None`` where the worker does not know.
        mostly_cached: Whether ComfyUI still had the results of most of it, so its time says nothing
            of how long the next one takes. ``None`` if not, and from older workers.
        kept_inputs: SHA-256 of the job's files that the worker stores for a while: later jobs may
            send only this hash. ``None`` for none.
    """

    format: Literal["comfy-remote/1"] = "comfy-remote/1"
    status: Literal["success", "error"] = "success"
    outputs: list[AnswerOutput]
    timings: dict[str, float] = {}
    engine: str | None = None
    worker: str | None = None
    warnings: list[str] = []
    problems: list[AnswerProblem] | None = None
    shown: dict[str, dict[str, JsonValue]] | None = None
    kept_inputs: list[str] | None = None
    ran_on: RanOn | None = None
    mostly_cached: bool | None = None

    def facts(self) -> dict[str, JsonValue]:
        """What a client shows besides the outputs."""
        shown = {"timings", "engine", "worker", *(["kept_inputs"] if self.kept_inputs else [])}
        shown |= {"ran_on"} if self.ran_on else set()
        shown |= {"mostly_cached"} if self.mostly_cached else set()
        return self.model_dump(mode="json", include=shown)


class PreviewSnapshot(BaseModel):
    """A small picture of work in progress, base64."""

    node_id: str | None = None
    media_type: str
    data: str


class ProgressSnapshot(BaseModel):
    """What ``/status`` shows as ``output`` while the job is in progress.

    Updates can overtake each other: a client drops one whose ``sequence`` is not above the last.

    Attributes:
        texts: By node, the newest text that it shows while it runs.
    """

    format: Literal["comfy-remote/1 progress"] = "comfy-remote/1 progress"
    sequence: int
    nodes_done: int = Field(default=0, ge=0)
    nodes_total: int = Field(default=0, ge=0)
    node_id: str | None = None
    node_class: str | None = None
    step: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    steps: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    message: str = ""
    texts: dict[str, str] = {}
    preview: PreviewSnapshot | None = None
