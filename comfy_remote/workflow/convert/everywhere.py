"""Links that Use Everywhere's script makes when a workflow is queued; no file has them.

Newer versions note them in the file (``extra.ue_links``). For older files they follow from the
types of the inputs that nothing is linked to, and from the words that a node restricts itself to.

Source of facts: cg-use-everywhere 7.2 (graph analysis, properties of older versions).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ...types import JsonValue, mapping
from .document import OUTPUT_NODE, Link, Slot
from .doubts import invalid
from .graph import Graph
from .node import Node

__all__ = ["EVERYWHERE", "link_everywhere"]

EVERYWHERE: Final = {
    "Anything Everywhere",
    "Anything Everywhere?",
    "Anything Everywhere3",
    "Prompts Everywhere",
}
"""The nodes that do nothing but send what is linked to them to other nodes."""
_SEED = "Seed Everywhere"
_SEED_INPUTS = re.compile(r"seed|随机种", re.IGNORECASE)
_PROMPTS = (re.compile(r"(_|\b)pos(itive|_|\b)"), re.compile(r"(_|\b)neg(ative|_|\b)"))
_MAX_TEXT = 100
"""Of a pattern, and of what it is looked for in."""
_ADVICE = (
    'Open it in a ComfyUI that has Use Everywhere, choose "Convert all UEs to real links" in the '
    "menu of the canvas, and save it. Workflow > Export (API) leaves these links out."
)


@dataclass(frozen=True, slots=True)
class _Broadcast:
    """What one input of such a node sends, and where to."""

    sender: Node
    type: str
    origin: str
    origin_slot: int
    title: re.Pattern[str] | None
    input: re.Pattern[str] | None
    name: str | None
    priority: int

    def reaches(self, node: Node, slot: Slot) -> bool:
        if slot.type != self.type or node.id == self.origin:
            return False
        if self.title is not None and not self.title.search(node.title[:_MAX_TEXT]):
            return False
        if self.input is not None and not self.input.search(slot.name[:_MAX_TEXT]):
            return False
        return self.name is None or self.name == slot.name


def link_everywhere(graph: Graph) -> None:
    """Draw these links in a graph that has just been loaded.

    Raises:
        WorkflowInvalid: They cannot be known from the file.
    """
    if graph.everywhere is not None:
        for recorded in graph.everywhere:
            _draw_recorded(graph, recorded)
        return
    senders = [n for n in graph.nodes.values() if n.type in EVERYWHERE or n.type == _SEED]
    broadcasts = [one for node in senders if node.active for one in _broadcasts(graph, node)]
    if not broadcasts:
        return
    for node in graph.nodes.values():
        if node in senders or (node.virtual and not node.outputs) or not node.active:
            continue
        for slot in node.inputs:
            if slot.link in graph.links or not _is_open(node, slot):
                continue
            found = sorted(
                (one for one in broadcasts if one.reaches(node, slot)),
                key=lambda one: -one.priority,
            )
            # Two of equal rank: the script makes neither link.
            if len(found) == 1 or (found and found[0].priority > found[1].priority):
                _draw(graph, found[0].origin, found[0].origin_slot, node, slot)


def _draw_recorded(graph: Graph, recorded: dict[str, JsonValue]) -> None:
    origin, place = str(recorded.get("upstream")), recorded.get("downstream_slot")
    origin_slot = recorded.get("upstream_slot")
    target = str(recorded.get("downstream"))
    if not isinstance(place, int) or not isinstance(origin_slot, int):
        return
    if target == OUTPUT_NODE:
        _draw_to_output(graph, origin, origin_slot, place)
        return
    node = graph.nodes.get(target)
    if node is None:
        return
    slot = _recorded_slot(node, place, recorded.get("type"))
    if slot is None:
        node.doubts.lost_link(origin)
    elif slot.link not in graph.links:
        _draw(graph, origin, origin_slot, node, slot)


def _recorded_slot(node: Node, place: int, kind: JsonValue) -> Slot | None:
    """The input at a place; some files count widgets there, and do not list them."""
    listed = node.saved.inputs
    if 0 <= place < len(listed):
        return next((slot for slot in node.inputs if slot.name == listed[place].name), None)
    slot = node.inputs[place] if 0 <= place < len(node.inputs) else None
    return slot if slot is not None and slot.type == kind else None


def _draw(graph: Graph, origin: str, origin_slot: int, node: Node, slot: Slot) -> None:
    link_id = f"everywhere {len(graph.links)}"
    graph.links[link_id] = Link(origin, origin_slot, node.id, node.inputs.index(slot))
    slot.link = link_id
    source = graph.nodes.get(origin)
    if source is not None and 0 <= origin_slot < len(source.outputs):
        source.outputs[origin_slot].links.append(link_id)


def _draw_to_output(graph: Graph, origin: str, origin_slot: int, place: int) -> None:
    if 0 <= place < len(graph.outputs) and not graph.outputs[place].links:
        link_id = f"everywhere {len(graph.links)}"
        graph.links[link_id] = Link(origin, origin_slot, OUTPUT_NODE, place)
        graph.outputs[place].links.append(link_id)


def _broadcasts(graph: Graph, node: Node) -> Iterator[_Broadcast]:
    given = mapping(node.properties.get("ue_properties")) or node.properties
    for key in ("group_restricted", "color_restricted"):
        if given.get(key):
            raise invalid(node, "it sends to nodes of its group or color only", _ADVICE)
    title, pattern, group = _patterns(node, given)
    if group is not None:
        raise invalid(node, "it sends to nodes of certain groups only", _ADVICE)
    rank = 10 + (20 if title or pattern else 0)
    if node.type == _SEED:
        yield _Broadcast(node, "INT", node.id, 0, title, pattern or _SEED_INPUTS, None, rank + 10)
        return
    links = [(slot, graph.links[slot.link]) for slot in node.inputs if slot.link in graph.links]
    kinds = {slot.name: _kind(graph, link, slot) for slot, link in links}
    repeated = {kind for kind, count in Counter(kinds.values()).items() if count > 1}
    for place, (slot, link) in enumerate(links):
        origin = graph.nodes.get(link.origin)
        if origin is not None and not origin.active:
            raise invalid(node, "it sends what a muted or bypassed node gives", _ADVICE)
        kind, name = kinds[slot.name], None
        words, more = pattern, 0
        if node.type == "Prompts Everywhere":
            place = next((i for i, one in enumerate(node.inputs) if one is slot), place)
            words, more = _PROMPTS[place] if place < len(_PROMPTS) else pattern, 10
        elif kind in repeated:
            name, more = slot.name, 20
        yield _Broadcast(node, kind, link.origin, link.origin_slot, title, words, name, rank + more)


def _patterns(node: Node, given: dict[str, JsonValue]) -> list[re.Pattern[str] | None]:
    """The words for titles, inputs and groups: properties, in older files values."""
    values = node.saved.values if isinstance(node.saved.values, list) else []
    found: list[re.Pattern[str] | None] = []
    for place, key in enumerate(("title", "input", "group")):
        old = values[place] if node.type == "Anything Everywhere?" and place < len(values) else None
        text = given.get(f"{key}_regex", old)
        if given.get(f"{key}_regex_invert"):
            raise invalid(node, f"it sends to all but certain {key}s", _ADVICE)
        if not isinstance(text, str) or text in ("", ".*"):
            found.append(None)
            continue
        compiled = _compiled(text)
        if compiled is None:
            raise invalid(node, f"its {key} pattern {text!r} cannot be used here", _ADVICE)
        found.append(compiled)
    return found


def _compiled(pattern: str) -> re.Pattern[str] | None:
    """The compiled pattern; ``None`` if it is invalid or might match very slowly."""
    repeats = len(re.findall(r"[*+{]", pattern))
    if len(pattern) > _MAX_TEXT or repeats > 3 or re.search(r"\)\s*[*+{]", pattern):
        return None
    try:
        return re.compile(pattern)
    except re.error:
        return None


def _kind(graph: Graph, link: Link, slot: Slot) -> str:
    """The type of what a link carries: that of the output it comes from."""
    origin = graph.nodes.get(link.origin)
    if origin is not None and 0 <= link.origin_slot < len(origin.outputs):
        kind = origin.outputs[link.origin_slot].type
        if kind != "*":
            return kind
    return slot.type


def _is_open(node: Node, slot: Slot) -> bool:
    """Whether an input takes such a link: a socket, or a widget that was made one."""
    ours = mapping(node.properties.get("ue_properties"))
    if slot.widget is None:
        return not mapping(ours.get("input_ue_unconnectable")).get(slot.name)
    old = mapping(node.properties.get("widget_ue_connectable"))
    if mapping(ours.get("widget_ue_connectable")).get(slot.name) or old.get(slot.name):
        return True
    # Before widgets had inputs of their own, a file lists only those that were converted.
    listed = {one.name for one in node.saved.inputs if one.widget is not None}
    return slot.name in listed and any(
        widget.name not in listed for widget in node.widgets if widget.sent
    )
