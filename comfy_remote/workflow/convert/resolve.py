"""Where an input's value comes from: through reroutes, bypassed nodes and subgraphs.

Source of facts: ComfyUI's frontend 1.49.6 (`ExecutableNodeDTO`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from .document import BYPASSED, INPUT_NODE, MUTED
from .graph import Graph, Host
from .node import Node, invalid
from .virtual import GETTERS, SETTERS
from .widgets import Unset

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["Given", "Origin", "Scope", "resolve_input"]


@dataclass(frozen=True, slots=True)
class Origin:
    """The output of a node that runs: its id in the prompt, and the output's index."""

    node_id: str
    slot: int


@dataclass(frozen=True, slots=True)
class Given:
    """A value that an instance of a subgraph gives to a widget inside."""

    value: JsonValue | Unset


_Source: TypeAlias = "Origin | Given | None"


@dataclass(frozen=True, slots=True)
class Scope:
    """A graph at one place: the root, or a subgraph as one instance of it."""

    graph: Graph
    path: str = ""
    host: Host | None = None
    parent: Scope | None = None

    def node_id(self, node: Node) -> str:
        """The node's id in the prompt: ids of all instances around it, then its own."""
        return f"{self.path}{node.id}"

    def inside(self, host: Host) -> Scope:
        return Scope(host.definition, f"{self.path}{host.id}:", host, self)


_Visited: TypeAlias = "set[tuple[str, str, int]]"


def resolve_input(
    scope: Scope,
    node: Node,
    index: int,
    visited: _Visited | None = None,
    wanted: str | None = None,
) -> _Source:
    """What an input gets: an output that runs, a promoted value, or ``None`` (unlinked).

    Raises:
        WorkflowInvalid: The links go in a circle, or end nowhere.
    """
    visited = _enter(scope, node, "input", index, visited)
    if not 0 <= index < len(node.inputs):
        return None
    slot = node.inputs[index]
    link = scope.graph.links.get(slot.link) if slot.link is not None else None
    if link is None:
        return None
    if link.origin == INPUT_NODE and scope.host is not None and scope.parent is not None:
        host = scope.host
        if not 0 <= link.origin_slot < len(host.inputs):
            raise invalid(node, f"its input {slot.name!r} comes from a subgraph input that is gone")
        outer = host.inputs[link.origin_slot]
        if outer.link is None:
            return Given(host.promoted[outer.name]) if outer.name in host.promoted else None
        return resolve_input(scope.parent, host, link.origin_slot, visited)
    origin = scope.graph.nodes.get(link.origin)
    if origin is None:
        return None
    return _resolve_output(scope, origin, link.origin_slot, wanted or slot.type, visited)


def _resolve_output(
    scope: Scope, node: Node, index: int, wanted: str, visited: _Visited
) -> _Source:
    _enter(scope, node, "output", index, visited)
    if node.mode == MUTED:
        return None
    if node.mode == BYPASSED:
        passed = _passed_input(node, index, wanted)
        return None if passed is None else resolve_input(scope, node, passed, visited)
    if isinstance(node, Host):
        return _resolve_inside(scope, node, index, wanted, visited)
    if node.type in GETTERS and node.virtual:
        where, setter = _setter(scope, node)
        return resolve_input(where, setter, index, visited, wanted)
    if node.virtual:
        if index < len(node.inputs) and node.inputs[index].link is not None:
            return resolve_input(scope, node, index, visited, wanted)
        return None
    return Origin(scope.node_id(node), index)


def _resolve_inside(
    scope: Scope, host: Host, index: int, wanted: str, visited: _Visited
) -> _Source:
    if not 0 <= index < len(host.definition.outputs):
        raise invalid(host, f"something is linked to its output {index}, which it does not have")
    links = host.definition.outputs[index].links
    link = host.definition.links.get(links[0]) if links else None
    if link is None:
        return None
    inner = scope.inside(host)
    origin = inner.graph.nodes.get(link.origin)
    if origin is None:
        return None
    return _resolve_output(inner, origin, link.origin_slot, wanted, visited)


def _passed_input(node: Node, index: int, wanted: str) -> int | None:
    """Which input of a bypassed node takes the place of an output."""
    inputs = node.inputs
    if wanted in ("*", ""):
        return index if len(inputs) > index else 0
    offered = node.outputs[index].type if 0 <= index < len(node.outputs) else "*"

    def fits(kind: str) -> bool:
        return _compatible(kind, offered) and _compatible(kind, wanted)

    if 0 <= index < len(inputs) and fits(inputs[index].type):
        return index
    exact = next((i for i, slot in enumerate(inputs) if slot.type == wanted), None)
    if exact is not None:
        return exact
    return next((i for i, slot in enumerate(inputs) if fits(slot.type)), None)


def _compatible(one: str, other: str) -> bool:
    if one in ("*", "") or other in ("*", "") or one == other:
        return True
    ones, others = one.lower().split(","), other.lower().split(",")
    return any(a in ("*", "") or a in others for a in ones) or "*" in others


def _setter(scope: Scope, getter: Node) -> tuple[Scope, Node]:
    """The Set node that a Get node names: in its own graph, else in one around it."""
    values = getter.saved.values
    name = values[0] if isinstance(values, list) and values else None
    around: Scope | None = scope
    while around is not None:
        for node in around.graph.nodes.values():
            saved = node.saved.values
            if node.type in SETTERS and isinstance(saved, list) and saved and saved[0] == name:
                return around, node
        around = around.parent
    raise invalid(getter, f"there is no Set node named {name!r}", "Connect it again in ComfyUI.")


def _enter(scope: Scope, node: Node, side: str, index: int, visited: _Visited | None) -> _Visited:
    visited = set() if visited is None else visited
    step = (side, scope.node_id(node), index)
    if step in visited:
        raise invalid(node, "its links go in a circle", "Take a link out of the circle in ComfyUI.")
    visited.add(step)
    return visited
