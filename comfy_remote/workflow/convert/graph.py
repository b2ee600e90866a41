"""The graphs of a workflow as the editor has them: nodes, links, instances of subgraphs.

A subgraph's definition is loaded once and shared by its instances (`Host`), which differ in the
values of the widgets they promote.

Source of facts: ComfyUI's frontend 1.49.6 (`LGraph.configure`, `SubgraphNode`).
"""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakSet

from ...types import JsonValue, mappings
from .document import INPUT_NODE, Link, LinkId, Port, SavedGraph, SavedNode, Slot
from .node import Node
from .widgets import UNSET, Unset, Widget

__all__ = ["Graph", "Host"]


class Graph:
    """The root graph or a subgraph's definition."""

    def __init__(self, saved: SavedGraph) -> None:
        self.id = saved.id
        self.name = saved.name
        self.links = saved.links
        self.ports = saved.inputs
        self.outputs = saved.outputs
        self.nodes: dict[str, Node] = {}
        # Weak, since a host holds its definition: without a cycle, all that was loaded goes at once
        # when it is no longer used, and Python does not have to look for it.
        self.hosts: WeakSet[Host] = WeakSet()
        self.everywhere = saved.everywhere

    def target(self, link_id: LinkId) -> tuple[Node, Slot] | None:
        """The node and the input that a link ends at."""
        link = self.links.get(link_id)
        node = self.nodes.get(link.target) if link else None
        if link is None or node is None:
            return None
        if 0 <= link.target_slot < len(node.inputs):  # where it usually is
            slot = node.inputs[link.target_slot]
            if slot.link == link_id:
                return node, slot
        found = next((slot for slot in node.inputs if slot.link == link_id), None)
        return (node, found) if found else None

    def ends(self, port: Port) -> Iterator[tuple[Node, Slot]]:
        """The nodes and inputs that the links of an input of the definition end at."""
        return (found for found in map(self.target, port.links) if found is not None)

    def port(self, name: str) -> Port | None:
        return next((port for port in self.ports if port.name == name), None)

    def add_port(self, name: str, kind: str) -> Port:
        """A further input, for this definition and for every instance of it."""
        taken = {port.name for port in self.ports}
        unique, number = name, 0
        while unique in taken:
            number += 1
            unique = f"{name}_{number}"
        port = Port(unique, kind, [])
        self.ports.append(port)
        for host in self.hosts:
            host.inputs.append(Slot(unique, kind))
        return port

    def connect_port(self, port: Port, node: Node, slot: Slot) -> None:
        """Link an input of the definition to a node's, in place of what was linked there."""
        if slot.link is not None:
            self._disconnect(slot)
        link_id = f"port {len(self.links)} {port.name}"
        self.links[link_id] = Link(
            INPUT_NODE, self.ports.index(port), node.id, node.inputs.index(slot)
        )
        port.links.append(link_id)
        slot.link = link_id
        for host in self.hosts:
            host.promote(port)

    def _disconnect(self, slot: Slot) -> None:
        link_id, slot.link = slot.link, None
        link = self.links.pop(link_id, None) if link_id is not None else None
        if link is None:
            return
        if link.origin == INPUT_NODE:
            for port in self.ports:
                port.links[:] = [other for other in port.links if other != link_id]
                if not port.links:
                    for host in self.hosts:
                        host.promoted.pop(port.name, None)
        else:
            origin = self.nodes.get(link.origin)
            for output in origin.outputs if origin else []:
                output.links[:] = [other for other in output.links if other != link_id]

    def in_order(self) -> Iterator[Node]:
        """Nodes in order of execution, as far as there is one."""
        waiting = {
            node.id: sum(slot.link is not None for slot in node.inputs)
            for node in self.nodes.values()
        }
        ready = [node for node in self.nodes.values() if waiting[node.id] == 0]
        done: set[str] = set()
        seen: set[LinkId] = set()
        for node in ready:  # grows on the way
            done.add(node.id)
            for output in node.outputs:
                for link_id in output.links:
                    link = self.links.get(link_id)
                    if link is None or link_id in seen or link.target not in waiting:
                        continue
                    seen.add(link_id)
                    waiting[link.target] -= 1
                    if waiting[link.target] == 0:
                        ready.append(self.nodes[link.target])
        yield from ready
        yield from (node for node in self.nodes.values() if node.id not in done)


class Host(Node):
    """An instance of a subgraph: a node whose inputs and outputs are the definition's.

    Attributes:
        promoted: The values it gives to widgets inside, by the name of its input.
    """

    def __init__(self, saved: SavedNode, definition: Graph) -> None:
        super().__init__(saved, None, virtual=True)
        self.definition = definition
        self.promoted: dict[str, JsonValue | Unset] = {}
        if saved.title is None:
            self.title = definition.name or saved.type
        links = {slot.name: slot.link for slot in saved.inputs}
        self.inputs = [Slot(p.name, p.type, links.get(p.name)) for p in definition.ports]
        count = len(definition.outputs)
        self.outputs = [
            Port(p.name, p.type, o.links)
            for p, o in zip(definition.outputs, saved.outputs, strict=False)
        ]
        self.outputs += [Port(p.name, p.type) for p in definition.outputs[len(self.outputs) :]]
        del self.outputs[count:]
        definition.hosts.add(self)
        for port in definition.ports:
            self.promote(port)
        self._restore_promoted()

    def promote(self, port: Port) -> None:
        """Hold a value for the first widget that an input of the definition leads to."""
        for node, slot in self.definition.ends(port):
            if isinstance(node, Host):
                if slot.name not in node.promoted:
                    continue
                value = node.promoted[slot.name]
            else:
                widget = node.widget(slot.widget) if slot.widget is not None else None
                if widget is None:
                    continue
                value = node.values.get(widget.name, UNSET)
            self.promoted.setdefault(port.name, value)
            own = next((s for s in self.inputs if s.name == port.name), None)
            if own is not None:
                own.widget = port.name
            return

    def source(self, port: Port) -> tuple[str, str] | None:
        """Node and widget inside that an input leads to: the first one."""
        for node, slot in self.definition.ends(port):
            if isinstance(node, Host):
                return node.id, slot.name
            if slot.widget is not None and node.widget(slot.widget):
                return node.id, slot.widget
        return None

    def inner_widget(self, name: str | None) -> tuple[Node, Widget] | None:
        """The widget at the bottom of a chain of promotions, and its node."""
        graph, wanted = self.definition, name
        for _ in range(100):
            port = graph.port(wanted) if wanted is not None else None
            found = next(graph.ends(port), None) if port else None
            if found is None:
                return None
            node, slot = found
            if not isinstance(node, Host):
                widget = node.widget(slot.widget)
                return (node, widget) if widget else None
            graph, wanted = node.definition, slot.name
        return None

    def _restore_promoted(self) -> None:
        values = self.saved.values
        kept = self._kept_values()
        if isinstance(values, dict):
            for name, value in values.items():
                if name in self.promoted:
                    self.promoted[name] = value
            return
        index = 0
        for slot in self.inputs:
            if slot.name not in self.promoted:
                continue
            if kept.get(slot.name) is not None:
                self.promoted[slot.name] = kept[slot.name]
            elif values is not None and index < len(values):
                self.promoted[slot.name] = values[index]
            index += 1

    def _kept_values(self) -> dict[str, JsonValue]:
        """Values that the editor could not place when it migrated an older file."""
        kept: dict[str, JsonValue] = {}
        for entry in mappings(self.properties.get("proxyWidgetErrorQuarantine")):
            original, value = entry.get("originalEntry"), entry.get("hostValue")
            if isinstance(original, list) and len(original) >= 2 and original[0] == "-1":
                kept.setdefault(str(original[1]), value)
        return kept
