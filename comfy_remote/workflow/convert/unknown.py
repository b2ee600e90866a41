"""Which classes of a workflow in UI format cannot be converted without their schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ...types import mapping
from ..packs import said_pack
from ..schema import Schemas
from .document import SavedNode, read_document, read_node
from .everywhere import EVERYWHERE
from .foreign import LORA_LISTS, named_values
from .group_type import group_name
from .virtual import REFUSED, VIRTUAL

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["needs_schemas_of"]

_ELSEWHERE = (2, 4)


def needs_schemas_of(
    workflow: Mapping[str, JsonValue], schemas: Schemas
) -> dict[str, tuple[str, str | None] | None]:
    """The classes that the schemas lack and whose values the file does not name.

    Returns:
        By class: its pack and version, where the file says so.

    Raises:
        WorkflowInvalid: It is not a workflow.
    """
    document = read_document(workflow)
    wanted: dict[str, tuple[str, str | None] | None] = {}
    for node in _nodes(workflow):
        kind = node.type
        if kind in schemas or kind in document.subgraphs or group_name(kind) is not None:
            continue
        if kind in VIRTUAL or kind in REFUSED or kind in EVERYWHERE or kind in LORA_LISTS:
            continue
        if node.mode not in _ELSEWHERE and named_values(node) is None:
            wanted[kind] = wanted.get(kind) or said_pack(node.properties)
    return wanted


def _nodes(workflow: Mapping[str, JsonValue]) -> Iterator[SavedNode]:
    """All nodes: of the workflow, of its subgraphs, and in its group nodes."""
    document = read_document(workflow)
    yield from document.root.nodes
    for graph in document.subgraphs.values():
        yield from graph.nodes
    for definition in document.group_nodes.values():
        inner = mapping(definition).get("nodes")
        for number, raw in enumerate(inner if isinstance(inner, list) else ()):
            if isinstance(raw, dict) and raw.get("type") is not None:
                yield read_node({"id": number, **raw}, "a group node")
