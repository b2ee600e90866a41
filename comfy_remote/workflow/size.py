"""Width, height and batch size: the empty latents and images that samplers start from."""

from __future__ import annotations

from typing import Literal

from ..errors import WorkflowInvalid
from .edit import Place
from .prompt import Node, Prompt
from .sources import linked_node, number_place, only_way_back

__all__ = ["SizeInput", "find_sizes"]

SizeInput = Literal["width", "height", "batch_size"]

_LATENT_OF_SAMPLER = "latent_image"
# Links that lead from a picture or latent to the one it was made of.
_MADE_OF = ("samples", "latent", "latents", "pixels", "image", "images", "video_latent")


def find_sizes(prompt: Prompt, name: SizeInput) -> list[Place]:
    """Where the samplers' pictures get their width, height or number from.

    Followed back from every sampler's ``latent_image``; where the workflow has no sampler,
    these are the nodes that make a picture from nothing. A node that scales a picture is not
    meant: set it with ``--set``.

    Raises:
        WorkflowInvalid: There is none, for example since the size is that of a loaded picture.
    """
    places = {
        number_place(prompt, (node_id, name), unless_it_feeds=_others(name)) or (node_id, name)
        for node_id in _origins(prompt)
        if name in prompt[node_id]["inputs"]
    }
    if not places:
        flag = "--batch" if name == "batch_size" else f"--{name}"
        raise WorkflowInvalid(
            f"{flag}: no sampler of the workflow starts from an empty latent or image that has "
            f"a {name}.",
            advice=f"Set the node that decides it: --set NODE.{name}=…",
        )
    return sorted(places)


def _origins(prompt: Prompt) -> list[str]:
    waiting = [
        node["inputs"][_LATENT_OF_SAMPLER]
        for node in prompt.values()
        if _LATENT_OF_SAMPLER in node["inputs"]
    ]
    if not waiting:
        return [node_id for node_id, node in prompt.items() if _makes(prompt, node, True)]
    found: list[str] = []
    seen: set[str] = set()
    while waiting:
        link = linked_node(prompt, waiting.pop())
        if link is None or link[0] in seen:
            continue
        node_id = link[0]
        seen.add(node_id)
        node = prompt[node_id]
        if _makes(prompt, node, False):
            found.append(node_id)
            continue
        if _LATENT_OF_SAMPLER in node["inputs"]:
            continue  # a sampler before this one: it is looked at by itself
        onward = [node["inputs"][key] for key in _MADE_OF if key in node["inputs"]]
        waiting += onward or [only_way_back(prompt, node)]
    return found


def _makes(prompt: Prompt, node: Node, from_nothing: bool) -> bool:
    """Whether a node makes a picture or latent of a size of its own."""
    inputs = node["inputs"]
    if not {"width", "height"} <= inputs.keys():
        return False
    made_of = any(linked_node(prompt, inputs.get(key)) for key in _MADE_OF)
    # Nodes for image-to-video take a picture and a VAE; those that scale have no VAE.
    return not made_of or ("vae" in inputs and not from_nothing)


def _others(name: SizeInput) -> frozenset[str]:
    return frozenset({"width", "height", "batch_size"} - {name})
