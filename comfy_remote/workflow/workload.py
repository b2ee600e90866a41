"""How much work a prompt is, node by node, and which prompts are alike in that.

A guess from the document alone, good enough to compare runs of the same workflow: samplers cost
steps x megapixels x pictures, every other node a fixed part and one that grows with its pictures.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import PurePosixPath

from ..data_class import dataclass
from ..errors import WorkflowInvalid
from ..types import JsonValue
from .change.sources import Sources
from .graph import execution_order, linked_node, output_nodes, sources_of
from .models import MODEL_SUFFIXES
from .prompt import Node, Prompt

__all__ = ["Amount", "NodeWork", "Workload", "mostly_cached", "workload_of"]

_PIXELS = 1_000_000
_MOST = 1e6
"""Larger numbers of a prompt count as this, so that one out of range does not outweigh all."""
_NEAR = 500
"""How many nodes before a sampler are searched for its sigmas; no real chain is longer."""
_FRAMES_PER_LATENT = 4  # as today's video models pack them
_FIXED = 0.1
"""The least that a step, or a node that does not sample, costs."""

# Links to the picture, latent or sound that a node works on, the likeliest first: its other links
# (a mask, a control picture) may be of another size.
_WORKED_ON = (
    *("latent_image", "samples", "latent", "latents", "pixels", "image", "images"),
    *("video_latent", "audio_latent", "audio", "video"),
)
_FRAMES = ("length", "num_frames", "frames", "video_frames", "frame_count")
_REPEATED = ("amount", "multiplier")
_SCALED = ("scale_by", "upscale_by")


@dataclass(frozen=True, slots=True)
class Amount:
    """How much a node works on. What is not known counts as 1.

    Attributes:
        pixels: Of one picture; ``None`` if unknown (a loaded picture).
        frames: Of a video.
        batch: Pictures, videos or sounds at once.
        seconds: Of a sound.
    """

    pixels: float | None = None
    frames: float = 1.0
    batch: float = 1.0
    seconds: float = 1.0

    @property
    def megapixels(self) -> float:
        """In all, frames counted as video models pack them."""
        one = 1.0 if self.pixels is None else self.pixels / _PIXELS
        latents = math.ceil(self.frames / _FRAMES_PER_LATENT)
        return min(_MOST, one * latents * self.batch * self.seconds)


@dataclass(frozen=True, slots=True)
class NodeWork:
    """One node's share: 1.0 is one sampler step, or any other node, on one megapixel."""

    node_id: str
    work: float
    steps: float | None = None
    amount: Amount = Amount()


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of a prompt.

    Attributes:
        shape: 64 hex digits, equal for prompts with the same node classes and models, whatever
            their texts, seeds, sizes, steps and node ids.
        nodes: Those that run, in a possible order.
        work: The sum over the nodes.
    """

    shape: str
    nodes: tuple[NodeWork, ...]
    work: float

    def changes_from(self, other: Workload) -> list[str]:
        """What makes it more or less work than another of its shape: ``steps 20 → 40``.

        For the node whose work differs most.
        """
        if not self.nodes or len(self.nodes) != len(other.nodes):
            return []
        now, then = max(
            zip(self.nodes, other.nodes, strict=True),
            key=lambda two: abs(two[0].work - two[1].work),
        )
        pairs = (
            ("steps", then.steps, now.steps),
            ("pixels", then.amount.pixels, now.amount.pixels),
            ("frames", then.amount.frames, now.amount.frames),
            ("batch", then.amount.batch, now.amount.batch),
            ("seconds", then.amount.seconds, now.amount.seconds),
        )
        return [
            f"{name} {_shown(before)} → {_shown(after)}"
            for name, before, after in pairs
            if before is not None and after is not None and before != after
        ]


def workload_of(prompt: Prompt) -> Workload:
    """The work of a prompt. Never fails: unknown amounts count as a small picture."""
    # A node by itself (a text that only people and `repo_list` read) does not run.
    ends = [
        node_id
        for node_id in output_nodes(prompt)
        if not prompt.keys().isdisjoint(sources_of(prompt[node_id]))
    ]
    try:
        order = execution_order(prompt, ends or list(prompt))
    except WorkflowInvalid:
        order = list(prompt)  # the target will say what is wrong with it
    sources = Sources(prompt)
    scheduled = _steps_by_sampler(prompt)
    schedulers = set(scheduled.values())
    amounts: dict[str, Amount] = {}
    nodes = []
    for node_id in order:
        amount = amounts[node_id] = _amount(prompt, sources, node_id, amounts)
        steps = None
        if node_id not in schedulers:  # its steps are its sampler's
            steps = _steps(prompt, sources, scheduled.get(node_id, node_id))
        nodes.append(_work_of(node_id, steps, amount))
    work = math.fsum(node.work for node in nodes)
    return Workload(_shape(prompt, order), tuple(nodes), work)


def mostly_cached(prompt: Prompt, cached: JsonValue) -> bool:
    """Whether less than half of a prompt's work was left to a run.

    Args:
        cached: The ids of the nodes whose results ComfyUI still had, if it tells them.
    """
    if not isinstance(cached, list) or not cached:
        return False
    workload = workload_of(prompt)
    ran = sum(node.work for node in workload.nodes if node.node_id not in cached)
    return ran < workload.work / 2


def _work_of(node_id: str, steps: float | None, amount: Amount) -> NodeWork:
    if steps is None:
        work = _FIXED + (1 - _FIXED) * amount.megapixels
    else:
        work = steps * max(_FIXED, amount.megapixels)
    return NodeWork(node_id, work, steps, amount)


def _steps_by_sampler(prompt: Prompt) -> dict[str, str]:
    """Samplers that get their ``sigmas`` from another node, and the node that has the steps."""
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


def _amount(prompt: Prompt, sources: Sources, node_id: str, known: dict[str, Amount]) -> Amount:
    """What a node works on: what it says itself, else what it is linked to."""
    inputs = prompt[node_id]["inputs"]

    def number(*names: str) -> float | None:
        found = (_number(prompt, sources, node_id, name) for name in names)
        return next((one for one in found if one is not None), None)

    amount = _worked_on(prompt, inputs, known)
    width, height, megapixels = number("width"), number("height"), number("megapixels")
    if width and height:
        amount = replace(amount, pixels=width * height)
    elif megapixels:
        amount = replace(amount, pixels=megapixels * _PIXELS)
    elif (factor := number(*_SCALED)) and amount.pixels:
        amount = replace(amount, pixels=amount.pixels * factor**2)
    return replace(
        amount,
        frames=number(*_FRAMES) or amount.frames,
        batch=number("batch_size") or min(_MOST, amount.batch * (number(*_REPEATED) or 1.0)),
        seconds=number("seconds") or amount.seconds,
    )


def _worked_on(prompt: Prompt, inputs: dict[str, JsonValue], known: dict[str, Amount]) -> Amount:
    """The amount behind the link to what is worked on; else the most behind any link."""
    for name in _WORKED_ON:
        link = linked_node(prompt, inputs.get(name))
        if link is not None and link[0] in known:
            return known[link[0]]
    links = (linked_node(prompt, value) for value in inputs.values())
    behind = [known[link[0]] for link in links if link is not None and link[0] in known]
    return max(behind, key=lambda one: (one.pixels is not None, one.megapixels), default=Amount())


def _number(prompt: Prompt, sources: Sources, node_id: str, name: str) -> float | None:
    """A positive number of an input, through links to primitives."""
    if name not in prompt[node_id]["inputs"]:
        return None
    value = sources.number_at((node_id, name))
    # Compared before it is made a float: JSON's integers have no largest one.
    return float(min(value, _MOST)) if value is not None and value > 0 else None


def _shape(prompt: Prompt, order: list[str]) -> str:
    running = (prompt[node_id] for node_id in order)
    nodes = sorted([node["class_type"], *sorted(_models(node))] for node in running)
    return hashlib.sha256(json.dumps(nodes).encode()).hexdigest()


def _models(node: Node) -> list[str]:
    texts = [value for value in node["inputs"].values() if isinstance(value, str)]
    return [text for text in texts if PurePosixPath(text).suffix.lower() in MODEL_SUFFIXES]


def _shown(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) else f"{number:g}"
