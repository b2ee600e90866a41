"""Where an input's value comes from: through reroutes, bypassed nodes and subgraphs.

Source of facts: ComfyUI's frontend 1.49.6 (`ExecutableNodeDTO`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from ...types import JsonValue
from .document import BYPASSED, INPUT_NODE, MUTED, Link
from .doubts import invalid
from .graph import Graph, Host
from .node import Node
from .virtual import GETTERS, SETTERS
from .widgets import Unset

__all__ = ["Given", "Origin", "Resolver", "Scope"]


class Origin(NamedTuple):
    """The output of a node that runs: its id in the prompt, and the output's index."""

    node_id: str
    slot: int


@dataclass(frozen=True, slots=True)
class Given:
    """A value that an instance of a subgraph gives to a widget inside."""

    value: JsonValue | Unset


_CONNECT = "Connect it again in ComfyUI."

_Source: TypeAlias = "Origin | Given | None"
_Step: TypeAlias = "tuple[str, int, str]"


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


class Resolver:
    """Follows the links of a workflow, and remembers where outputs led."""

    def __init__(self) -> None:
        self._outputs: dict[_Step, _Source] = {}
        self._setters: dict[int, dict[str, Node]] = {}

    def input(self, scope: Scope, node: Node, index: int) -> _Source:
        """What an input gets: an output that runs, a promoted value, or ``None`` (unlinked).

        Raises:
            WorkflowInvalid: The links form a cycle, or end nowhere.
        """
        return self._input(scope, node, index, set(), None)

    def _input(
        self, scope: Scope, node: Node, index: int, visited: set[_Step], wanted: str | None
    ) -> _Source:
        if not 0 <= index < len(node.inputs):
            return None
        slot = node.inputs[index]
        if slot.link is None:
            return None
        link = scope.graph.links.get(slot.link)
        if link is None:
            raise invalid(node, f"the link of its input {slot.name!r} is not in the file", _CONNECT)
        if link.origin == INPUT_NODE and scope.host is not None and scope.parent is not None:
            return self._from_outside(scope, node, link, visited)
        origin = scope.graph.nodes.get(link.origin)
        if origin is None:
            raise invalid(
                node,
                f"its input {slot.name!r} is linked to node {link.origin}, which is not there",
                _CONNECT,
            )
        if origin.runs:  # most are
            return Origin(scope.node_id(origin), link.origin_slot)
        return self._output(scope, origin, link.origin_slot, wanted or slot.type, visited)

    def _from_outside(self, scope: Scope, node: Node, link: Link, visited: set[_Step]) -> _Source:
        host, parent = scope.host, scope.parent
        if host is None or parent is None or not 0 <= link.origin_slot < len(host.inputs):
            raise invalid(node, "one of its inputs comes from a subgraph's input that is gone")
        outer = host.inputs[link.origin_slot]
        if outer.link is None:
            return Given(host.promoted[outer.name]) if outer.name in host.promoted else None
        return self._input(parent, host, link.origin_slot, visited, None)

    def _output(
        self, scope: Scope, node: Node, index: int, wanted: str, visited: set[_Step]
    ) -> _Source:
        step = (scope.node_id(node), index, wanted)
        if step in self._outputs:
            return self._outputs[step]
        if step in visited:
            raise invalid(
                node, "its links form a cycle", "Take a link out of the cycle in ComfyUI."
            )
        visited.add(step)
        source = self._find_output(scope, node, index, wanted, visited)
        self._outputs[step] = source
        return source

    def _find_output(
        self, scope: Scope, node: Node, index: int, wanted: str, visited: set[_Step]
    ) -> _Source:
        if node.mode == MUTED:
            return None
        if node.mode == BYPASSED:
            passed = _passed_input(node, index, wanted)
            return None if passed is None else self._input(scope, node, passed, visited, None)
        if isinstance(node, Host):
            return self._inside(scope, node, index, wanted, visited)
        if node.type in GETTERS and node.virtual:
            where, setter = self._setter(scope, node)
            return self._input(where, setter, index, visited, wanted)
        if node.virtual:
            return self._input(scope, node, index, visited, wanted)
        return Origin(scope.node_id(node), index)

    def _inside(
        self, scope: Scope, host: Host, index: int, wanted: str, visited: set[_Step]
    ) -> _Source:
        if not 0 <= index < len(host.definition.outputs):
            raise invalid(host, f"something is linked to its output {index}, which is not there")
        links = host.definition.outputs[index].links
        link = host.definition.links.get(links[0]) if links else None
        if link is None:
            return None
        inner = scope.inside(host)
        if link.origin == INPUT_NODE:
            return self._from_outside(inner, host, link, visited)
        origin = inner.graph.nodes.get(link.origin)
        if origin is None:
            return None
        return self._output(inner, origin, link.origin_slot, wanted, visited)

    def _setter(self, scope: Scope, getter: Node) -> tuple[Scope, Node]:
        """The Set node that a Get node names: in its own graph, else in one around it."""
        name = _set_name(getter)
        around: Scope | None = scope
        while around is not None and name is not None:
            key = id(around.graph)
            if key not in self._setters:
                self._setters[key] = {
                    called: node
                    for node in reversed(around.graph.nodes.values())
                    if node.type in SETTERS and (called := _set_name(node)) is not None
                }
            if name in self._setters[key]:
                return around, self._setters[key][name]
            around = around.parent
        raise invalid(getter, f"there is no Set node named {name!r}", _CONNECT)


def _set_name(node: Node) -> str | None:
    values = node.saved.values
    return str(values[0]) if isinstance(values, list) and values else None


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
