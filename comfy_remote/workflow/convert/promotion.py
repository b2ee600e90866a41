"""Widgets that older files promote out of a subgraph by naming them (``proxyWidgets``).

Newer editors replace each by an input of the subgraph when they load such a file, and give the
instance's saved value to it. The values are those of the list, by position.

Source of facts: ComfyUI's frontend 1.49.6 (migration of proxy widgets).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...types import JsonValue
from .document import LinkId, Slot
from .graph import Host
from .node import Node
from .virtual import PRIMITIVE
from .widgets import UNSET, Unset, Widget

__all__ = ["migrate_promotions"]

_PREFIX = re.compile(r"^\s*([0-9]+)\s*:\s*(.+)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A promoted widget: its node inside, its name, and the instance's value for it."""

    node_id: str
    widget: str
    inner_id: str | None
    value: JsonValue | Unset


def migrate_promotions(host: Host) -> None:
    """Turn an instance's named promotions into inputs with values."""
    entries = _entries(host)
    ports = {host.source(port): port for port in reversed(host.definition.ports)} if entries else {}
    linked = [ports.get((entry.node_id, entry.widget)) for entry in entries]
    primitives: dict[str, list[_Entry]] = {}
    for entry, port in zip(entries, linked, strict=True):
        if port is not None:
            if port.name in host.promoted and not isinstance(entry.value, Unset):
                host.promoted[port.name] = entry.value
            continue
        source = host.definition.nodes.get(entry.node_id)
        if source is None:
            if (
                entry.node_id == "-1"
                and entry.widget in host.promoted
                and not isinstance(entry.value, Unset)
            ):
                host.promoted[entry.widget] = entry.value
        elif source.type == PRIMITIVE:
            primitives.setdefault(source.id, []).append(entry)
        else:
            _promote_widget(host, source, entry)
    for node_id, group in primitives.items():
        _promote_primitive(host, host.definition.nodes[node_id], group)


def _entries(host: Host) -> list[_Entry]:
    raw = host.properties.get("proxyWidgets")
    tuples = [_texts(item) for item in raw] if isinstance(raw, list) else []
    saved = host.saved.values
    values = saved if isinstance(saved, list) else []
    entries: list[_Entry] = []
    for index, item in enumerate(tuples):
        if len(item) not in (2, 3):
            return []  # the editor takes the whole list or none of it
        node_id, name = item[:2]
        inner = item[2] if len(item) == 3 else None
        value = values[index] if index < len(values) else None
        if not _resolves(host, node_id, name):
            while match := _PREFIX.match(name):
                inner, name = match.groups()
        # A null stands for "no value of its own".
        entries.append(_Entry(node_id, name, inner, UNSET if value is None else value))
    return entries


def _texts(item: JsonValue) -> list[str]:
    return [part for part in item if isinstance(part, str)] if isinstance(item, list) else []


def _resolves(host: Host, node_id: str, name: str) -> bool:
    node = host.definition.nodes.get(node_id)
    if isinstance(node, Host):
        return node.inner_widget(name) is not None
    return node is not None and node.widget(name) is not None


def _promote_widget(host: Host, source: Node, entry: _Entry) -> None:
    slot = _slot_of(source, entry)
    if slot is None:
        return
    port = host.definition.add_port(entry.widget, slot.type)
    host.definition.connect_port(port, source, slot)
    if not isinstance(entry.value, Unset) and port.name in host.promoted:
        host.promoted[port.name] = entry.value


def _slot_of(source: Node, entry: _Entry) -> Slot | None:
    if not isinstance(source, Host):
        if source.widget(entry.widget) is None:
            return None
        return next((slot for slot in source.inputs if slot.widget == entry.widget), None)
    for slot in source.inputs:
        port = source.definition.port(slot.name)
        target = source.source(port) if port else None
        if entry.inner_id is not None:
            if target == (entry.inner_id, entry.widget):
                break
        elif slot.name == entry.widget or (target and target[1] == entry.widget):
            break
    else:
        return None
    return slot if slot.name in source.promoted else None


def _promote_primitive(host: Host, primitive: Node, entries: list[_Entry]) -> None:
    """An input of the subgraph takes the place of a primitive inside it."""
    graph = host.definition
    if not primitive.outputs or len({entry.widget for entry in entries}) != 1:
        return
    output = primitive.outputs[0]
    targets = [_numbered_target(host, link_id) for link_id in output.links]
    found = [target for target in targets if target is not None]
    if not found or len(found) != len(targets):
        return
    if any(slot.type not in (output.type, "*") and output.type != "*" for _, slot in found):
        return
    widgets = [widget for node, slot in found if (widget := _target_widget(node, slot))]
    if any(_limits(widget) != _limits(widgets[0]) for widget in widgets):
        return
    title = primitive.title if primitive.title != PRIMITIVE else entries[0].widget
    port = graph.add_port(title, output.type)
    for node, slot in found:
        graph.connect_port(port, node, slot)
    value = next((e.value for e in entries if not isinstance(e.value, Unset)), UNSET)
    if not isinstance(value, Unset) and port.name in host.promoted:
        host.promoted[port.name] = value


def _numbered_target(host: Host, link_id: LinkId) -> tuple[Node, Slot] | None:
    """Where a link ends by the number of the input that the file gives.

    The editor goes by these numbers here, even where the node has since got another order of
    inputs (and then promotes another input than it was).
    """
    link = host.definition.links.get(link_id)
    node = host.definition.nodes.get(link.target) if link else None
    if link is None or node is None or not 0 <= link.target_slot < len(node.inputs):
        return None
    return node, node.inputs[link.target_slot]


def _target_widget(node: Node, slot: Slot) -> Widget | None:
    if isinstance(node, Host):
        inner = node.inner_widget(slot.name)
        return inner[1] if inner else None
    return node.widget(slot.widget)


def _limits(widget: Widget) -> tuple[JsonValue, ...]:
    options = widget.schema.options if widget.schema else {}
    return (widget.kind, options.get("min"), options.get("max"), options.get("step"))
