"""Nodes whose class the schemas do not have: what their file itself says about them.

Newer files list every widget among a node's inputs, or its values by name. Nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...types import JsonValue, as_list, mapping
from ..packs import said_pack
from ..schema import Schemas
from .document import BYPASSED, MUTED, Document, SavedNode, read_document, read_node
from .everywhere import EVERYWHERE
from .group_type import group_name
from .virtual import REFUSED, VIRTUAL
from .widgets import CONTROL_VALUES

__all__ = [
    "LORA_LISTS",
    "lora_list",
    "named_values",
    "nameless_values",
    "needs_schemas_of",
]

LORA_LISTS = {"Power Lora Loader (rgthree)"}
"""Classes whose widgets no schema lists: as many as the user has added LoRAs."""


_CONTROL_NAMES = ("control_after_generate", "control_filter_list")
_EDITOR_ONLY = {"upload": "IMAGEUPLOAD AUDIOUPLOAD", "audioUI": "AUDIO_UI"}


def needs_schemas_of(
    workflow: Mapping[str, JsonValue], schemas: Schemas
) -> dict[str, tuple[str, str | None] | None]:
    """The classes that the schemas lack and whose values the file does not name.

    By class: its pack and version, if the file says so. Raises `WorkflowInvalid` as `convert`.
    """
    document = read_document(workflow)
    wanted: dict[str, tuple[str, str | None] | None] = {}
    for node in _nodes(document):
        kind = node.type
        if kind in schemas or kind in document.subgraphs or group_name(kind) is not None:
            continue
        if kind in VIRTUAL or kind in REFUSED or kind in EVERYWHERE or kind in LORA_LISTS:
            continue
        if node.only_lists_models:
            continue
        if node.mode not in (MUTED, BYPASSED) and named_values(node) is None:
            wanted[kind] = wanted.get(kind) or said_pack(node.properties)
    return wanted


def named_values(saved: SavedNode) -> dict[str, JsonValue] | None:
    """The values of a node's widgets by name; ``None`` if the file does not tell."""
    if saved.named_values is not None:
        return {k: v for k, v in saved.named_values.items() if k not in _CONTROL_NAMES}
    if isinstance(saved.values, dict):
        return dict(saved.values)
    values = list(saved.values or [])
    widgets = [slot for slot in saved.inputs if slot.widget is not None]
    sent = [slot for slot in widgets if slot.type not in _EDITOR_ONLY.get(slot.name, "").split()]
    # The preview of a sound has no place among the values; the upload button has one.
    kept = [slot for slot in widgets if slot.type != "AUDIO_UI"]
    for listed in (widgets, kept):
        found = _zip([slot.name for slot in listed], [slot.type for slot in listed], values)
        if found is not None:
            return {slot.name: found[slot.name] for slot in sent if slot.name in found}
    return None


def nameless_values(saved: SavedNode) -> dict[str, JsonValue]:
    """The values of a node under the names that the editor gives them: UNKNOWN, UNKNOWN_1 …"""
    values = saved.values if isinstance(saved.values, list) else []
    return {f"UNKNOWN_{i}" if i else "UNKNOWN": value for i, value in enumerate(values)}


def lora_list(saved: SavedNode) -> dict[str, JsonValue]:
    """The LoRAs of rgthree's loader, as its widgets send them: ``lora_1``, ``lora_2`` …

    Two strengths are sent where the node shows the model's and the text encoder's separately.
    """
    values = saved.values if isinstance(saved.values, list) else []
    loras = [dict(value) for value in values if isinstance(value, dict) and "lora" in value]
    for lora in loras:
        if saved.properties.get("Show Strengths") != "Separate Model & Clip":
            lora.pop("strengthTwo", None)
        elif lora.get("strengthTwo") is None:
            lora["strengthTwo"] = 1
    return {f"lora_{number}": lora for number, lora in enumerate(loras, 1)}


def _zip(
    names: list[str], kinds: list[str], values: list[JsonValue]
) -> dict[str, JsonValue] | None:
    """Names with values in order; after a whole number there may be what happens to it next."""
    found: dict[str, JsonValue] = {}
    position = 0
    for done, (name, kind) in enumerate(zip(names, kinds, strict=True), 1):
        if position >= len(values):
            return None
        found[name] = values[position]
        position += 1
        spare = len(values) - position - (len(names) - done)
        if kind == "INT" and spare > 0 and values[position] in CONTROL_VALUES:
            position += 1
    return found if position == len(values) else None


def _nodes(document: Document) -> Iterator[SavedNode]:
    """All nodes: of the workflow, of its subgraphs, and in its group nodes."""
    yield from document.root.nodes
    for graph in document.subgraphs.values():
        yield from graph.nodes
    for definition in document.group_nodes.values():
        for number, raw in enumerate(as_list(mapping(definition).get("nodes"))):
            if isinstance(raw, dict) and raw.get("type") is not None:
                yield read_node({"id": number, **raw}, number, "a group node")
