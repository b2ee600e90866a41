"""Group nodes, the predecessors of subgraphs: what one looks like from outside.

A group node shows the inputs, widgets and outputs of the nodes in it that are not linked among
themselves, under names that are made unique. Its values are saved by position, so names and order
are the editor's own.

Source of facts: ComfyUI's frontend 1.27.10, the last generation that runs group nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from ...errors import WorkflowInvalid
from ...types import JsonValue, as_list, mapping
from ..schema import InputSchema, NodeSchema, Schemas
from .document import SavedNode, read_node
from .doubts import invalid
from .virtual import PRIMITIVE, REROUTE, VIRTUAL
from .widgets import has_widget

__all__ = ["GroupType", "InnerLink", "group_name", "read_group"]

_PREFIXES = ("workflow>", "workflow/")
_MEDIA = ("image_upload", "video_upload", "animated_image_upload")


class InnerLink(NamedTuple):
    """A link between two nodes of a group, which are named by their places in it."""

    origin: int
    origin_slot: int
    target: int
    target_slot: int
    type: str


def group_name(node_type: str) -> str | None:
    """The name of the group that a node is an instance of; ``None`` if it is not a group node."""
    return node_type[len(_PREFIXES[0]) :] if node_type.startswith(_PREFIXES) else None


@dataclass(frozen=True, slots=True)
class GroupType:
    """A group node's definition.

    Attributes:
        nodes: Their ids are their places.
        schema: Of its instances.
        inputs: Where an instance's inputs and widgets lead: place and input, by outer name.
        outputs: Where an instance's outputs come from: place and output, in order.
    """

    nodes: list[SavedNode]
    links: list[InnerLink]
    schema: NodeSchema
    inputs: dict[str, tuple[int, str]]
    outputs: list[tuple[int, int]]


def read_group(name: str, raw: JsonValue, schemas: Schemas) -> GroupType:
    """Read a definition from ``extra.groupNodes``.

    Raises:
        WorkflowInvalid: It is not a definition, or a node in it has an unknown class, or is a
            group node itself.
    """
    where = f"the group node {name!r}"
    raw = mapping(raw)
    raw_nodes = raw.get("nodes")
    if not isinstance(raw_nodes, list):
        raise WorkflowInvalid(f"The file does not say what is in {where}.")
    nodes = [
        read_node({**node, "id": place} if isinstance(node, dict) else node, place, where)
        for place, node in enumerate(raw_nodes)
    ]
    layout = _Layout(nodes, raw, schemas)
    for node in nodes:
        layout.add(node)
    layout.add_converted()
    return GroupType(
        nodes,
        layout.links,
        NodeSchema(
            name=f"{_PREFIXES[0]}{name}",
            title=name,
            inputs=tuple(layout.specs.values()),
            declared=tuple(layout.specs.values()),
            outputs=tuple(layout.output_types),
        ),
        layout.inputs,
        layout.outputs,
    )


class _Layout:
    """Names and orders the inputs and outputs of a group node."""

    def __init__(self, nodes: list[SavedNode], raw: dict[str, JsonValue], schemas: Schemas) -> None:
        self.nodes = nodes
        self.links = list(_links(raw.get("links"), len(nodes)))
        self.specs: dict[str, InputSchema] = {}
        self.inputs: dict[str, tuple[int, str]] = {}
        self.outputs: list[tuple[int, int]] = []
        self.output_types: list[str] = []
        self._schemas = schemas
        self._config = raw.get("config")
        self._external = _external(raw.get("external"))
        self._to = {(link.target, link.target_slot): link for link in self.links}
        self._from: dict[tuple[int, int], list[InnerLink]] = {}
        for link in self.links:
            self._from.setdefault((link.origin, link.origin_slot), []).append(link)
        self._seen: dict[str, int] = {}
        self._primitives: dict[int, str] = {}
        self._converted: list[tuple[SavedNode, list[InputSchema], int]] = []

    def add(self, node: SavedNode) -> None:
        """Show what is open of a node: widgets, inputs, outputs."""
        place = int(node.id)
        known = self._class_of(node, place)
        if known is None:
            return
        declared, outputs = known
        widgets = {slot.name: i for i, slot in enumerate(node.inputs) if slot.widget == slot.name}
        sockets = [spec for spec in declared if not has_widget(spec)]
        for spec in declared:
            if has_widget(spec) and spec.name not in widgets:
                self._show(node, spec)
        for index, spec in enumerate(sockets):
            if (place, index) in self._to:
                self._join(self._to[place, index], spec)
            else:
                self._show(node, spec)
        converted = [spec for spec in declared if has_widget(spec) and spec.name in widgets]
        # The editor sorts their places as texts: 10 comes before 4.
        converted.sort(key=lambda spec: str(widgets[spec.name]))
        self._converted.append((node, converted, len(sockets)))
        self._show_outputs(place, outputs)

    def add_converted(self) -> None:
        """Show the widgets that a file lists among the inputs: after all the others."""
        for node, specs, first in self._converted:
            place = int(node.id)
            for index, spec in enumerate(specs, first):
                if (place, index) in self._to:
                    self._join(self._to[place, index], spec)
                else:
                    self._show(node, spec)

    def _class_of(
        self, node: SavedNode, place: int
    ) -> tuple[list[InputSchema], tuple[str, ...]] | None:
        """Inputs and outputs of a node's class; ``None`` for those that show nothing."""
        schema = self._schemas.get(node.type)
        if schema is not None:
            return list(_with_uploads(schema)), schema.outputs
        used = self._from.get((place, 0), [])
        if node.type == PRIMITIVE:
            if not used:
                return None
            return [InputSchema("value", used[0].type, {})], (used[0].type,)
        if node.type == REROUTE:
            if used and (place, 0) in self._to and (place, 0) not in self._external:
                return None  # it only leads from one node of the group to another
            kind = self._reroute_type(place, used)
            return [InputSchema(kind, kind, {"forceInput": True})], (kind,)
        if node.type in VIRTUAL:
            return None
        if group_name(node.type) is not None:
            raise invalid(node, "it is a group node in a group node")
        raise invalid(
            node,
            "it is in a group node, and its class is unknown here",
            self._schemas.unknown(node.type),
        )

    def _reroute_type(self, place: int, used: list[InnerLink]) -> str:
        for link in used:
            slots = self.nodes[link.target].inputs
            kind = slots[link.target_slot].type if link.target_slot < len(slots) else "*"
            if kind != "*":
                return kind
        before = self._to.get((place, 0))
        if not used and before is not None:
            outputs = self.nodes[before.origin].outputs
            return outputs[before.origin_slot].type if before.origin_slot < len(outputs) else "*"
        return "*" if used else self._external.get((place, 0), "*")

    def _show(self, node: SavedNode, spec: InputSchema) -> None:
        place = int(node.id)
        custom = self._custom(place, "input", spec.name)
        if custom.get("visible") is False and not has_widget(spec):
            return
        name, prefix = self._unique(node, spec.name, custom.get("name"))
        options = dict(spec.options)
        if spec.name in ("seed", "noise_seed"):
            options["control_after_generate"] = f"{prefix}control_after_generate"
        self.specs[name] = replace(spec, name=name, options=options, optional=False)
        self.inputs[name] = (place, spec.name)
        if node.type == PRIMITIVE:
            self._primitives[place] = name

    def _unique(self, node: SavedNode, name: str, custom: JsonValue) -> tuple[str, str]:
        outer = custom if isinstance(custom, str) else name
        key, prefix = outer, ""
        if (node.type == PRIMITIVE and node.title) or outer in self._seen:
            prefix = f"{node.title or node.type} "
            key = outer = f"{prefix}{name}"
            if outer in self._seen:
                outer = f"{prefix}{self._seen[outer]} {name}"
        self._seen[key] = self._seen.get(key, 1) + 1
        return outer, prefix

    def _join(self, link: InnerLink, spec: InputSchema) -> None:
        """A primitive takes on the kind of widget that it is linked to."""
        name = self._primitives.get(link.origin)
        if name is not None:
            options = {**spec.options, "control_after_generate": True}
            self.specs[name] = replace(spec, name=name, options=options, optional=False)

    def _show_outputs(self, place: int, types: Iterable[str]) -> None:
        for index, kind in enumerate(types):
            inside = (place, index) in self._from and (place, index) not in self._external
            visible = self._custom(place, "output", str(index)).get("visible")
            if not inside if visible is None else visible:
                self.outputs.append((place, index))
                self.output_types.append(kind)

    def _custom(self, place: int, side: str, key: str) -> dict[str, JsonValue]:
        """What the user set for an input or output in the editor's dialog."""
        found: JsonValue = self._config
        for step in (str(place), side, key):
            found = mapping(found).get(step)
        return mapping(found)


def _with_uploads(schema: NodeSchema) -> Iterator[InputSchema]:
    """A class's inputs, with the button that the editor adds to those that load a file."""
    required = [spec for spec in schema.inputs if not spec.optional]
    media = any(spec.options.get(option) is True for spec in required for option in _MEDIA)
    yield from required
    if media:
        yield InputSchema("upload", "IMAGEUPLOAD", {})
    yield from (spec for spec in schema.inputs if spec.optional)


def _links(raw: JsonValue, count: int) -> Iterator[InnerLink]:
    """Links among a group's nodes; those from outside have no origin and are left out."""
    for link in as_list(raw):
        ends = as_list(link)[:4]
        numbers = [n for n in ends if isinstance(n, int) and not isinstance(n, bool) and n >= 0]
        if len(numbers) == 4 and numbers[0] < count and numbers[2] < count:
            origin, origin_slot, target, target_slot = numbers
            kind = link[5] if isinstance(link, list) and len(link) > 5 else "*"
            named = kind if isinstance(kind, str) else "*"
            yield InnerLink(origin, origin_slot, target, target_slot, named)


def _external(raw: JsonValue) -> dict[tuple[int, int], str]:
    """The types of outputs that are linked to outside."""
    found: dict[tuple[int, int], str] = {}
    for item in as_list(raw):
        if isinstance(item, list) and len(item) > 2:
            place, index, kind = item[:3]
            if isinstance(place, int) and isinstance(index, int) and isinstance(kind, str):
                found[place, index] = kind
    return found
