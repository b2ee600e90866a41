"""The prompt as a graph: which nodes run, in what order, what is linked to what.

ComfyUI starts from the output nodes and runs what these need. A node that feeds no output is
neither run nor checked.

Source of facts: ComfyUI's ``execution.py`` (``validate_prompt``) and ``comfy_execution/graph.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

from ..errors import WorkflowInvalid
from ..types import JsonValue
from .prompt import Node, Prompt, is_link
from .schema import Schemas

__all__ = [
    "consumers",
    "cycles",
    "execution_order",
    "find_cycle",
    "linked_node",
    "links",
    "needed_nodes",
    "output_nodes",
    "sources_of",
]

_Item = TypeVar("_Item", bound=Hashable)


def links(node: Node) -> Iterator[tuple[str, str, JsonValue]]:
    """``(input, id of the source, index of its output)`` of each link, even a broken one."""
    for name, value in node["inputs"].items():
        if is_link(value):
            yield name, str(value[0]), value[1]


def sources_of(node: Node) -> list[str]:
    """The ids that a node is linked to, one for each link."""
    return [source for _, source, _ in links(node)]


def linked_node(prompt: Prompt, value: JsonValue) -> tuple[str, int] | None:
    """Node and output of a link; ``None`` if it is not a link, or leads nowhere."""
    if not is_link(value) or value[0] not in prompt:
        return None
    return str(value[0]), int(value[1]) if isinstance(value[1], int | float) else 0


def output_nodes(prompt: Prompt, schemas: Schemas | None = None) -> list[str]:
    """The ids of the nodes that a run is started for, in the order of the prompt.

    If no schema says whether a class is an output, a node is one if no other is linked to it.
    """
    linked_to = {source for node in prompt.values() for source in sources_of(node)}
    found = []
    for node_id, node in prompt.items():
        schema = schemas.get(node["class_type"]) if schemas is not None else None
        said = schema.output_node if schema is not None else None
        if node_id not in linked_to if said is None else said:
            found.append(node_id)
    return found


def needed_nodes(prompt: Prompt, outputs: Iterable[str]) -> list[str]:
    """The outputs and all that they need, in the order of the prompt. Broken links are ignored."""
    found: set[str] = set()
    waiting = [output for output in outputs if output in prompt]
    while waiting:
        node_id = waiting.pop()
        if node_id not in found:
            found.add(node_id)
            waiting += [source for source in sources_of(prompt[node_id]) if source in prompt]
    return [node_id for node_id in prompt if node_id in found]


def execution_order(prompt: Prompt, outputs: Iterable[str]) -> list[str]:
    """The outputs and all that they need, each after those it is linked to.

    Raises:
        WorkflowInvalid: The links form a cycle, or one leads to a missing node.
    """
    ordered: list[str] = []
    done: set[str] = set()
    # Its own stack: a chain may be longer than Python's.
    for output in outputs:
        if output in done:
            continue
        path = {output: iter(_existing_sources(prompt, output))}
        while path:
            node_id, sources = next(reversed(path.items()))
            source = next((one for one in sources if one not in done), None)
            if source is None:
                del path[node_id]
                done.add(node_id)
                ordered.append(node_id)
            elif source in path:
                around = list(path)
                raise _cycle_error(prompt, [*around[around.index(source) :], source])
            else:
                path[source] = iter(_existing_sources(prompt, source))
    return ordered


def consumers(prompt: Prompt, nodes: Iterable[str]) -> dict[str, list[tuple[str, str, JsonValue]]]:
    """Of each node that any of ``nodes`` is linked to: ``(user, its input, output index)``."""
    found: dict[str, list[tuple[str, str, JsonValue]]] = {}
    for node_id in nodes:
        for name, source, index in links(prompt[node_id]):
            found.setdefault(source, []).append((node_id, name, index))
    return found


def cycles(prompt: Prompt, nodes: Iterable[str]) -> Iterator[list[str]]:
    """Cycles of links, each node in one at most; a node comes before those it needs."""
    left = dict.fromkeys(nodes)
    while left:
        # A node that needs none of those left is in no cycle.
        free = [n for n in left if left.keys().isdisjoint(sources_of(prompt[n]))]
        if free:
            _remove(prompt, left, free)
            continue
        path: dict[str, None] = {}
        node_id = next(iter(left))
        while node_id not in path:
            path[node_id] = None
            node_id = next(s for s in sources_of(prompt[node_id]) if s in left)
        around = list(path)
        cycle = around[around.index(node_id) :]
        yield cycle
        for member in cycle:
            del left[member]


def find_cycle(needs: Mapping[_Item, Collection[_Item]]) -> list[_Item] | None:
    """Items that need each other in a cycle, each once; ``None`` if none do."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        found: list[_Item] = error.args[1]
        return found[1:]  # the first is the last again
    return None


def _remove(prompt: Prompt, left: dict[str, None], free: list[str]) -> None:
    """Remove nodes, and those that needed only them, and so on: in time linear in the links."""
    users = consumers(prompt, left)
    needs = {n: sum(s in left for s in sources_of(prompt[n])) for n in left}
    while free:
        node_id = free.pop()
        del left[node_id]
        for user, _, _ in users.get(node_id, ()):
            needs[user] -= 1
            if needs[user] == 0:
                free.append(user)


def _existing_sources(prompt: Prompt, node_id: str) -> list[str]:
    sources = sources_of(prompt[node_id])
    for source in sources:
        if source not in prompt:
            raise WorkflowInvalid(
                f"Node {node_id} ({prompt[node_id]['class_type']}) is linked to node {source}, "
                "which is not there.",
                advice="Connect it again in ComfyUI and export the workflow again.",
                details={"node_id": node_id},
            )
    return sources


def _cycle_error(prompt: Prompt, node_ids: list[str]) -> WorkflowInvalid:
    shown = [f"{node_id} ({prompt[node_id]['class_type']})" for node_id in node_ids[:12]]
    return WorkflowInvalid(
        f"The links form a cycle: {' needs '.join(shown)}.",
        advice="Cut one of these links in ComfyUI.",
        details={"nodes": list(node_ids[:-1])},
    )
