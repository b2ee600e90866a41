"""Node schemas: what `/object_info` says about each node class, in the shape we need.

Source of facts: ComfyUI's ``server.py`` (``/object_info``) for the document, ComfyUI's frontend
for the order of inputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Final

from ..advice import Hint
from ..data_class import dataclass
from ..errors import WorkflowInvalid
from ..types import JsonValue, as_list, mapping, mappings

__all__ = [
    "AUTOGROW",
    "DYNAMIC_COMBO",
    "DYNAMIC_SLOT",
    "MATCH_TYPE",
    "InputSchema",
    "NodeSchema",
    "Schemas",
    "input_schema",
]

# ComfyUI's types of inputs that bring others along, or that take the type of what is linked.
AUTOGROW: Final = "COMFY_AUTOGROW_V3"
DYNAMIC_COMBO: Final = "COMFY_DYNAMICCOMBO_V3"
DYNAMIC_SLOT: Final = "COMFY_DYNAMICSLOT_V3"
MATCH_TYPE: Final = "COMFY_MATCHTYPE_V3"

_SNAPSHOT = "object_info.json.gz"
_OWN_NODES = "own_nodes.json"


@dataclass(frozen=True, slots=True)
class InputSchema:
    """One input of a node class.

    ``type`` is ``COMBO`` for a list of choices, in either notation; several types are joined by
    commas (``INT,FLOAT``). ``options`` is everything else (default, min, max …).
    """

    name: str
    type: str
    options: Mapping[str, JsonValue]
    optional: bool = False
    choices: Sequence[JsonValue] = ()

    @property
    def selectable(self) -> Sequence[JsonValue]:
        """The values to choose from: `choices`, or the keys of a dynamic combo's options."""
        if self.type != DYNAMIC_COMBO:
            return self.choices
        options = mappings(self.options.get("options"))
        return [option["key"] for option in options if "key" in option]

    @property
    def socket_only(self) -> bool:
        """Whether the node asks for a link where the type would allow a widget."""
        if self.options.get("forceInput"):
            return True
        return self.optional and bool(self.options.get("defaultInput"))

    @property
    def lists_uploads(self) -> bool:
        """Whether its choices are the files in an input folder."""
        return any(key.endswith("_upload") and value for key, value in self.options.items())

    @property
    def widget_type(self) -> str:
        """The type of its widget; differs from ``type`` if it takes several types."""
        named = self.options.get("widgetType")
        return named if isinstance(named, str) else self.type


@dataclass(frozen=True, eq=False)
class NodeSchema:
    """One node class: its inputs in the editor's order, and the types of its outputs.

    Equal to itself only, so that what follows from it can be cached.
    """

    name: str
    title: str
    inputs: tuple[InputSchema, ...]
    declared: tuple[InputSchema, ...]
    """The same inputs in the order of declaration: required, then optional."""
    outputs: tuple[str, ...]
    output_node: bool | None = False
    """Whether a prompt may end here; ``None`` if unknown: the Comfy Registry does not say."""
    python_module: str | None = None
    """Where ComfyUI loaded it from: "nodes", "comfy_extras.…", "custom_nodes.PACK"; of
    ComfyUI's own nodes, the bundled snapshot does not say."""
    unproduced: frozenset[str] = frozenset()
    """The inputs whose type no class here outputs: nothing can be linked to them."""


class Schemas:
    """The node classes of one ComfyUI, from ``GET /object_info``; ``source`` is for messages.

    Raises:
        WorkflowInvalid: The document does not have that shape.
    """

    def __init__(
        self, object_info: Mapping[str, JsonValue], source: str, *, snapshot: bool = False
    ) -> None:
        if not isinstance(object_info, Mapping) or not all(
            isinstance(node, Mapping) for node in object_info.values()
        ):
            raise WorkflowInvalid(
                f"The node schemas from {source} are not what GET /object_info gives.",
                advice="Take them from a running ComfyUI: its address followed by /object_info.",
            )
        self._classes = object_info
        self._schemas: dict[str, NodeSchema | None] = {}
        self.source = source
        self.is_snapshot = snapshot

    def __repr__(self) -> str:
        return f"Schemas({len(self._classes)} classes, source={self.source!r})"

    @classmethod
    def bundled(cls) -> Schemas:
        """The snapshot in the package: ComfyUI's own nodes, Remote Input and Remote Output."""
        return _bundled()

    def __contains__(self, class_type: str) -> bool:
        return class_type in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def get(self, class_type: str) -> NodeSchema | None:
        """The schema of a class; ``None`` when this ComfyUI does not have it."""
        if class_type not in self._schemas:
            self._schemas[class_type] = self._read(class_type)
        return self._schemas[class_type]

    def document(self, class_type: str) -> Mapping[str, JsonValue] | None:
        """What ``/object_info`` says about a class."""
        found = self._classes.get(class_type)
        return found if isinstance(found, Mapping) else None

    def declared(self, class_type: str) -> dict[str, JsonValue]:
        """The inputs of a class as ``/object_info`` has them; empty if it is not here."""
        return mapping(mapping(self._classes.get(class_type)).get("input"))

    def with_choices(self, more: Mapping[tuple[str, str], Iterable[str]]) -> Schemas:
        """The same, with more choices, by class and input; inputs without choices are skipped."""
        classes = dict(self._classes)
        for (class_type, name), values in more.items():
            groups = self.declared(class_type)
            for group, specs in groups.items():
                spec = mapping(specs).get(name)
                if spec is not None:
                    longer = {**mapping(specs), name: _with_choices(spec, values)}
                    groups = {**groups, group: longer}
            classes[class_type] = {**mapping(classes.get(class_type)), "input": groups}
        return Schemas(classes, self.source, snapshot=self.is_snapshot)

    def with_classes(self, more: Mapping[str, JsonValue], source: str) -> Schemas:
        """The same, with classes that are not here."""
        return Schemas({**more, **self._classes}, source, snapshot=self.is_snapshot)

    @cached_property
    def has_dynamic_inputs(self) -> bool:
        """Whether any node has inputs that come and go (ComfyUI from the end of 2025)."""
        return any(
            spec.type.startswith("COMFY_")
            for name in self._classes
            if (schema := self.get(name)) is not None
            for spec in schema.inputs
        )

    def unknown(self, class_type: str) -> str:
        """A sentence for messages: that the class is not here, and what to do about it."""
        if self.is_snapshot:
            return Hint.OTHER_SCHEMAS(class_type=class_type)
        return (
            f"{class_type} is not among the nodes of {self.source}. Install its node pack there, "
            "or take the schemas from a ComfyUI that has it."
        )

    def _read(self, class_type: str) -> NodeSchema | None:
        raw = self.document(class_type)
        if raw is None:
            return None
        groups = self.declared(class_type)
        inputs: dict[str, InputSchema] = {}
        for group in ("required", "optional"):
            for name, spec in mapping(groups.get(group)).items():
                inputs[name] = input_schema(name, spec, optional=group == "optional")
        order = mapping(raw.get("input_order"))
        first: dict[str, InputSchema] = {}
        for group in ("required", "optional"):
            for listed in as_list(order.get(group)):
                found = inputs.get(str(listed))
                if found is not None and found.optional == (group == "optional"):
                    first[found.name] = found
        declared = tuple(inputs.values())
        ordered = tuple({**first, **inputs}.values())
        title = raw.get("display_name")
        module = raw.get("python_module")
        said = raw.get("output_node")
        return NodeSchema(
            name=class_type,
            title=title if isinstance(title, str) and title else class_type,
            inputs=ordered if ordered != declared else declared,
            declared=declared,
            outputs=tuple(
                kind if isinstance(kind, str) else "COMBO" for kind in as_list(raw.get("output"))
            ),
            output_node=None if "output_node" in raw and said is None else said is True,
            python_module=module if isinstance(module, str) else None,
            unproduced=frozenset(
                spec.name for spec in inputs.values() if spec.type not in self._produced
            ),
        )

    @cached_property
    def _produced(self) -> frozenset[str]:
        """The types of all outputs of all classes."""
        found: set[str] = set()
        for raw in self._classes.values():
            for kind in as_list(mapping(raw).get("output")):
                if isinstance(kind, str):
                    found.update(kind.split(","))
        return frozenset(found)


def input_schema(name: str, spec: JsonValue, *, optional: bool = False) -> InputSchema:
    """Read ``[type, options]``, where type may be a list of choices."""
    parts = spec if isinstance(spec, list) and spec else ["*"]
    options = mapping(parts[1]) if len(parts) > 1 else {}
    kind = parts[0]
    if isinstance(kind, list):
        return InputSchema(name, "COMBO", options, optional, kind)
    if kind == "COMBO":
        return InputSchema(name, "COMBO", options, optional, as_list(options.get("options")))
    return InputSchema(name, kind if isinstance(kind, str) else "UNKNOWN", options, optional)


def _with_choices(spec: JsonValue, values: Iterable[str]) -> JsonValue:
    match spec:
        case [list(choices), *rest]:
            return [[*choices, *values], *rest]
        case ["COMBO", dict(options), *rest]:
            known = as_list(options.get("options"))
            return ["COMBO", {**options, "options": [*known, *values]}, *rest]
        case _:
            return spec


@lru_cache(maxsize=1)
def _bundled() -> Schemas:
    # Here, since most targets say themselves which nodes they have.
    import gzip
    from importlib.resources import files

    data = files(__package__).joinpath("data")
    theirs = json.loads(gzip.decompress(data.joinpath(_SNAPSHOT).read_bytes()))
    ours = json.loads(data.joinpath(_OWN_NODES).read_bytes())
    return Schemas({**theirs, **ours}, "the bundled snapshot", snapshot=True)
