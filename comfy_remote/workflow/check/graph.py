"""Links of a prompt that may be broken: which nodes run, which go in circles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..prompt import Node, Prompt, is_link

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["consumers", "cycles", "links", "live_nodes"]


def links(node: Node) -> Iterator[tuple[str, str, JsonValue]]:
    """``(input, id of the source, index of its output)`` of each link, whole or broken."""
    for name, value in node["inputs"].items():
        if is_link(value):
            yield name, str(value[0]), value[1]


def live_nodes(prompt: Prompt, outputs: Iterable[str]) -> list[str]:
    """The outputs and all that they need, in the order of the prompt. Broken links lead nowhere."""
    found: set[str] = set()
    waiting = [output for output in outputs if output in prompt]
    while waiting:
        node_id = waiting.pop()
        if node_id not in found:
            found.add(node_id)
            waiting += [source for _, source, _ in links(prompt[node_id]) if source in prompt]
    return [node_id for node_id in prompt if node_id in found]


def consumers(prompt: Prompt, nodes: Iterable[str]) -> dict[str, list[tuple[str, str, JsonValue]]]:
    """Of each node that any of ``nodes`` is linked to: ``(user, its input, output index)``."""
    found: dict[str, list[tuple[str, str, JsonValue]]] = {}
    for node_id in nodes:
        for name, source, index in links(prompt[node_id]):
            found.setdefault(source, []).append((node_id, name, index))
    return found


def cycles(prompt: Prompt, nodes: Iterable[str]) -> Iterator[list[str]]:
    """Circles of links, each node in one circle at most; a node comes before what it needs."""
    left = dict.fromkeys(nodes)
    while left:
        # What needs nothing that is left is in no circle.
        free = [n for n in left if not any(s in left for _, s, _ in links(prompt[n]))]
        if free:
            _take_away(prompt, left, free)
            continue
        path: dict[str, None] = {}
        node_id = next(iter(left))
        while node_id not in path:
            path[node_id] = None
            node_id = next(s for _, s, _ in links(prompt[node_id]) if s in left)
        around = list(path)
        circle = around[around.index(node_id) :]
        yield circle
        for member in circle:
            del left[member]


def _take_away(prompt: Prompt, left: dict[str, None], free: list[str]) -> None:
    """Remove nodes, and those that needed only them, and so on: in time linear in the links."""
    users = consumers(prompt, left)
    needs = {n: sum(s in left for _, s, _ in links(prompt[n])) for n in left}
    while free:
        node_id = free.pop()
        del left[node_id]
        for user, _, _ in users.get(node_id, ()):
            needs[user] -= 1
            if needs[user] == 0:
                free.append(user)
