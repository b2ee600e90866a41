"""From a document to its graphs: definitions of subgraphs first, then the root.

Source of facts: ComfyUI's frontend 1.49.6 (`LGraph.configure`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...errors import WorkflowInvalid
from ..schema import Schemas
from .document import Document, SavedGraph
from .doubts import invalid
from .everywhere import EVERYWHERE, link_everywhere
from .graph import Graph, Host
from .group_node import GroupNodes
from .node import Node
from .promotion import migrate_promotions
from .virtual import VIRTUAL

__all__ = ["load_graph"]

_SUBGRAPH_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def load_graph(document: Document, schemas: Schemas) -> Graph:
    """Load a document: definitions from the innermost outwards, then the root graph.

    Raises:
        WorkflowInvalid: Subgraphs contain each other, or a node cannot be loaded.
    """
    definitions: dict[str, Graph] = {}
    groups = GroupNodes(document.group_nodes, schemas)

    def build(saved: SavedGraph) -> Graph:
        graph = Graph(saved)
        for node in saved.nodes:
            if node.type in definitions:
                graph.nodes[node.id] = Host(node, definitions[node.type])
                continue
            schema = schemas.get(node.type)
            group = groups.instance(node, saved) if schema is None else None
            if group is not None:
                graph.nodes[node.id] = group
                continue
            if schema is None and _SUBGRAPH_ID.fullmatch(node.type):
                raise invalid(
                    node,
                    "it is a subgraph, and the file does not say what is in it",
                    "Save the workflow again in the ComfyUI that it was made in.",
                )
            virtual = schema is None and (node.type in VIRTUAL or node.type in EVERYWHERE)
            loaded = Node(node, schema, virtual=virtual)
            loaded.restore()
            for index, slot in loaded.moved_inputs():
                link = graph.links.get(slot.link) if slot.link is not None else None
                if link is not None:
                    link.target_slot = index
            graph.nodes[node.id] = loaded
        for loaded in graph.nodes.values():
            if isinstance(loaded, Host):
                migrate_promotions(loaded)
        link_everywhere(graph)
        return graph

    for saved in _innermost_first(document.subgraphs):
        definitions[saved.id] = build(saved)
    return build(document.root)


def _innermost_first(subgraphs: dict[str, SavedGraph]) -> Iterator[SavedGraph]:
    done: set[str] = set()
    waiting = dict(subgraphs)
    while waiting:
        ready = [
            key
            for key, saved in waiting.items()
            if all(node.type in done or node.type not in subgraphs for node in saved.nodes)
        ]
        if not ready:
            names = ", ".join(repr(saved.name) for saved in waiting.values())
            raise WorkflowInvalid(
                f"The subgraphs {names} contain each other without end.",
                advice="Open the workflow in ComfyUI and take one out of the other.",
            )
        for key in ready:
            done.add(key)
            yield waiting.pop(key)
