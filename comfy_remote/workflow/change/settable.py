"""Which inputs of a prompt can be set, by name or as a text, seed or size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeGuard

from ...errors import WorkflowInvalid
from ...types import JsonValue
from ..prompt import Node, Place, Prompt, is_link
from ..schema import Schemas
from .numbers import SizeInput, find_seeds, find_sizes
from .texts import Side, find_texts
from .values import input_schema_of

__all__ = ["Role", "SettableInput", "settable_inputs"]

Role = Literal["positive", "negative", "seed", "width", "height", "batch_size"]
"""A change that sets an input without naming it."""

_SIDES: tuple[Side, ...] = ("positive", "negative")
_SIZES: tuple[SizeInput, ...] = ("width", "height", "batch_size")


@dataclass(frozen=True, slots=True)
class SettableInput:
    """One input that holds a value, or a link that one of the options replaces.

    Attributes:
        title: What the editor calls the node; its class if nobody has named it.
        type: As the schema has it ("INT", "COMBO", …), else that of the value.
        value: At present; a link is ``[node id, output]``.
        role: The option that sets it.
        minimum, maximum: The range of a number, inclusive.
        choices: The number of choices of a COMBO.
    """

    node_id: str
    name: str
    title: str
    class_type: str
    type: str
    value: JsonValue
    role: Role | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    choices: int | None = None

    @property
    def setting(self) -> str:
        """How a setting names it: ``NODE.input``."""
        return f"{self.node_id}.{self.name}"

    def to_json(self) -> dict[str, JsonValue]:
        """A description for programs."""
        return {
            "set": self.setting,
            "node_id": self.node_id,
            "input": self.name,
            "title": self.title,
            "class_type": self.class_type,
            "type": self.type,
            "value": self.value,
            "role": self.role,
            "min": self.minimum,
            "max": self.maximum,
            "choices": self.choices,
        }


def settable_inputs(prompt: Prompt, schemas: Schemas) -> tuple[list[SettableInput], list[str]]:
    """The inputs that can be set, in the order of the prompt.

    Also a sentence for each option that would be refused as ambiguous (several positive texts that
    differ).
    """
    roles, unclear = _roles(prompt)
    found = [
        _settable(prompt[node_id], (node_id, name), roles.get((node_id, name)), schemas)
        for node_id, name in _places(prompt, roles, schemas)
    ]
    return found, unclear


def _places(prompt: Prompt, roles: Iterable[Place], schemas: Schemas) -> Iterator[Place]:
    with_role = set(roles)
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            if name.startswith("UNKNOWN") and node["class_type"] not in schemas:
                continue  # what the editor calls a value whose input it doesn't know
            if not is_link(value) or (node_id, name) in with_role:
                yield node_id, name


def _roles(prompt: Prompt) -> tuple[dict[Place, Role], list[str]]:
    """The inputs that the options set, found as the options find them."""
    roles: dict[Place, Role] = {}
    unclear: list[str] = []
    for name in _SIZES:
        with suppress(WorkflowInvalid):
            roles.update(dict.fromkeys(find_sizes(prompt, name), name))
    with suppress(WorkflowInvalid):
        roles.update(dict.fromkeys(find_seeds(prompt), "seed"))
    for side in _SIDES:
        try:
            roles.update(dict.fromkeys(find_texts(prompt, side), side))
        except WorkflowInvalid as error:
            nodes = error.details.get("nodes")
            if isinstance(nodes, list):  # several that differ
                unclear.append(str(error))
                for node_id in map(str, nodes):
                    with suppress(WorkflowInvalid):
                        roles.update(dict.fromkeys(find_texts(prompt, side, [node_id]), side))
    return roles, unclear


def _settable(node: Node, place: Place, role: Role | None, schemas: Schemas) -> SettableInput:
    node_id, name = place
    value = node["inputs"][name]
    schema = input_schema_of(node, name, schemas)
    low, high = (schema.options.get(key) if schema else None for key in ("min", "max"))
    return SettableInput(
        node_id=node_id,
        name=name,
        title=node.get("_meta", {}).get("title") or node["class_type"],
        class_type=node["class_type"],
        type=schema.type if schema else _type_of(value),
        value=value,
        role=role,
        minimum=low if _is_number(low) else None,
        maximum=high if _is_number(high) else None,
        choices=len(schema.choices) or None if schema else None,
    )


def _is_number(value: JsonValue) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _type_of(value: JsonValue) -> str:
    match value:
        case bool():
            return "BOOLEAN"
        case int():
            return "INT"
        case float():
            return "FLOAT"
        case str():
            return "STRING"
        case _:
            return "*"
