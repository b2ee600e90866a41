"""Every seed there is: ``seed``, ``noise_seed`` and the like, through primitives and links."""

from __future__ import annotations

import random
from collections.abc import Iterator

from ...advice import Hint
from ...errors import WorkflowInvalid
from ..prompt import Prompt
from .settings import Place
from .sources import Sources

__all__ = ["find_seeds", "has_seeds", "parse_seed"]

MAX_SEED = 2**64 - 1
# Many nodes that call a service take no more than 31 bits.
_MAX_RANDOM = 2**31 - 1


def parse_seed(text: str) -> int:
    """A seed as a person types it: a number from 0 to 2⁶⁴-1, or ``random``.

    Raises:
        WorkflowInvalid: It is neither.
    """
    if text.strip().lower() == "random":
        return random.randint(0, _MAX_RANDOM)
    if text.strip().isascii() and text.strip().isdigit() and len(text) <= 20:
        seed = int(text)
        if seed <= MAX_SEED:
            return seed
    raise WorkflowInvalid(
        f"{text!r} is no seed.", advice=f"Give a whole number from 0 to {MAX_SEED}, or random."
    )


def has_seeds(prompt: Prompt) -> bool:
    """Whether there is any."""
    return any(True for _ in _seed_inputs(prompt))


def find_seeds(prompt: Prompt) -> list[Place]:
    """Where the seeds are.

    A seed that is linked to a primitive is set there, one that is computed at its sampler.

    Raises:
        WorkflowInvalid: There is none.
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


def _seed_inputs(prompt: Prompt) -> Iterator[Place]:
    for node_id, node in prompt.items():
        for key, value in node["inputs"].items():
            if _is_seed(key.rpartition(".")[2].casefold()) and not isinstance(value, bool | dict):
                yield node_id, key


def _is_seed(name: str) -> bool:
    """``seed``, ``noise_seed``, ``model_seed``; but not the seed of a variation on another."""
    return name == "seed" or (name.endswith("_seed") and not name.startswith("var"))
