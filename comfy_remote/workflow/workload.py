"""How much work a prompt is, node by node, and which prompts are alike in that.

A guess from the document alone, good enough to compare runs of the same workflow: samplers cost
steps x megapixels x pictures, every other node about as much as one step.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..errors import WorkflowInvalid
from .model_folders import MODEL_SUFFIXES
from .order import needed_nodes, output_nodes
from .prompt import Node, Prompt
from .sources import Sources, linked_node

__all__ = ["NodeWork", "Workload", "workload_of"]

_PIXELS = 1_000_000
_MOST = 1e6
"""No number of a prompt counts for more: one out of range must not drown the others."""
_NEAR = 500
"""So many nodes before a sampler are looked at for a size; no real chain is longer."""
_FRAMES_PER_LATENT = 4  # as today's video models pack them


@dataclass(frozen=True, slots=True)
class NodeWork:
    """One node's share.

    Attributes:
        node_id: The node.
        work: Its cost; 1.0 is one sampler step on one megapixel, or any node that does not
            sample.
        steps: Of a sampler; ``None`` for other nodes.
    """

    node_id: str
    work: float
    steps: float | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of a prompt.

    Attributes:
        shape: 64 hex digits, equal for prompts with the same node classes and models: texts,
            seeds, sizes and steps may differ, and so may node ids.
        nodes: Those that run, in an order in which they can.
        work: The sum over the nodes.
    """

    shape: str
    nodes: tuple[NodeWork, ...]
    work: float


def workload_of(prompt: Prompt) -> Workload:
    """The work of a prompt. Never fails: what it cannot read counts as a small picture."""
    # A node by itself (a text that only people and `repo_list` read) does not run.
    ends = [node_id for node_id in output_nodes(prompt) if _sources(prompt, prompt[node_id])]
    try:
        order = needed_nodes(prompt, ends or list(prompt))
    except WorkflowInvalid:
        order = list(prompt)  # the target will say what is wrong with it
    scheduled = _steps_by_sampler(prompt)
    sources = Sources(prompt)
    nodes = tuple(_work_of(prompt, sources, node_id, scheduled) for node_id in order)
    return Workload(_shape(prompt, order), nodes, math.fsum(node.work for node in nodes))


def _work_of(prompt: Prompt, sources: Sources, node_id: str, scheduled: dict[str, str]) -> NodeWork:
    if node_id in scheduled.values():
        return NodeWork(node_id, 1.0)  # a scheduler: the steps are its sampler's
    steps = _steps(prompt, sources, scheduled.get(node_id, node_id))
    if steps is None:
        return NodeWork(node_id, 1.0)
    return NodeWork(node_id, steps * max(0.1, _megapixels(prompt, sources, node_id)), steps)


def _steps_by_sampler(prompt: Prompt) -> dict[str, str]:
    """Samplers that are given their ``sigmas``, and the node that says in how many steps."""
    found: dict[str, str] = {}
    for node_id, node in prompt.items():
        link = linked_node(prompt, node["inputs"].get("sigmas"))
        for _ in range(_NEAR):
            if link is None:
                break
            if "steps" in prompt[link[0]]["inputs"]:
                found[node_id] = link[0]
                break
            # Through nodes that split or scale the sigmas.
            link = linked_node(prompt, prompt[link[0]]["inputs"].get("sigmas"))
    return found


def _steps(prompt: Prompt, sources: Sources, node_id: str) -> float | None:
    steps = _number(prompt, sources, node_id, "steps")
    if steps is None:
        return None
    first = _number(prompt, sources, node_id, "start_at_step") or 0.0
    last = _number(prompt, sources, node_id, "end_at_step") or steps
    return max(1.0, min(steps, last) - first)


def _megapixels(prompt: Prompt, sources: Sources, node_id: str) -> float:
    """Of the picture that a sampler works on, times how many there are.

    Those of the nearest node upstream that has a width and a height; one, if there is none.
    """
    waiting, seen = deque([node_id]), {node_id}
    while waiting and len(seen) < _NEAR:
        current = waiting.popleft()
        width = _number(prompt, sources, current, "width")
        height = _number(prompt, sources, current, "height")
        if width and height:
            batch = _number(prompt, sources, current, "batch_size") or 1.0
            frames = _number(prompt, sources, current, "length") or 1.0
            latents = math.ceil(frames / _FRAMES_PER_LATENT)
            return min(_MOST, width * height / _PIXELS * batch * latents)
        for source in _sources(prompt, prompt[current]):
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return 1.0


def _sources(prompt: Prompt, node: Node) -> list[str]:
    links = (linked_node(prompt, value) for value in node["inputs"].values())
    return [link[0] for link in links if link is not None]


def _number(prompt: Prompt, sources: Sources, node_id: str, name: str) -> float | None:
    """A positive number of an input, through links to primitives."""
    if name not in prompt[node_id]["inputs"]:
        return None
    place = sources.number((node_id, name))
    value = prompt[place[0]]["inputs"].get(place[1]) if place else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared before it is made a float: JSON's integers have no largest one.
    return float(min(value, _MOST)) if value > 0 else None


def _shape(prompt: Prompt, order: list[str]) -> str:
    running = (prompt[node_id] for node_id in order)
    nodes = sorted([node["class_type"], *sorted(_models(node))] for node in running)
    return hashlib.sha256(json.dumps(nodes).encode()).hexdigest()


def _models(node: Node) -> list[str]:
    texts = [value for value in node["inputs"].values() if isinstance(value, str)]
    return [text for text in texts if PurePosixPath(text).suffix.lower() in MODEL_SUFFIXES]
