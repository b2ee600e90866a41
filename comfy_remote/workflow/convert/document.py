"""A UI-format document as it was saved: nodes, slots, links and subgraph definitions.

Links are ``[id, origin, slot, target, slot, type]`` in the root graph of schema 0.4, objects
everywhere else. Nothing here knows what a node means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ...errors import WorkflowInvalid
from ...types import JsonValue, as_list, mapping, mappings
from ..repo_list import is_repo_list

__all__ = [
    "BYPASSED",
    "INPUT_NODE",
    "MUTED",
    "OUTPUT_NODE",
    "Document",
    "Link",
    "LinkId",
    "Port",
    "SavedGraph",
    "SavedNode",
    "Slot",
    "read_document",
    "read_node",
    "renumber",
]

LinkId: TypeAlias = "int | str"

MUTED = 2
BYPASSED = 4
INPUT_NODE = "-10"
"""The id by which a subgraph's links name its own inputs; `OUTPUT_NODE` its outputs."""
OUTPUT_NODE = "-20"


@dataclass(slots=True)
class Link:
    """A connection within one graph."""

    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass(slots=True)
class Slot:
    """An input of a node; ``widget`` names the widget it belongs to."""

    name: str
    type: str
    link: LinkId | None = None
    widget: str | None = None


@dataclass(slots=True)
class Port:
    """An output of a node; or a definition's input or output, with its links inside."""

    name: str
    type: str
    links: list[LinkId] = field(default_factory=list)


@dataclass(slots=True)
class SavedNode:
    """A node as saved. ``values`` is a list by position, or an object by name."""

    id: str
    type: str
    title: str | None
    mode: int
    inputs: list[Slot]
    outputs: list[Port]
    values: list[JsonValue] | dict[str, JsonValue] | None
    named_values: dict[str, JsonValue] | None
    properties: dict[str, JsonValue]

    @property
    def only_lists_models(self) -> bool:
        """Whether it holds the list of models, and nothing is linked from it: it never runs."""
        return is_repo_list(self.title) and not any(port.links for port in self.outputs)

    @property
    def first_text(self) -> str | None:
        """The first of its widgets' values that is a text."""
        values = self.values.values() if isinstance(self.values, dict) else self.values or ()
        return next((value for value in values if isinstance(value, str)), None)


@dataclass(slots=True)
class SavedGraph:
    """The root graph, or the definition of a subgraph (then with an id, name and ports).

    Attributes:
        everywhere: The links that Use Everywhere has noted; ``None`` if it has not.
    """

    nodes: list[SavedNode]
    links: dict[LinkId, Link]
    id: str = ""
    name: str = ""
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    everywhere: list[dict[str, JsonValue]] | None = None


@dataclass(slots=True)
class Document:
    """A whole file.

    Attributes:
        last_id: The highest node id that it has used.
        group_nodes: The definitions of its group nodes by name, as they were saved.
    """

    root: SavedGraph
    subgraphs: dict[str, SavedGraph]
    last_id: int
    group_nodes: dict[str, JsonValue] = field(default_factory=dict)


def read_document(workflow: Mapping[str, JsonValue]) -> Document:
    """Read a UI-format document.

    Raises:
        WorkflowInvalid: It is not one; says which part.
    """
    if not isinstance(workflow, Mapping) or not isinstance(workflow.get("nodes"), list):
        raise WorkflowInvalid(
            "This is not a workflow in UI format: it has no list of nodes.",
            advice="Save it again in ComfyUI, with Workflow > Save or Export.",
        )
    subgraphs: dict[str, SavedGraph] = {}
    last_id = _integer(workflow.get("last_node_id"), 0)
    root = _graph(workflow, "the workflow")
    for raw in _definitions(workflow):
        name = str(raw.get("name") or raw.get("id") or "")
        subgraph = _graph(raw, f"subgraph {name!r}")
        subgraph.id, subgraph.name = str(raw.get("id")), name
        subgraph.inputs = [_port(port) for port in mappings(raw.get("inputs"))]
        subgraph.outputs = [_port(port) for port in mappings(raw.get("outputs"))]
        _name_ports(raw, subgraph)
        subgraphs[subgraph.id] = subgraph
    group_nodes = mapping(mapping(workflow.get("extra")).get("groupNodes"))
    return Document(root, subgraphs, last_id, group_nodes)


def _definitions(raw: Mapping[str, JsonValue]) -> Iterator[dict[str, JsonValue]]:
    """The definitions of subgraphs; one may bring along those that it uses itself."""
    for definition in mappings(mapping(raw.get("definitions")).get("subgraphs")):
        yield definition
        yield from _definitions(definition)


def _graph(raw: Mapping[str, JsonValue], where: str) -> SavedGraph:
    nodes = [read_node(node, index, where) for index, node in enumerate(as_list(raw.get("nodes")))]
    seen: set[str] = set()
    for node in nodes:
        if node.id in seen:
            raise WorkflowInvalid(
                f"Two nodes of {where} have the id {node.id}.",
                advice="Open the workflow in ComfyUI and save it again.",
                details={"node_id": node.id},
            )
        seen.add(node.id)
    links = dict(filter(None, map(_link, as_list(raw.get("links")))))
    noted = mapping(raw.get("extra")).get("ue_links")
    everywhere = list(mappings(noted)) if isinstance(noted, list) else None
    return SavedGraph(nodes, links, everywhere=everywhere)


def read_node(raw: JsonValue, index: int, where: str) -> SavedNode:
    """Read one node; ``index`` and ``where`` say for messages which it is.

    Raises:
        WorkflowInvalid: It has no id or no type.
    """
    if not isinstance(raw, dict):
        raise WorkflowInvalid(f"nodes[{index}] of {where} is not an object: it is not a node.")
    get = raw.get
    identity, kind = get("id"), get("type")
    if not (type(identity) is int or type(identity) is str) or kind is None:
        raise WorkflowInvalid(f"nodes[{index}] of {where} has no id or no type: {str(raw)[:80]}")
    title, named = get("title"), get("widgets_values_named")
    return SavedNode(
        str(identity),
        str(kind),
        title if isinstance(title, str) and title else None,
        _integer(get("mode"), 0),
        [_slot(slot) for slot in mappings(get("inputs"))],
        [_port(output, "links") for output in mappings(get("outputs"))],
        _values(get("widgets_values")),
        named if isinstance(named, dict) else None,
        mapping(get("properties")),
    )


def _values(raw: JsonValue) -> list[JsonValue] | dict[str, JsonValue] | None:
    """The values by position, or by name. Some programs write positions as names."""
    if isinstance(raw, dict) and raw and list(raw) == [str(i) for i in range(len(raw))]:
        return list(raw.values())
    return raw if isinstance(raw, (list, dict)) else None


def _slot(raw: dict[str, JsonValue]) -> Slot:
    get = raw.get
    kind, link, widget = get("type"), get("link"), get("widget")
    named = widget.get("name") if isinstance(widget, dict) else None
    return Slot(
        str(get("name", "")),
        kind if type(kind) is str and kind else _type(kind),
        link if type(link) is int or type(link) is str else None,
        named if isinstance(named, str) else None,
    )


def _port(raw: dict[str, JsonValue], links: str = "linkIds") -> Port:
    kind = raw.get("type")
    return Port(
        str(raw.get("name", "")),
        kind if type(kind) is str and kind else _type(kind),
        [one for one in as_list(raw.get(links)) if type(one) is int or type(one) is str],
    )


def _link(raw: JsonValue) -> tuple[LinkId, Link] | None:
    if isinstance(raw, list) and len(raw) >= 5:
        identity, origin, origin_slot, target, target_slot, *_ = raw
    elif isinstance(raw, dict):
        identity, origin, target = raw.get("id"), raw.get("origin_id"), raw.get("target_id")
        origin_slot, target_slot = raw.get("origin_slot"), raw.get("target_slot")
    else:
        return None
    if not (type(identity) is int or type(identity) is str) or origin is None or target is None:
        return None
    return identity, Link(
        str(origin),
        origin_slot if type(origin_slot) is int else _integer(origin_slot, -1),
        str(target),
        target_slot if type(target_slot) is int else _integer(target_slot, -1),
    )


def _name_ports(raw: Mapping[str, JsonValue], subgraph: SavedGraph) -> None:
    """Give a subgraph's own ports their usual ids, whatever the file calls them."""
    for key, usual in (("inputNode", INPUT_NODE), ("outputNode", OUTPUT_NODE)):
        named = mapping(raw.get(key)).get("id")
        if named is None or str(named) == usual:
            continue
        for link in subgraph.links.values():
            if link.origin == str(named):
                link.origin = usual
            if link.target == str(named):
                link.target = usual


def renumber(document: Document) -> None:
    """Make node ids unique over all graphs, in the way newer editors do on loading.

    A node of a subgraph whose id was seen before gets the next free one; links and promoted
    widgets follow.
    """
    root, subgraphs, last_id = document.root, document.subgraphs, document.last_id
    used = {node.id for node in root.nodes}
    moved: dict[str, dict[str, str]] = {}
    for subgraph in subgraphs.values():
        names: dict[str, str] = {}
        for node in subgraph.nodes:
            if node.id in used:
                last_id += 1
                while str(last_id) in used:
                    last_id += 1
                names[node.id] = str(last_id)
                node.id = str(last_id)
            elif node.id.isascii() and node.id.isdigit():
                last_id = max(last_id, int(node.id))
            used.add(node.id)
        if names:
            moved[subgraph.id] = names
    if not moved:
        return
    for graph in (root, *subgraphs.values()):
        names = moved.get(graph.id, {}) if graph is not root else {}
        for link in graph.links.values():
            link.origin = names.get(link.origin, link.origin)
            link.target = names.get(link.target, link.target)
        for node in graph.nodes:
            if node.type in moved:
                _renumber_promoted(node, moved[node.type])


def _renumber_promoted(node: SavedNode, names: dict[str, str]) -> None:
    entries = node.properties.get("proxyWidgets")
    if isinstance(entries, list):
        renamed: list[JsonValue] = [
            [names.get(str(entry[0]), entry[0]), *entry[1:]]
            if isinstance(entry, list) and entry
            else entry
            for entry in entries
        ]
        node.properties = {**node.properties, "proxyWidgets": renamed}


def _type(value: JsonValue) -> str:
    """The type of an input or output where it is not a text, or an empty one."""
    if isinstance(value, list):
        return "COMBO"
    return "*" if value in (None, "", 0) else str(value)


def _integer(value: JsonValue, default: int) -> int:
    if type(value) is int:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return default
