"""The prompt: ComfyUI's API format, ``{node id: {"class_type", "inputs", "_meta"?}}``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypedDict

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["Node", "NodeMeta", "Prompt", "is_link"]


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


def is_link(value: JsonValue) -> bool:
    """Whether an input's value is a link, by the rule of ComfyUI's own `is_link`."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
    )
