"""Instances of group nodes, as subgraphs of their own.

A muted group node is left out with all that is in it, and a bypassed one is passed through, as
the editor shows them. Ids in the prompt are the instance's and the place in the group: ``12:0``.

Source of facts: ComfyUI's frontend 1.27.10. That one loses links which lead through a primitive,
a reroute or a bypassed node at the edge of a group; here they hold. Newer ones turn group nodes
into subgraphs when they load them, and mix up the values of many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...errors import WorkflowInvalid
from ...types import JsonValue
from ..schema import Schemas
from .document import INPUT_NODE, OUTPUT_NODE, Link, LinkId, Port, SavedGraph, SavedNode
from .doubts import invalid
from .graph import Graph, Host
from .group_type import GroupType, InnerLink, group_name, read_group
from .node import Node
from .virtual import PRIMITIVE, REROUTE, VIRTUAL
from .widgets import Unset

__all__ = ["GroupNodes"]

_MAX_NODES = 10_000
"""In all group nodes of a file; each instance has nodes of its own."""


class GroupNodes:
    """The group nodes of a document, by their definitions: ``extra.groupNodes``."""

    def __init__(self, definitions: Mapping[str, JsonValue], schemas: Schemas) -> None:
        self._definitions = definitions
        self._schemas = schemas
        self._types: dict[str, GroupType] = {}
        self._count = 0
        self._around: SavedGraph | None = None
        self._primitives: dict[str, SavedNode] = {}

    def instance(self, saved: SavedNode, around: SavedGraph) -> Host | None:
        """A node of a graph as an instance with its inner nodes; ``None`` if it is no group node.

        Raises:
            WorkflowInvalid: Its definition is not in the file, or has nodes of unknown classes.
        """
        name = group_name(saved.type)
        if name is None or saved.type in self._schemas:
            return None
        if name not in self._definitions:
            raise invalid(
                saved,
                "it is a group node, and the file does not say what is in it",
                "Use the file that the group node was made in.",
            )
        group = self._type(name)
        self._count += 1 + len(group.nodes)
        if self._count > _MAX_NODES:
            raise WorkflowInvalid(f"The group nodes have more than {_MAX_NODES} nodes in them.")
        outer = Node(saved, group.schema, virtual=True)
        outer.restore()
        self._take_primitives(outer, around)
        graph = self._inside(group, outer)
        # Its values are in the nodes inside by now.
        bare = replace(saved, inputs=outer.inputs, values=None, named_values=None, properties={})
        host = Host(replace(bare, title=outer.title), graph)
        host.doubts.group_node()
        return host

    def _type(self, name: str) -> GroupType:
        if name not in self._types:
            self._types[name] = read_group(name, self._definitions[name], self._schemas)
        return self._types[name]

    def _inside(self, group: GroupType, outer: Node) -> Graph:
        saved = SavedGraph([_copy(node) for node in group.nodes], {}, name=outer.title)
        values = {
            target: outer.values[name]
            for name, target in group.inputs.items()
            if outer.widget(name) is not None
        }
        for node in saved.nodes:
            given = values.get((int(node.id), "value"))
            if node.type == PRIMITIVE and given is not None and not isinstance(given, Unset):
                node.values = [given]
        nodes = [self._node(node) for node in saved.nodes]
        for (place, key), value in values.items():
            widget = nodes[place].widget(key)
            if widget is not None:
                nodes[place].set_value(widget, value)
        for number, link in enumerate(group.links):
            _connect(saved, nodes, group, number, link)
        for slot in outer.inputs:
            if slot.link is not None and slot.name in group.inputs:
                place, key = group.inputs[slot.name]
                _lead_in(saved, nodes[place], key, slot.name, slot.type)
        for index, (place, output) in enumerate(group.outputs):
            link_id = f"out {index}"
            saved.links[link_id] = Link(str(place), output, OUTPUT_NODE, index)
            kind = group.schema.outputs[index]
            saved.outputs.append(Port(kind, kind, [link_id]))
        graph = Graph(saved)
        graph.nodes = {node.id: node for node in nodes}
        return graph

    def _take_primitives(self, outer: Node, around: SavedGraph) -> None:
        """Give a group node the values of the primitives that it is linked to."""
        if around is not self._around:
            self._around = around
            self._primitives = {n.id: n for n in around.nodes if n.type == PRIMITIVE}
        for slot in outer.inputs:
            link = around.links.get(slot.link) if slot.link is not None else None
            primitive = self._primitives.get(link.origin) if link else None
            widget = outer.widget(slot.widget)
            if primitive and widget and isinstance(primitive.values, list) and primitive.values:
                outer.set_value(widget, primitive.values[0])

    def _node(self, saved: SavedNode) -> Node:
        schema = self._schemas.get(saved.type)
        node = Node(saved, schema, virtual=schema is None and saved.type in VIRTUAL)
        node.restore()
        return node


def _copy(node: SavedNode) -> SavedNode:
    """A node for one instance, without links: a definition's are those of its first nodes."""
    return replace(
        node,
        inputs=[replace(slot, link=None) for slot in node.inputs],
        outputs=[Port(output.name, output.type) for output in node.outputs],
    )


def _connect(
    saved: SavedGraph, nodes: list[Node], group: GroupType, number: int, link: InnerLink
) -> None:
    node, slots = nodes[link.target], group.nodes[link.target].inputs
    name = slots[link.target_slot].name if link.target_slot < len(slots) else None
    index = _place_of(node, name)
    if index is None:
        raise invalid(group.nodes[link.target], "a link in its group node leads to no input of it")
    link_id: LinkId = f"in {number}"
    node.inputs[index].link = link_id
    saved.links[link_id] = Link(str(link.origin), link.origin_slot, node.id, index)
    outputs = nodes[link.origin].outputs
    if link.origin_slot < len(outputs):
        outputs[link.origin_slot].links.append(link_id)


def _lead_in(saved: SavedGraph, node: Node, key: str, name: str, kind: str) -> None:
    """Let an input of the instance lead to a node's."""
    index = 0 if node.type == REROUTE and node.inputs else _place_of(node, key)
    if index is None:
        return
    link_id = f"from {name}"
    node.inputs[index].link = link_id
    saved.links[link_id] = Link(INPUT_NODE, len(saved.inputs), node.id, index)
    saved.inputs.append(Port(name, kind, [link_id]))


def _place_of(node: Node, name: str | None) -> int | None:
    return next((i for i, slot in enumerate(node.inputs) if slot.name == name), None)
