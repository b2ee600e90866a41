"""What a check found: problems, and advice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ...types import JsonValue

__all__ = ["Advice", "AdviceCode", "Problem", "ProblemCode", "Report", "Severity"]

Severity = Literal["error", "warning"]

ProblemCode = Literal[
    "missing_node_type",
    "prompt_no_outputs",
    "dependency_cycle",
    "dangling_link",
    "no_such_output",
    "bad_linked_input",
    "return_type_mismatch",
    "required_input_missing",
    "invalid_input_type",
    "value_smaller_than_min",
    "value_bigger_than_max",
    "value_not_in_list",
    "missing_model",
    "missing_file",
    "custom_validation_failed",
    "invalid_node",
    "output_too_large",
    "request_too_large",
    "outputs_not_returned",
    "repo_list_invalid",
    "workflow_invalid",
    "value_doubtful",
    "placeholder_left",
]
"""Where ComfyUI has a name for it, it is ComfyUI's."""

AdviceCode = Literal[
    "unused_nodes",
    "preview_costs_decode",
    "model_loaded_twice",
    "frames_as_pictures",
    "resize_could_run_here",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a prompt from running, or may.

    Attributes:
        code: Stable, for scripts.
        message: What is wrong, a sentence or two.
        node_id: ``None`` for the prompt as a whole.
        advice: What to do; may be empty.
        severity: ``warning`` if it depends on what cannot be known here.
        details: Facts: sizes in bytes, folder of a model, name of a pack.
    """

    code: ProblemCode
    message: str
    node_id: str | None = None
    node_class: str | None = None
    input: str | None = None
    advice: str = ""
    severity: Severity = "error"
    details: Mapping[str, JsonValue] = field(default_factory=dict)

    def to_json(self) -> dict[str, JsonValue]:
        """All fields."""
        return {
            "code": self.code,
            "severity": self.severity,
            "node_id": self.node_id,
            "node_class": self.node_class,
            "input": self.input,
            "message": self.message,
            "advice": self.advice,
            "details": dict(self.details),
        }


@dataclass(frozen=True, slots=True)
class Advice:
    """Something that works, and could cost less.

    Attributes:
        code: Stable, for scripts.
        saves: What it would save, with numbers if they follow from the graph.
    """

    code: AdviceCode
    message: str
    saves: str
    nodes: tuple[str, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """All fields."""
        return {
            "code": self.code,
            "message": self.message,
            "saves": self.saves,
            "nodes": list(self.nodes),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found.

    Attributes:
        problems: Errors and warnings, in the order of the prompt's nodes.
        schemas: Whose schemas the prompt was checked against.
        error, node_errors: ComfyUI's, if it would refuse the prompt.
    """

    problems: tuple[Problem, ...]
    advice: tuple[Advice, ...]
    schemas: str
    error: Mapping[str, JsonValue] | None = None
    node_errors: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that keep it from running."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    def to_json(self) -> dict[str, JsonValue]:
        """One document; ``error`` and ``node_errors`` are of ComfyUI's shape."""
        return {
            "ok": not self.errors,
            "schemas": self.schemas,
            "error": dict(self.error) if self.error is not None else None,
            "node_errors": dict(self.node_errors),
            "problems": [problem.to_json() for problem in self.problems],
            "advice": [advice.to_json() for advice in self.advice],
        }
