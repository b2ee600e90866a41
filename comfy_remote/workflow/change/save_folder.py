"""Where a ComfyUI saves: the folder part of what its save nodes call their files.

A save node has a ``filename_prefix`` such as ``portraits/anna``: the folder below ComfyUI's own
output folder, and the beginning of the name (ComfyUI's ``folder_paths.get_save_image_path``).
"""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import WorkflowInvalid
from ..prompt import Prompt
from .settings import Place, put
from .sources import linked_node

__all__ = ["find_name_prefixes", "name_below"]

_PREFIX = "filename_prefix"


def find_name_prefixes(prompt: Prompt) -> list[Place]:
    """The inputs that say how saved files are called.

    Raises:
        WorkflowInvalid: There is none, or one is computed.
    """
    found: dict[Place, None] = {}
    for node_id, node in prompt.items():
        if _PREFIX not in node["inputs"]:
            continue
        place = _written_at(prompt, node_id)
        if place is None:
            raise WorkflowInvalid(
                f"The name that {node['class_type']} (node {node_id}) saves under is put together "
                "by other nodes, so its folder cannot be set.",
                advice="Write ${OUTPUT_FOLDER} into the workflow file where the folder belongs.",
                details={"node_id": node_id, "input": _PREFIX},
            )
        found[place] = None
    if not found:
        raise WorkflowInvalid(
            "No node of the workflow says where it saves (there is no filename_prefix).",
            advice="Omit the folder on the target, or write ${OUTPUT_FOLDER} into the "
            "workflow file where it belongs.",
        )
    return list(found)


def _written_at(prompt: Prompt, node_id: str) -> Place | None:
    """Where the prefix is written: at the node, or at a primitive; ``None`` if it is computed."""
    value = prompt[node_id]["inputs"][_PREFIX]
    if isinstance(value, str):
        return node_id, _PREFIX
    link = linked_node(prompt, value)
    given = prompt[link[0]]["inputs"] if link is not None else {}
    if link is None or len(given) != 1 or not isinstance(next(iter(given.values())), str):
        return None
    return link[0], next(iter(given))


def name_below(prompt: Prompt, places: Iterable[Place], folder: str) -> Prompt:
    """The prompt with its files named as before, in that folder.

    Args:
        prompt: API format.
        places: As `find_name_prefixes` gives them.
        folder: ``/`` or ``\\`` between parts. ComfyUI refuses one that leads out of its output
            folder.
    """
    folder = folder.replace("\\", "/").rstrip("/")
    for node_id, key in places:
        prefix = str(prompt[node_id]["inputs"][key]).lstrip("/")
        prompt = put(prompt, [(node_id, key)], f"{folder}/{prefix}")
    return prompt
