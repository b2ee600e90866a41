"""The prompts of a cut, from where its nodes run."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ...types import JsonValue
from ..graph import links
from ..interface import REMOTE_INPUT, REMOTE_OUTPUT
from ..prompt import Node, Place, Prompt, with_inputs
from .crossing import Source
from .parts import Group
from .plan import Crossing, Cut, Part, part_node, shown_node
from .sides import HERE, Sides

if TYPE_CHECKING:
    from ...media.values import ImageFormat

__all__ = ["build"]

_BYTES_A_VALUE = 4  # float32
_IMAGE_FORMATS = {"png": "8-bit PNG", "webp": "8-bit lossless WebP"}


def build(
    sides: Sides, groups: Sequence[Group], outputs: Sequence[str], images: ImageFormat = "exact"
) -> Cut:
    """The prompt that runs here and those that run elsewhere, one for each group."""
    builder = _Builder(sides, groups, images)
    parts = tuple(map(builder.part, groups))
    notes = [*sides.notes]
    if images != "exact" and any(
        one.type == "IMAGE" for part in parts for one in (*part.inputs, *part.outputs)
    ):
        notes.append(
            f"Pictures cross as {_IMAGE_FORMATS[images]}: each value becomes the nearest of 256, "
            "so the result is not bit for bit that of running the whole in one place."
        )
    return Cut(builder.local(parts), tuple(outputs), parts, tuple(notes), images)


class _Builder:
    def __init__(self, sides: Sides, groups: Sequence[Group], images: ImageFormat) -> None:
        self._sides = sides
        self._images = images
        self._values = sides.around.values
        self._prompt = sides.around.prompt
        here = [n for n, side in sides.home.items() if side is HERE]
        self._here = self._with_objects(here)
        self._inside = {group: self._with_objects(group) for group in groups}

    def part(self, group: Group) -> Part:
        inside = self._inside[group]
        inputs = self._crossings(inside, not_from=inside)
        takers = [self._here, *(ids for other, ids in self._inside.items() if other != group)]
        outputs = self._crossings([n for ids in takers for n in ids], only_from=group)
        known = self._sides.around.known
        classes = {n: known.get(self._prompt[n]["class_type"]) for n in group}
        saves = [n for n, schema in classes.items() if schema is not None and schema.output_node]
        last = saves[-1] if saves else group[-1]
        return Part(
            name=self._sides.home[last] or "",
            node_id=last,
            prompt=self._part_prompt(inside, inputs, outputs),
            nodes=group,
            copies=tuple(n for n in inside if n not in group),
            inputs=inputs,
            outputs=outputs,
            saves=tuple(saves),
        )

    def local(self, parts: Iterable[Part]) -> Prompt:
        results: dict[Source, Source] = {
            (one.node_id, one.output): (part.node_id, index)
            for part in parts
            for index, one in enumerate(part.outputs)
        }
        parts_by_node = {part.node_id: part for part in parts}
        shown = {node_id: part for part in parts for node_id in part.saves}
        here = set(self._here)
        local: Prompt = {}
        for node_id in self._prompt:
            if node_id in here:
                local[node_id] = self._relinked(node_id, results)
            elif part := parts_by_node.get(node_id):
                stand_in = part_node(part, self._images)
                for index, one in enumerate(part.inputs):
                    source = (one.node_id, one.output)
                    stand_in["inputs"][f"value_{index}"] = [*results.get(source, source)]
                local[node_id] = stand_in
            elif node_id in shown:
                local[node_id] = shown_node(shown[node_id], node_id)
        return local

    def _with_objects(self, nodes: Sequence[str]) -> list[str]:
        together = {*nodes, *self._sides.objects(nodes)}
        return [n for n in self._sides.around.ordered if n in together]

    def _crossings(
        self,
        takers: Iterable[str],
        *,
        only_from: Container[str] | None = None,
        not_from: Container[str] = (),
    ) -> tuple[Crossing, ...]:
        """The values that these nodes take from elsewhere, each once.

        Their order does not depend on other nodes of the prompt, so that the part stays the same.
        """
        found: dict[Source, dict[Place, None]] = {}
        for taker in takers:
            for name, node_id, index in links(self._prompt[taker]):
                if node_id not in not_from and (only_from is None or node_id in only_from):
                    source = self._values.source(node_id, index)
                    found.setdefault(source, {})[taker, name] = None
        return tuple(
            Crossing(
                key=f"{source[0]}.{source[1]}",
                node_id=source[0],
                output=source[1],
                type=self._values.type(source),
                to=tuple(places),
                size=self._size(source),
            )
            for source, places in sorted(found.items())
        )

    def _size(self, source: Source) -> int | None:
        size = self._values.size(source)
        if size is not None and self._images != "exact" and self._values.type(source) == "IMAGE":
            return size // _BYTES_A_VALUE  # before they are compressed
        return size

    def _part_prompt(
        self, inside: Sequence[str], inputs: Sequence[Crossing], outputs: Sequence[Crossing]
    ) -> Prompt:
        received: Prompt = {
            self._boundary_id("input", index): {
                "class_type": REMOTE_INPUT,
                "inputs": {"key": one.key},
            }
            for index, one in enumerate(inputs)
        }
        replaced: dict[Source, Source] = {
            (one.node_id, one.output): (node_id, 0)
            for one, node_id in zip(inputs, received, strict=True)
        }
        nodes = set(inside)
        sent: Prompt = {
            self._boundary_id("output", index): {
                "class_type": REMOTE_OUTPUT,
                "inputs": {"value": [one.node_id, one.output], "key": one.key},
            }
            for index, one in enumerate(outputs)
        }
        own = {n: self._relinked(n, replaced) for n in self._prompt if n in nodes}
        return {**received, **own, **sent}

    def _boundary_id(self, way: str, index: int) -> str:
        """An id that no node of the prompt has."""
        node_id = f"remote_{way}_{index}"
        while node_id in self._prompt:
            node_id += "_"
        return node_id

    def _relinked(self, node_id: str, replaced: Mapping[Source, Source]) -> Node:
        """The node, with its links to what runs elsewhere moved to what stands for it."""
        node = self._prompt[node_id]
        changed: dict[Place, JsonValue] = {
            (node_id, name): [*found]
            for name, source, index in links(node)
            if (found := replaced.get(self._values.source(source, index))) is not None
        }
        return with_inputs({node_id: node}, changed)[node_id]
