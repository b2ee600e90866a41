"""The error for a node that cannot be converted faithfully: it names the node."""

from __future__ import annotations

from typing import Protocol

from ...errors import WorkflowInvalid

__all__ = ["invalid"]


class _Named(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def title(self) -> str | None: ...


def invalid(node: _Named, why: str, advice: str = "") -> WorkflowInvalid:
    """The error for a node, as saved or as loaded; ``why`` is part of a sentence."""
    title = f", titled {node.title!r}" if node.title and node.title != node.type else ""
    return WorkflowInvalid(
        f"The workflow cannot be converted at node {node.id} ({node.type}{title}): {why}.",
        advice=advice or "Or export it from ComfyUI with Workflow > Export (API).",
        details={"node_id": node.id, "class_type": node.type},
    )
