"""Which nodes buy something from a service each time that they run: ComfyUI's API nodes."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files

from ..types import mapping
from .prompt import Prompt
from .schema import Schemas

__all__ = ["is_paid", "paid_nodes"]

_LOGINS = frozenset({"auth_token_comfy_org", "api_key_comfy_org"})


def paid_nodes(prompt: Prompt, schemas: Schemas | None = None) -> list[str]:
    """The ids of a prompt's nodes that cost money elsewhere.

    Args:
        schemas: What the engine says of its nodes; else only ComfyUI's own are known.
    """
    return [
        node_id
        for node_id, node in prompt.items()
        if node["class_type"] in _own()
        or (schemas is not None and is_paid(schemas, node["class_type"]))
    ]


def is_paid(schemas: Schemas, class_type: str) -> bool:
    """Whether the nodes of a class cost money elsewhere, as far as its schema says it."""
    if (schemas.document(class_type) or {}).get("api_node") is True:
        return True
    hidden = mapping(schemas.declared(class_type).get("hidden"))
    return not _LOGINS.isdisjoint(hidden)


@lru_cache(maxsize=1)
def _own() -> frozenset[str]:
    """ComfyUI's own. In a file by itself, since all schemas take thirty times as long to read."""
    data = files(__package__).joinpath("data")
    return frozenset(json.loads(data.joinpath("paid_nodes.json").read_bytes()))
