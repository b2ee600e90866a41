"""The prompt: ComfyUI's API format, ``{node id: {"class_type", "inputs", "_meta"?}}``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias, TypedDict, TypeGuard

from ..errors import WorkflowInvalid
from ..types import JsonValue

__all__ = [
    "Node",
    "NodeMeta",
    "Place",
    "Prompt",
    "check_texts",
    "is_link",
    "own_values",
    "with_inputs",
]


class NodeMeta(TypedDict, total=False):
    """What ComfyUI's editor adds for people."""

    title: str


class _Node(TypedDict):
    class_type: str
    inputs: dict[str, JsonValue]


class Node(_Node, total=False):
    """One node. An input's value is a literal, or a link ``[node id, output index]``."""

    _meta: NodeMeta


Prompt: TypeAlias = dict[str, Node]

Place: TypeAlias = tuple[str, str]
"""One input: a node's id, and the input's name."""


def is_link(value: object) -> TypeGuard[list[JsonValue]]:
    """Whether an input's value is a link, by the rule of ComfyUI's own `is_link`."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
    )


def own_values(value: JsonValue) -> list[JsonValue]:
    """The values of a list (perhaps wrapped as ``{"__value__": […]}``); a link is one value."""
    if isinstance(value, dict):
        value = value.get("__value__")
    return value if isinstance(value, list) and not is_link(value) else [value]


def with_inputs(prompt: Prompt, values: Mapping[Place, JsonValue]) -> Prompt:
    """A copy of the prompt with these inputs set. Nodes that do not change are shared."""
    inputs: dict[str, dict[str, JsonValue]] = {}
    for (node_id, name), value in values.items():
        if node_id not in inputs:
            inputs[node_id] = dict(prompt[node_id]["inputs"])
        inputs[node_id][name] = value
    changed = dict(prompt)
    for node_id, now in inputs.items():
        changed[node_id] = {**prompt[node_id], "inputs": now}
    return changed


def check_texts(prompt: Prompt) -> None:
    """Raise `WorkflowInvalid` for half a surrogate pair, which no file and no node accepts.

    An emoji that was cut in two leaves one, and so does an argument that is not UTF-8.
    """
    if _is_text(prompt):
        return
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            if not _is_text([name, value]):
                raise WorkflowInvalid(
                    f"The input {name} of node {node_id} ({node['class_type']}) holds half a "
                    "character.",
                    advice="Type that text again: an emoji in it may have been cut in two.",
                    details={"node_id": node_id},
                )
        if not _is_text([node_id, node["class_type"]]):
            raise WorkflowInvalid(
                "The id or the class of a node holds half a character.",
                advice="Export the workflow again from ComfyUI: Workflow > Export (API).",
            )


def _is_text(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
