"""The workflow as nodes of the running graph, for when Remote is off.

ComfyUI runs what a node returns as ``expand`` instead of the node. So the workflow runs in
the prompt that runs already, and nothing is queued and waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ...errors import OutputLost
from ...workflow.prompt import Node, Prompt, is_link
from ...workflow.schema import Schemas

__all__ = [
    "COLLECT",
    "TAKE",
    "Expansion",
    "ExpansionNode",
    "Link",
    "expand",
    "no_picture",
    "picture_sources",
    "take_nodes",
]

TAKE = "RunPodRemoteTakeImage"
"""Gives what Load Image would give for one picture of ``input_images``."""
COLLECT = "RunPodRemoteCollectImages"
"""Joins what the workflow's Save Image nodes get."""

Link: TypeAlias = list["str | int"]
"""``[node id, output index]``."""

ExpansionNode: TypeAlias = dict[str, object]
"""``{"class_type", "inputs"}``, like a prompt's node; an input may be a tensor."""

# Nodes that show pictures and don't save them, and nodes that save something else.
_PREVIEW_WORDS = ("preview", "compare")
_VIDEO_WORDS = ("video", "webm")


@dataclass(frozen=True)
class Expansion:
    """What a node returns to ComfyUI."""

    graph: dict[str, ExpansionNode]
    result: Link


def picture_sources(prompt: Prompt, schemas: Schemas) -> list[Link]:
    """The sources of a workflow's pictures: the links into the nodes that save them.

    The same pictures that a remote run brings back: those that are saved or, where none is,
    those that are previewed. In the order of the prompt.

    Args:
        schemas: Tell which nodes are outputs, and which inputs are pictures.

    Raises:
        OutputLost: There is no such node.
    """
    saved: list[Link] = []
    previewed: list[Link] = []
    for node in prompt.values():
        schema = schemas.get(node["class_type"])
        name = node["class_type"].casefold()
        if schema is None or not schema.output_node or any(w in name for w in _VIDEO_WORDS):
            continue
        links: dict[str, list[Link]] = {"IMAGE": [], "MASK": []}
        for spec in schema.inputs:
            value = node["inputs"].get(spec.name)
            if spec.type in links and is_link(value):
                links[spec.type].append([str(value[0]), int(str(value[1]))])
        found = links["IMAGE"] or links["MASK"]
        (previewed if any(word in name for word in _PREVIEW_WORDS) else saved).extend(found)
    if not (saved or previewed):
        raise no_picture()
    return saved or previewed


def take_nodes(slots: Sequence[str]) -> dict[str, Node]:
    """Nodes that replace Load Image nodes: the first gives the first picture, and so on."""
    return {
        node_id: {"class_type": TAKE, "inputs": {"images": None, "index": index}}
        for index, node_id in enumerate(slots)
    }


def expand(prompt: Prompt, sources: Sequence[Link], images: object, prefix: str) -> Expansion:
    """The workflow as nodes of the running graph.

    Args:
        images: IMAGE, for the nodes made by `take_nodes`.
        prefix: Makes the ids of the new nodes unique in the running graph.
    """
    graph: dict[str, ExpansionNode] = {}
    for node_id, node in prompt.items():
        inputs: dict[str, object] = {
            key: [f"{prefix}{value[0]}", value[1]] if is_link(value) else value
            for key, value in node["inputs"].items()
        }
        if node["class_type"] == TAKE:
            inputs["images"] = images
        graph[prefix + node_id] = {"class_type": node["class_type"], "inputs": inputs}
    before: Link | None = None
    for number, (source, output) in enumerate(sources):
        inputs = {"images": [f"{prefix}{source}", output]}
        if before is not None:
            inputs["before"] = before
        graph[f"{prefix}collect{number}"] = {"class_type": COLLECT, "inputs": inputs}
        before = [f"{prefix}collect{number}", 0]
    if before is None:
        raise no_picture()
    return Expansion(graph, before)


def no_picture() -> OutputLost:
    """The error for a workflow that gives no picture."""
    return OutputLost(
        "The workflow gives no picture.",
        advice="Add a Save Image node to it, after what should be returned.",
    )
