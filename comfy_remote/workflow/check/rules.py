"""What a validator must know of a node class, and the shape of what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["NodeError", "NodeRules", "Rules", "node_error"]

NodeError: TypeAlias = "dict[str, JsonValue]"
"""``{"type", "message", "details", "extra_info"}``."""


def node_error(kind: str, message: str, details: str, **extra_info: JsonValue) -> NodeError:
    """An error in ComfyUI's shape."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def _nothing_wrong(_given: Mapping[str, JsonValue]) -> Mapping[str, str]:
    return {}


def _judges_nothing(_name: str, _spec: JsonValue, _value: JsonValue) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class NodeRules:
    """What a validator must know of a node class.

    Attributes:
        inputs: ``{"required": {name: [type, options]}, "optional": …}``, as in ``/object_info``.
        outputs: Types in the order of link indices; ``None`` when nobody knows.
        output_node: Whether a prompt may end here.
        judges: Whether the class itself judges an input, so that range and choices don't count
            (ComfyUI: the arguments of ``VALIDATE_INPUTS``); from its name, its
            ``[type, options]``, and the value.
        checks_types: Whether it judges the types of its links, too.
        complaints: Its own judgement of all values it judges: words by name of input.
    """

    inputs: Mapping[str, JsonValue]
    outputs: tuple[JsonValue, ...] | None
    output_node: bool = False
    judges: Callable[[str, JsonValue, JsonValue], bool] = _judges_nothing
    checks_types: bool = False
    complaints: Callable[[Mapping[str, JsonValue]], Mapping[str, str]] = _nothing_wrong


Rules: TypeAlias = "Callable[[str], NodeRules | None]"
"""The rules of a ``class_type``; ``None`` when the engine does not have it."""
