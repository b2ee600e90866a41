"""The prompt as a graph: in what order its nodes run, and which results are cached."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from ..workflow.prompt import Node, Prompt, is_link
from .folders import Folders
from .nodes import NODES

__all__ = ["CachedResult", "execution_order", "links", "signatures"]


def links(node: Node) -> dict[str, tuple[str, int]]:
    """``{input: (node id, output index)}`` of a node that has been validated.

    Inputs that the node's class does not know are ignored: they have not been validated.
    """
    found: dict[str, tuple[str, int]] = {}
    for entry in NODES[node["class_type"]].schema.inputs:
        value = node["inputs"].get(entry.name)
        if is_link(value):
            found[entry.name] = (str(value[0]), int(str(value[1])))
    return found


def execution_order(
    prompt: Prompt, outputs: Sequence[str], stop_at: Collection[str] = ()
) -> list[str]:
    """The nodes that ``outputs`` need, each after the nodes it is linked to.

    Args:
        prompt: Without cycles.
        stop_at: Nodes whose own inputs are not needed.
    """
    order: dict[str, None] = {}
    # A pair on the stack is a node, and whether the nodes before it are in place.
    stack = [(node_id, False) for node_id in reversed(outputs)]
    while stack:
        node_id, ready = stack.pop()
        if node_id in order:
            continue
        if ready or node_id in stop_at:
            order[node_id] = None
            continue
        stack.append((node_id, True))
        sources = [source for source, _ in links(prompt[node_id]).values()]
        stack += [(source, False) for source in reversed(sources)]
    return list(order)


@dataclass(frozen=True, slots=True)
class CachedResult:
    """What a node gave, and what the history shows of it.

    Attributes:
        values: The node's outputs; each is a list, which mostly has one item.
        ui: What it shows; ``None`` when it shows nothing.
        meta: Which node it was; goes into the history with ``ui``.
    """

    values: Sequence[list[object]]
    ui: Mapping[str, JsonValue] | None
    meta: Mapping[str, JsonValue]


def signatures(prompt: Prompt, node_ids: Sequence[str], folders: Folders) -> dict[str, str]:
    """What each node's result depends on: its class and inputs, and those of all before it.

    Args:
        node_ids: In an order where each node comes after the nodes it is linked to.
    """
    known: dict[str, str] = {}
    for node_id in node_ids:
        node = prompt[node_id]
        sources = links(node)
        literals = {name: v for name, v in node["inputs"].items() if name not in sources}
        linked = {name: [known[source], index] for name, (source, index) in sources.items()}
        try:
            fingerprint = NODES[node["class_type"]].fingerprint(folders, node["inputs"])
        except (OSError, ValueError):
            # The file has gone since the prompt was checked. Running the node will say so.
            fingerprint = uuid.uuid4().hex
        text = json.dumps([node["class_type"], fingerprint, literals, linked], sort_keys=True)
        known[node_id] = hashlib.sha256(text.encode()).hexdigest()
    return known
