"""The prompt as a graph: which nodes need which, and in what order they run."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..workflow.prompt import Node, Prompt, is_link
from .nodes.registry import NODES

__all__ = ["execution_order", "links"]


def links(node: Node) -> dict[str, tuple[str, int]]:
    """``{input: (node id, output index)}`` of a node that has been validated.

    Inputs that the node's class does not know are not looked at; nobody has validated them.
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
        prompt: Has no cycle.
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
