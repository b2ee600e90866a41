"""Values that may not be what the workflow's author saw in the editor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..change.file_names import left_over
from ..prompt import Prompt
from .report import Problem

if TYPE_CHECKING:
    from ..convert import Doubt

__all__ = ["doubtful_values"]


def doubtful_values(prompt: Prompt, doubts: Iterable[Doubt]) -> Iterator[Problem]:
    """Warnings: saved values that do not fit, and placeholders that nothing fills in."""
    for doubt in doubts:
        message = f"{doubt.message[0].upper()}{doubt.message[1:]}"
        yield Problem(
            "value_doubtful",
            message,
            doubt.node_id,
            doubt.class_type,
            doubt.input,
            severity="warning",
        )
    for node_id, key, placeholder in left_over(prompt):
        yield Problem(
            "placeholder_left",
            f"{placeholder} stays as it is: nothing fills it in for this input.",
            node_id,
            prompt[node_id]["class_type"],
            key,
            advice=f"If it should not be in a name, set it: --set '{node_id}.{key}=…'.",
            severity="warning",
            details={"placeholder": placeholder},
        )
