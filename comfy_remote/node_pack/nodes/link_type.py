"""The type of what is connected to a node's input, in the running graph."""

from __future__ import annotations

from typing import Any

import nodes as comfyui_nodes

from ...workflow.interface import ANY
from ...workflow.prompt import is_link

__all__ = ["type_of_link"]


def type_of_link(dynprompt: Any, link: object) -> str:  # ComfyUI's own class, without types
    """The type by the node that makes it; ``*`` for what is no link, or of any type.

    Args:
        dynprompt: ComfyUI's ``DynamicPrompt``.
        link: ``[node id, output index]``.
    """
    if not is_link(link):
        return ANY
    made_by = comfyui_nodes.NODE_CLASS_MAPPINGS[dynprompt.get_node(link[0])["class_type"]]
    kind = made_by.RETURN_TYPES[int(str(link[1]))]
    return str(kind) if isinstance(kind, str) else "COMBO"
