"""The node classes of the ComfyUI that we are in."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, cast

import nodes as comfyui_nodes
from comfy_api.latest import io

from ...workflow.schema import Schemas

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["local_schemas"]


def local_schemas(classes: Collection[str] | None = None) -> Schemas:
    """What ``GET /object_info`` says here, as far as schemas need it.

    Args:
        classes: Only these; all by default. One that is not there is left out.
    """
    known = comfyui_nodes.NODE_CLASS_MAPPINGS
    wanted = [name for name in known if classes is None or name in classes]
    return Schemas({name: _described(name, known[name]) for name in wanted}, "this ComfyUI")


def _described(name: str, node: type) -> dict[str, JsonValue]:
    try:
        info: dict[str, object] = (
            node.GET_NODE_INFO_V1()  # type: ignore[attr-defined]
            if issubclass(node, io.ComfyNode)
            else {
                "input": node.INPUT_TYPES(),  # type: ignore[attr-defined]
                "output": node.RETURN_TYPES,  # type: ignore[attr-defined]
                "output_node": getattr(node, "OUTPUT_NODE", False) is True,
                "display_name": comfyui_nodes.NODE_DISPLAY_NAME_MAPPINGS.get(name, name),
            }
        )
    except Exception:  # noqa: BLE001  other people's code: ComfyUI leaves such a node out, too
        return {}
    # As the document says it: tuples are lists, and a node's own types are texts.
    return cast("dict[str, JsonValue]", json.loads(json.dumps(info, default=str)))
