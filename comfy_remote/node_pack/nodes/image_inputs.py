"""Which Load Image node of a workflow gets which picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ...errors import WorkflowInvalid
from ...types import JsonValue
from ...workflow.graph import links
from ...workflow.prompt import Node, Place, Prompt, is_link, with_inputs

__all__ = ["by_number", "load_nodes", "spread_pictures", "with_nodes"]

_LOAD = "LoadImage"


def by_number(prompt: Prompt) -> Prompt:
    """The same nodes in the order of their numbers, as people read a graph: 2, 10, 10:3, x."""
    return {node_id: prompt[node_id] for node_id in sorted(prompt, key=_number)}


def spread_pictures(prompt: Prompt, count: int) -> tuple[Prompt, list[str]]:
    """Make room for pictures: the workflow with one Load Image node for each of them.

    Only Load Image nodes that something is linked to count, in the order of the prompt. One
    such node gets all pictures, as one batch: it is replaced by a node a picture and the
    Image Batch nodes that join them (its MASK is then the first picture's). With several,
    picture *i* goes to the *i*-th node; those beyond the last picture keep their own file.

    Args:
        prompt: API format; not changed.
        count: How many pictures, at least 1.

    Returns:
        The prompt, and the ids of the Load Image nodes, one for each picture.

    Raises:
        WorkflowInvalid: There is no such node, or there are several but fewer than pictures.
    """
    linked = {
        value[0] for node in prompt.values() for value in node["inputs"].values() if is_link(value)
    }
    slots = [i for i, node in prompt.items() if node["class_type"] == _LOAD and i in linked]
    if not slots:
        raise WorkflowInvalid(
            "The workflow has no Load Image node to take the pictures of input_images.",
            advice="Add one where they should enter, or disconnect input_images.",
        )
    if len(slots) == 1:
        return _one_batch(prompt, slots[0], count)
    if count > len(slots):
        raise WorkflowInvalid(
            f"input_images has {count} pictures, and the workflow has {len(slots)} Load Image "
            f"nodes ({', '.join(slots)}).",
            advice="Give it one picture for each of them, or keep a single Load Image node, "
            "which then gets all pictures as one batch.",
            details={"pictures": count, "nodes": list(slots)},
        )
    return prompt, slots[:count]


def with_nodes(prompt: Prompt, changed: Mapping[str, Node]) -> Prompt:
    """The prompt with some of its nodes replaced, in the same order."""
    return {node_id: changed.get(node_id, node) for node_id, node in prompt.items()}


def load_nodes(slots: Sequence[str], names: Sequence[str]) -> dict[str, Node]:
    """Load Image nodes that load these files."""
    return {
        node_id: {"class_type": _LOAD, "inputs": {"image": name}}
        for node_id, name in zip(slots, names, strict=True)
    }


def _one_batch(prompt: Prompt, slot: str, count: int) -> tuple[Prompt, list[str]]:
    if count == 1:
        return prompt, [slot]
    loads = [_free_id(prompt, f"{slot}_{number}") for number in range(count)]
    joins = [_free_id(prompt, f"{slot}_0to{number}") for number in range(1, count)]
    # The links to its picture go to the last join, those to its mask to the first picture.
    picture: list[JsonValue] = [joins[-1], 0]
    mask: list[JsonValue] = [loads[0], 1]
    moved: dict[Place, JsonValue] = {
        (node_id, key): mask if index == 1 else picture
        for node_id, node in prompt.items()
        for key, source, index in links(node)
        if source == slot
    }
    changed: Prompt = {}
    for node_id, node in with_inputs(prompt, moved).items():
        if node_id != slot:
            changed[node_id] = node
            continue
        for load in loads:
            changed[load] = {**node, "inputs": dict(node["inputs"])}
        so_far = loads[0]
        for load, join in zip(loads[1:], joins, strict=True):
            changed[join] = {
                "class_type": "ImageBatch",
                "inputs": {"image1": [so_far, 0], "image2": [load, 0]},
            }
            so_far = join
    return changed, loads


def _free_id(prompt: Prompt, wanted: str) -> str:
    while wanted in prompt:
        wanted += "_"
    return wanted


def _number(node_id: str) -> list[tuple[int, int, str]]:
    """For sorting: numbers as numbers, before words."""
    parts = re.split(r"(\d+)", node_id)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]
