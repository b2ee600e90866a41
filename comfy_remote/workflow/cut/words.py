"""Nodes and targets in sentences for people, and the error of a cut that cannot be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...errors import CutImpossible
from ..check.rules import node_error
from ..prompt import Prompt

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["at", "impossible", "listed"]

_MOST_SHOWN = 8


def listed(prompt: Prompt, nodes: Iterable[str]) -> str:
    """``3 (KSampler), 8 (VAE Decode)``; the first few of many."""
    shown = []
    for node_id in nodes:
        node = prompt[node_id]
        shown.append(f"{node_id} ({node.get('_meta', {}).get('title') or node['class_type']})")
    more = len(shown) - _MOST_SHOWN
    return ", ".join(shown[:_MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")


def at(name: str) -> str:
    """``on NAME``; a target without a name is the one that the Remote switch has."""
    return f"on {name}" if name else "on the target"


def impossible(
    prompt: Prompt, message: str, advice: str, nodes: Iterable[str], reason: str
) -> CutImpossible:
    """The error for nodes that cannot run as they are marked.

    Args:
        reason: The same for each of the nodes alone, as the page shows it there.
    """
    node_errors: dict[str, JsonValue] = {
        node_id: {
            "class_type": prompt[node_id]["class_type"],
            "errors": [node_error("cut_impossible", reason, "")],
            "dependent_outputs": [],
        }
        for node_id in nodes
    }
    return CutImpossible(message, advice=advice, details={"node_errors": node_errors})
