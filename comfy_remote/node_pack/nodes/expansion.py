"""The workflow as nodes of the running graph, for when Remote is off.

ComfyUI runs what a node returns as ``expand`` instead of the node. So the workflow runs in
the prompt that runs already, and nothing is queued and waited for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ...errors import OutputLost
from ...types import JsonValue
from ...workflow.prompt import Node, Prompt, is_link
from ...workflow.schema import NodeSchema, Schemas

__all__ = [
    "COLLECT",
    "TAKE",
    "Expansion",
    "ExpansionNode",
    "Film",
    "Link",
    "Sources",
    "expand",
    "nothing_made",
    "sources_in",
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


_RATES = ("fps", "frame_rate")


@dataclass(frozen=True)
class Film:
    """What a node makes a film of.

    Attributes:
        source: The link to a VIDEO or, with a ``rate``, to an IMAGE that is its frames.
        rate: Frames a second: a number, or a link to one.
        audio: The link to the sound of frames, if they have one.
    """

    source: Link
    rate: JsonValue = None
    audio: Link | None = None


@dataclass(frozen=True)
class Sources:
    """What a workflow makes, by the links into the nodes that save it."""

    pictures: Sequence[Link]
    films: Sequence[Film]


@dataclass(frozen=True)
class Expansion:
    """What a node returns to ComfyUI.

    Attributes:
        images: The link to the pictures or, where there are none, to the frames of a film.
        video: The link to the film; ``None`` if there is none.
    """

    graph: dict[str, ExpansionNode]
    images: Link
    video: Link | None


def sources_in(prompt: Prompt, schemas: Schemas) -> Sources:
    """What a workflow makes: the same pictures and films that a remote run brings back.

    Those that are saved or, where none is, those that are previewed. In the order of the prompt.

    Args:
        schemas: Tell which nodes are outputs, and which inputs are pictures.

    Raises:
        OutputLost: There is no such node.
    """
    saved: list[Link] = []
    previewed: list[Link] = []
    films: list[Film] = []
    for node in prompt.values():
        schema = schemas.get(node["class_type"])
        name = node["class_type"].casefold()
        if schema is None or not schema.output_node:
            continue
        links = _links_by_type(node, schema)
        if any(word in name for word in _VIDEO_WORDS):
            films += _films(node, links)
            continue
        found = links["IMAGE"] or links["MASK"]
        (previewed if any(word in name for word in _PREVIEW_WORDS) else saved).extend(found)
    if not (saved or previewed or films):
        raise nothing_made()
    # A film that is saved is what the workflow is for; a preview beside it is not.
    return Sources(saved or ([] if films else previewed), films)


def _links_by_type(node: Node, schema: NodeSchema) -> dict[str, list[Link]]:
    links: dict[str, list[Link]] = {"IMAGE": [], "MASK": [], "VIDEO": [], "AUDIO": []}
    for spec in schema.inputs:
        value = node["inputs"].get(spec.name)
        if spec.type in links and is_link(value):
            links[spec.type].append([str(value[0]), int(str(value[1]))])
    return links


def _films(node: Node, links: Mapping[str, Sequence[Link]]) -> Iterator[Film]:
    for video in links["VIDEO"]:
        yield Film(video)
    rate = next((node["inputs"][name] for name in _RATES if name in node["inputs"]), None)
    if rate is not None:
        for images in links["IMAGE"][:1]:
            yield Film(images, rate, next(iter(links["AUDIO"]), None))


def take_nodes(slots: Sequence[str]) -> dict[str, Node]:
    """Nodes that replace Load Image nodes: the first gives the first picture, and so on."""
    return {
        node_id: {"class_type": TAKE, "inputs": {"images": None, "index": index}}
        for index, node_id in enumerate(slots)
    }


def expand(prompt: Prompt, sources: Sources, images: object, prefix: str) -> Expansion:
    """The workflow as nodes of the running graph.

    Args:
        images: IMAGE, for the nodes made by `take_nodes`.
        prefix: Makes the ids of the new nodes unique in the running graph.
    """
    graph: dict[str, ExpansionNode] = {}
    for node_id, node in prompt.items():
        inputs: dict[str, object] = {
            key: _moved(value, prefix) for key, value in node["inputs"].items()
        }
        if node["class_type"] == TAKE:
            inputs["images"] = images
        graph[prefix + node_id] = {"class_type": node["class_type"], "inputs": inputs}
    video, frames = _film_nodes(graph, sources.films, prefix)
    before: Link | None = None
    pictures = [_moved(source, prefix) for source in sources.pictures] or [frames]
    for number, source in enumerate(pictures):
        inputs = {"images": source}
        if before is not None:
            inputs["before"] = before
        graph[f"{prefix}collect{number}"] = {"class_type": COLLECT, "inputs": inputs}
        before = [f"{prefix}collect{number}", 0]
    if before is None:
        raise nothing_made()
    return Expansion(graph, before, video)


def _film_nodes(
    graph: dict[str, ExpansionNode], films: Sequence[Film], prefix: str
) -> tuple[Link | None, Link | None]:
    """The links to the first film, and to its frames; ComfyUI's own nodes make one of the other."""
    if not films:
        return None, None
    film = films[0]
    source = _link(film.source, prefix)
    if film.rate is None:
        frames = f"{prefix}frames"
        graph[frames] = {"class_type": "GetVideoComponents", "inputs": {"video": source}}
        return source, [frames, 0]
    inputs: dict[str, object] = {"images": source, "fps": _moved(film.rate, prefix)}
    if film.audio is not None:
        inputs["audio"] = _link(film.audio, prefix)
    graph[f"{prefix}film"] = {"class_type": "CreateVideo", "inputs": inputs}
    return [f"{prefix}film", 0], source


def _link(link: Link, prefix: str) -> Link:
    return [f"{prefix}{link[0]}", link[1]]


def _moved(value: object, prefix: str) -> object:
    """The value of an input; a link leads to the node's new id."""
    return [f"{prefix}{value[0]}", value[1]] if is_link(value) else value


def nothing_made() -> OutputLost:
    """The error for a workflow that gives neither pictures nor films."""
    return OutputLost(
        "The workflow gives no picture and no video.",
        advice="Add a Save Image node to it (for a video, Save Video), after what should be "
        "returned.",
    )
