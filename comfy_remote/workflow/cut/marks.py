"""Which nodes of a workflow are marked to run elsewhere.

A mark is ``{"comfy_remote": {"part": NAME}}``: the name of a target, or "" for the one that the
Remote switch has. It stands in ``properties`` of a node, or in ``flags`` of a group, which is
where the editor keeps what others put on a group. On a group or an instance of a subgraph it is
for all inside; inner marks take precedence, and a name of ``null`` means: not elsewhere.

Source of facts: ComfyUI's frontend 1.49.6 (`LGraphGroup`, `LGraphNode.measure`) for which nodes
are inside of a group, and for the ids of nodes in subgraphs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from ...types import JsonValue, mapping, mappings
from ..json_document import graphs_in
from ..prompt import Prompt

if TYPE_CHECKING:
    from ...media.values import ImageFormat

__all__ = ["MARK", "images_in", "marked_nodes", "marks_in"]

MARK: Final = "comfy_remote"

_TITLE_HEIGHT = 30.0
_COLLAPSED_WIDTH = 80.0
_DEEPEST = 100
_MOST_NODES = 100_000


@dataclass(frozen=True, slots=True)
class _Mark:
    """``name`` is ``None`` for a node that must not run elsewhere."""

    name: str | None


@dataclass(frozen=True, slots=True)
class _Group:
    mark: _Mark
    left: float
    top: float
    width: float
    height: float

    def holds(self, x: float, y: float) -> bool:
        return self.left <= x < self.left + self.width and self.top <= y < self.top + self.height


def marks_in(workflow: Mapping[str, JsonValue]) -> dict[str, str]:
    """The marks of a workflow in UI format: ``{id in the prompt: name of the target}``.

    Malformed marks are ignored. Notes and the like may be among the nodes.
    """
    definitions = {str(one.get("id")): one for one in graphs_in(workflow) if one is not workflow}
    found: dict[str, str] = {}
    # Limited, since subgraphs may contain each other and themselves.
    for node_id, mark in islice(_marks(workflow, definitions, None, "", 0), _MOST_NODES):
        if mark is not None and mark.name is not None:
            found[node_id] = mark.name
    return found


def images_in(workflow: Mapping[str, JsonValue]) -> ImageFormat:
    """How pictures cross, by ``extra.comfy_remote.images`` of a workflow in UI format."""
    extra = workflow.get("extra")
    ours = extra.get(MARK) if isinstance(extra, dict) else None
    match ours.get("images") if isinstance(ours, dict) else None:
        case "png":
            return "png"
        case "webp":
            return "webp"
        case _:
            return "exact"


def marked_nodes(prompt: Prompt, marks: Mapping[str, str]) -> dict[str, str]:
    """The marks of the nodes that a prompt has.

    A mark of a node that the prompt has in pieces (a group node ``12``: ``12:0``, ``12:1``) is
    for all of them.
    """
    found: dict[str, str] = {}
    for node_id in prompt:
        marked = node_id
        while marked and marked not in marks:
            marked = marked.rpartition(":")[0]
        if marked:
            found[node_id] = marks[marked]
    return found


def _marks(
    graph: Mapping[str, JsonValue],
    definitions: Mapping[str, Mapping[str, JsonValue]],
    outer: _Mark | None,
    prefix: str,
    depth: int,
) -> Iterator[tuple[str, _Mark | None]]:
    """Every node that is looked at; those with something inside have no mark of their own."""
    groups = sorted(_groups(graph), key=lambda group: group.width * group.height)
    for node in mappings(graph.get("nodes")):
        identity = node.get("id")
        if isinstance(identity, bool) or not isinstance(identity, int | str):
            continue
        x, y = _centre(node)
        around = next((group.mark for group in groups if group.holds(x, y)), outer)
        mark = _mark(mapping(node.get("properties"))) or around
        node_id = f"{prefix}{identity}"
        inside = definitions.get(str(node.get("type")))
        if inside is not None and depth < _DEEPEST:
            yield node_id, None
            yield from _marks(inside, definitions, mark, f"{node_id}:", depth + 1)
        else:
            yield node_id, mark


def _groups(graph: Mapping[str, JsonValue]) -> Iterator[_Group]:
    for group in mappings(graph.get("groups")):
        mark = _mark(mapping(group.get("flags")))
        bounds = _numbers(group.get("bounding"), 4)
        if mark is not None and bounds is not None:
            yield _Group(mark, *bounds)


def _mark(holder: Mapping[str, JsonValue]) -> _Mark | None:
    mark = holder.get(MARK)
    if not isinstance(mark, dict) or "part" not in mark:
        return None
    name = mark["part"]
    return _Mark(name) if name is None or isinstance(name, str) else None


def _centre(node: Mapping[str, JsonValue]) -> tuple[float, float]:
    """The centre of a node's box, its title bar included."""
    x, y = _numbers(node.get("pos"), 2) or (0.0, 0.0)
    if mapping(node.get("flags")).get("collapsed") is True:
        return x + _COLLAPSED_WIDTH / 2, y - _TITLE_HEIGHT / 2
    width, height = _numbers(node.get("size"), 2) or (0.0, 0.0)
    return x + width / 2, y + (height - _TITLE_HEIGHT) / 2


def _numbers(value: JsonValue, count: int) -> list[float] | None:
    """Some numbers, from a list or from an object with the keys "0", "1", …"""
    if isinstance(value, dict):
        value = [value.get(str(index)) for index in range(count)]
    if not isinstance(value, list) or len(value) < count:
        return None
    numbers = [
        float(one) for one in value[:count] if isinstance(one, int | float) and abs(one) < 1e12
    ]
    return numbers if len(numbers) == count else None
