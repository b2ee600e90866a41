"""Which nodes buy something from a service each time that they run: ComfyUI's API nodes."""

from __future__ import annotations

import json
from functools import lru_cache

from ..types import mapping
from .prompt import Prompt
from .schema import Schemas

__all__ = ["any_paid", "any_paid_known", "is_paid", "known_paid"]

_LOGINS = frozenset({"auth_token_comfy_org", "api_key_comfy_org"})


def any_paid(prompt: Prompt, schemas: Schemas) -> bool:
    """Whether a prompt has a node that costs money elsewhere, as far as its schemas say it."""
    return any(is_paid(schemas, node["class_type"]) for node in prompt.values())


def any_paid_known(prompt: Prompt) -> bool:
    """The same of ComfyUI's own nodes, without schemas."""
    return any(node["class_type"] in known_paid() for node in prompt.values())


def is_paid(schemas: Schemas, class_type: str) -> bool:
    """Whether the nodes of a class cost money elsewhere, as far as its schema says it."""
    if (schemas.document(class_type) or {}).get("api_node") is True:
        return True
    hidden = mapping(schemas.declared(class_type).get("hidden"))
    return not _LOGINS.isdisjoint(hidden)


@lru_cache(maxsize=1)
def known_paid() -> frozenset[str]:
    """The classes of ComfyUI's own that are. All schemas take much longer to read than this list,
    which a test compares with them.
    """
    from importlib.resources import files  # here, as in `schema`: a run on a ComfyUI needs none

    data = files(__package__).joinpath("data")
    return frozenset(json.loads(data.joinpath("paid_nodes.json").read_bytes()))
