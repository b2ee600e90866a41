"""Seeds, and the size of what is made: which inputs a user means by ``seed`` or ``width``.

Seeds: ``seed``, ``noise_seed`` and the like. Width, height and batch size: of the empty latents and
images that samplers start from. Both are followed through primitives and links.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

from ...advice import Hint
from ...errors import WorkflowInvalid
from ..graph import linked_node
from ..prompt import Node, Place, Prompt
from .sources import Sources, only_way_back

__all__ = [
    "MAX_RANDOM",
    "MAX_SEED",
    "SizeInput",
    "find_seeds",
    "find_sizes",
    "has_seeds",
    "parse_seed",
]

MAX_SEED = 2**64 - 1
"""The largest that ComfyUI's samplers take."""
MAX_RANDOM = 2**31 - 1
"""The largest that is drawn: many nodes that call a service take no more than 31 bits."""


SizeInput = Literal["width", "height", "batch_size"]

_LATENT_OF_SAMPLER = "latent_image"
_SIDES = frozenset({"width", "height"})
# Links that lead from a picture or latent to the one it was made of.
_MADE_OF = (
    *("samples", "latent", "latents", "pixels", "image", "images"),
    *("video_latent", "audio_latent"),
)
_PRIMITIVE = frozenset({"value", "int", "number"})


def parse_seed(text: str) -> int:
    """A seed as a person types it; raises `WorkflowInvalid` for anything else."""
    if text.strip().lower() == "random":
        return random.randint(0, MAX_RANDOM)
    if text.strip().isascii() and text.strip().isdigit() and len(text) <= 20:
        seed = int(text)
        if seed <= MAX_SEED:
            return seed
    raise WorkflowInvalid(
        f"{text!r} is not a seed.", advice=f"Give a whole number from 0 to {MAX_SEED}, or random."
    )


def has_seeds(prompt: Prompt) -> bool:
    """Whether there is any."""
    return any(True for _ in _seed_inputs(prompt))


def find_seeds(prompt: Prompt) -> list[Place]:
    """Where the seeds are: at a primitive that one is linked to, or (if computed) at the sampler.

    Raises:
        WorkflowInvalid: There are none.
    """
    sources = Sources(prompt)
    found = {
        sources.number(place, unless_it_feeds=frozenset({"steps"})) or place: None
        for place in _seed_inputs(prompt)
    }
    if not found:
        raise WorkflowInvalid(
            "No node of the workflow has a seed.",
            advice=Hint.SET_OTHER_INPUT(),
        )
    return list(found)


def find_sizes(prompt: Prompt, name: SizeInput) -> list[Place]:
    """Where the samplers' pictures get their width, height or number from.

    Followed back from every sampler's ``latent_image``; without samplers, these are the nodes
    that make a picture from nothing. A width that is computed from another (half of it, a
    multiple of 16) is set at its origin. A node that scales a loaded picture does not count.

    Raises:
        WorkflowInvalid: There is none, for example because the picture is loaded.
    """
    sources = Sources(prompt)
    places = {
        _decided_at(prompt, sources, node_id, name)
        for node_id in _origins(prompt, name)
        if name in prompt[node_id]["inputs"]
    }
    if not places:
        raise WorkflowInvalid(
            f"No sampler of the workflow starts from an empty latent or image that has a {name}.",
            advice=Hint.SET_SIZE(name=name),
        )
    return sorted(places)


def _seed_inputs(prompt: Prompt) -> Iterator[Place]:
    for node_id, node in prompt.items():
        for key, value in node["inputs"].items():
            if _is_seed(key.rpartition(".")[2].casefold()) and not isinstance(value, bool | dict):
                yield node_id, key


def _is_seed(name: str) -> bool:
    """``seed``, ``noise_seed``, ``model_seed``; but not the seed of a variation on another."""
    return name == "seed" or (name.endswith("_seed") and not name.startswith("var"))


def _decided_at(prompt: Prompt, sources: Sources, node_id: str, name: SizeInput) -> Place:
    """The input to change: the number's origin, or the node's own input if others depend on it."""
    others = frozenset({"width", "height", "batch_size"} - {name})
    place = (node_id, name)
    if (given := sources.number(place, unless_it_feeds=others)) is not None:
        return given
    start = _computed_from(prompt, place)
    shared = any(_computed_from(prompt, (node_id, other)) == start for other in others)
    return place if start is None or shared else start


def _computed_from(prompt: Prompt, place: Place) -> Place | None:
    """The one number that a size is computed from: a primitive's, or that of an empty picture."""
    name = place[1]
    link = linked_node(prompt, prompt[place[0]]["inputs"].get(name))
    seen: set[str] = set()
    while link is not None and link[0] not in seen:
        seen.add(link[0])
        node = prompt[link[0]]
        inputs = node["inputs"]
        if _makes(prompt, node, _SIDES, from_nothing=True):
            return (
                (link[0], name) if name in _SIDES and not _is_linked(prompt, node, name) else None
            )
        given = [key for key in inputs if key.casefold() in _PRIMITIVE]
        if len(given) == 1 and not _is_linked(prompt, node, given[0]):
            return link[0], given[0]
        measured = any(_is_linked(prompt, node, key) for key in _MADE_OF)
        if measured and "scale_by" not in inputs and "GetImageSize" not in node["class_type"]:
            return None  # it gives the picture a size of its own
        link = linked_node(prompt, only_way_back(prompt, node))
    return None


def _origins(prompt: Prompt, name: SizeInput) -> list[str]:
    waiting = [
        node["inputs"][_LATENT_OF_SAMPLER]
        for node in prompt.values()
        if _LATENT_OF_SAMPLER in node["inputs"]
    ]
    if not waiting:
        return [n for n, node in prompt.items() if _makes(prompt, node, _SIDES, from_nothing=True)]
    sized = _SIDES if name in _SIDES else frozenset({name})  # a sound has a number, but no sides
    found: list[str] = []
    seen: set[str] = set()
    while waiting:
        link = linked_node(prompt, waiting.pop())
        if link is None or link[0] in seen:
            continue
        node_id = link[0]
        seen.add(node_id)
        node = prompt[node_id]
        if _makes(prompt, node, sized):
            found.append(node_id)
            continue
        if _LATENT_OF_SAMPLER in node["inputs"]:
            continue  # a sampler before this one: it is looked at by itself
        onward = [node["inputs"][key] for key in _MADE_OF if key in node["inputs"]]
        waiting += onward or [only_way_back(prompt, node)]
    return found


def _makes(
    prompt: Prompt, node: Node, sized: frozenset[str], *, from_nothing: bool = False
) -> bool:
    """Whether a node makes a picture or latent of a size of its own."""
    if not sized <= node["inputs"].keys():
        return False
    made_of = any(_is_linked(prompt, node, key) for key in _MADE_OF)
    # Nodes for image-to-video take a picture and a VAE; those that scale have no VAE.
    return not made_of or ("vae" in node["inputs"] and not from_nothing)


def _is_linked(prompt: Prompt, node: Node, key: str) -> bool:
    return linked_node(prompt, node["inputs"].get(key)) is not None
