"""Which values can travel between two ComfyUIs, and about how many bytes they have.

Tensors, numbers, texts, and what is made of these can. Models, and objects that hold functions,
cannot: they are made again where they are used.

Source of facts: ComfyUI's ``nodes.py``, ``comfy_extras/`` and ``comfy/hooks.py``, for which nodes
leave an object inside of a CONDITIONING.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from ..check.sizes import Pictures, picture_sizes
from ..graph import consumers, links
from ..interface import ANY
from ..prompt import Prompt
from ..schema import MATCH_TYPE, NodeSchema, Schemas

__all__ = ["DATA", "Source", "Values"]

Source: TypeAlias = "tuple[str, int]"
"""A node, and the index of one of its outputs."""

DATA: Final = frozenset({"IMAGE", "MASK", "LATENT", "AUDIO", "VIDEO"})
"""What a workflow works on, as opposed to settings and models."""

_SMALL: Final = frozenset({"STRING", "INT", "FLOAT", "BOOLEAN", "COMBO"})
_TRAVELS: Final = DATA | _SMALL | {"CONDITIONING", "SIGMAS"}
_UNKNOWN: Final = frozenset({ANY, MATCH_TYPE, "UNKNOWN"})

# Takes what it needs from these, and leaves none of them in the CONDITIONING that it makes.
# Others (CONTROL_NET, GLIGEN, HOOKS, CLIP_VISION_OUTPUT) stay in it as objects.
_USED_UP: Final = frozenset({"CLIP", "VAE", "MODEL", "STYLE_MODEL", "CLIP_VISION", "PHOTOMAKER"})
_HOLDERS: Final = frozenset({"CONDITIONING", "CLIP"})

_VALUE_FILE = 500  # bytes around the tensors of a value's file
_FLOAT = 4


class Values:
    """The values that travel along the links of one prompt.

    Args:
        prompt: Without cycles or broken links.
        ordered: Its nodes, each after those it is linked to.
        schemas: The known classes of its nodes.
        loaded: The known pictures that nodes load from files.
    """

    def __init__(
        self,
        prompt: Prompt,
        ordered: Sequence[str],
        schemas: Schemas,
        loaded: Mapping[str, Pictures] | None = None,
    ) -> None:
        self._prompt = prompt
        self._schemas = schemas
        self._users = consumers(prompt, ordered)
        self._types: dict[Source, str] = {}
        self._holding: set[str] = set()
        for node_id in ordered:
            if self._is_holding(node_id):
                self._holding.add(node_id)
        self._sizes = picture_sizes(prompt, ordered, schemas, loaded)

    def source(self, node_id: str, index: object) -> Source:
        """A link's end; an index that counts from the end is made one from the start."""
        number = int(index) if isinstance(index, int | float) else 0
        schema = self._schema(node_id)
        if number < 0 and schema is not None:
            number += len(schema.outputs)
        return node_id, number

    def type(self, source: Source) -> str:
        """The type of an output; ``*`` if it can be anything."""
        found = self._types.get(source)
        if found is None:
            self._types[source] = ANY  # for a prompt with a cycle in it after all
            found = self._types[source] = self._find_type(source)
        return found

    def travels(self, source: Source) -> bool:
        """Whether the values of this output can cross."""
        kinds = {kind.strip() for kind in self.type(source).split(",")}
        if "CONDITIONING" in kinds and source[0] in self._holding:
            return False
        return kinds <= _TRAVELS

    def is_object(self, source: Source) -> bool:
        """Whether it is known that they cannot."""
        return self.type(source) != ANY and not self.travels(source)

    def size(self, source: Source) -> int | None:
        """About how many bytes the value's file has; ``None`` where the graph does not tell."""
        kind = self.type(source)
        if kind in _SMALL or kind == "SIGMAS":
            return _VALUE_FILE
        pictures = self._sizes.get(source[0])
        if pictures is None:
            return None
        per_pixel = _bytes_per_pixel(kind, pictures)
        return None if per_pixel is None else _VALUE_FILE + int(pictures.pixels * per_pixel)

    def _find_type(self, source: Source) -> str:
        schema = self._schema(source[0])
        declared = ANY
        if schema is not None and 0 <= source[1] < len(schema.outputs):
            declared = schema.outputs[source[1]]
        if declared not in _UNKNOWN:
            return declared
        return self._taken_as(source) or self._passed_on(source[0], schema) or ANY

    def _taken_as(self, source: Source) -> str | None:
        """What the nodes that take it say it is, unless they contradict each other."""
        kinds = set()
        for user, name, index in self._users.get(source[0], ()):
            if self.source(source[0], index) == source:
                kinds.add(self._input_types(self._schema(user)).get(name, ANY))
        kinds = {kind for kind in kinds if kind not in _UNKNOWN and not kind.startswith("COMFY_")}
        return kinds.pop() if len(kinds) == 1 else None

    def _passed_on(self, node_id: str, schema: NodeSchema | None) -> str | None:
        """The type that comes in, of a node that takes anything (a reroute, a switch)."""
        if schema is None:
            return None
        taken = self._input_types(schema)
        kinds = {
            self.type(self.source(source, index))
            for name, source, index in links(self._prompt[node_id])
            if taken.get(name, ANY) in _UNKNOWN
        }
        return kinds.pop() if len(kinds) == 1 else None

    def _is_holding(self, node_id: str) -> bool:
        """Whether a CONDITIONING or CLIP that it makes has an object inside."""
        for _, source, index in links(self._prompt[node_id]):
            kind = self.type(self.source(source, index))
            if kind in _HOLDERS:
                if source in self._holding:
                    return True
            elif kind not in _USED_UP and kind not in _TRAVELS:
                return True
        return False

    def _schema(self, node_id: str) -> NodeSchema | None:
        return self._schemas.get(self._prompt[node_id]["class_type"])

    def _input_types(self, schema: NodeSchema | None) -> Mapping[str, str]:
        return {spec.name: spec.type for spec in schema.inputs} if schema is not None else {}


def _bytes_per_pixel(kind: str, pictures: Pictures) -> float | None:
    match kind:
        case "IMAGE":
            return 3 * _FLOAT
        case "MASK":
            return _FLOAT
        case "LATENT" if not pictures.frames:
            return 16 * _FLOAT / 64  # 16 channels at an eighth of the width; older models have 4
        case _:
            return None
