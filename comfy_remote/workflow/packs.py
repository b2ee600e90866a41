"""Which node packs a prompt's nodes come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..types import JsonValue, mapping, mappings
from .json_document import graphs_in
from .prompt import Prompt
from .schema import Schemas

__all__ = ["CORE", "NodePack", "find_packs", "pack_for_people", "said_pack"]

CORE = "comfy-core"
"""What ComfyUI's registry calls ComfyUI's own nodes."""


@dataclass(frozen=True, slots=True)
class NodePack:
    """A node pack, and which of the prompt's classes it has.

    Attributes:
        name: Its id in ComfyUI's registry, else its repository on GitHub ("owner/name"), else
            its folder in ``custom_nodes``; `CORE` for ComfyUI itself; ``None`` if unknown.
        version: The version or commit that the workflow was saved with, if it says so.
    """

    name: str | None
    version: str | None
    classes: tuple[str, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """A description for programs."""
        return {"name": self.name, "version": self.version, "classes": list(self.classes)}


def find_packs(
    prompt: Prompt, *, schemas: Schemas, workflow: Mapping[str, JsonValue] | None = None
) -> list[NodePack]:
    """The packs that a prompt's nodes come from.

    What the workflow says (``cnr_id``, ``aux_id`` and ``ver``, which newer editors write) takes
    precedence over the module that the schemas name.
    """
    said = dict(_said(workflow or {}))
    packs: dict[tuple[str | None, str | None], list[str]] = {}
    for class_type in dict.fromkeys(node["class_type"] for node in prompt.values()):
        pack = said.get(class_type) or (_from_schemas(class_type, schemas), None)
        packs.setdefault(pack, []).append(class_type)
    return [NodePack(*pack, tuple(classes)) for pack, classes in packs.items()]


def said_pack(properties: Mapping[str, JsonValue]) -> tuple[str, str | None] | None:
    """Name and version of a node's pack by its properties in UI format, if they say so.

    The name is the pack's id in ComfyUI's registry, or its repository on GitHub.
    """
    name = properties.get("cnr_id") or properties.get("aux_id")
    if not isinstance(name, str):
        return None
    version = properties.get("ver")
    # Nodes of one workflow carry the ComfyUI version of the day each was added.
    return name, version if isinstance(version, str) and name != CORE else None


def pack_for_people(name: str) -> str:
    """Where a node class that is missing comes from: "the node pack github.com/owner/name"."""
    if name == CORE:
        return "ComfyUI itself (a newer or older one)"
    return f"the node pack {f'github.com/{name}' if '/' in name else name}"


def _said(workflow: Mapping[str, JsonValue]) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Class, and name and version of the pack, of all nodes that name one."""
    for graph in graphs_in(workflow):
        for node in mappings(graph.get("nodes")):
            kind, pack = node.get("type"), said_pack(mapping(node.get("properties")))
            if isinstance(kind, str) and pack is not None:
                yield kind, pack


def _from_schemas(class_type: str, schemas: Schemas) -> str | None:
    for known in (schemas, Schemas.bundled()):
        schema = known.get(class_type)
        if schema is not None and schema.python_module is not None:
            folder, _, rest = schema.python_module.partition(".")
            return rest.partition(".")[0] if folder == "custom_nodes" and rest else CORE
    return CORE if class_type in Schemas.bundled() else None
