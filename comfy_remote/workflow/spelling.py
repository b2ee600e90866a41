"""Values of lists as a target spells them: ``sub\\up.pth`` of Windows is ``sub/up.pth`` on Linux.

A ComfyUI lists the files in its folders with the separator of its own system, and refuses the
other. Both mean the same file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..data_class import dataclass
from ..types import JsonValue
from .live_inputs import live_inputs
from .prompt import Node, Prompt, is_link, own_values, with_inputs
from .schema import Schemas, input_schema

__all__ = ["Respelled", "as_listed", "classes_with_paths", "listed_as"]

_LONGEST_PATH = 1024
# A choice may bring inputs along, among them another such choice.
_DEEPEST_CHOICE = 8


@dataclass(frozen=True, slots=True)
class Respelled:
    """One value that a target spells in another way."""

    node_id: str
    node_class: str
    input: str
    value: str
    listed: str

    def __str__(self) -> str:
        return (
            f"{self.node_class} (node {self.node_id}): {self.value!r} is sent as the target spells "
            f"it, {self.listed!r}."
        )


def classes_with_paths(prompt: Prompt) -> set[str]:
    """The classes of nodes with a value that may have another spelling, found without schemas."""
    return {
        node["class_type"]
        for node in prompt.values()
        if any(_has_path(value) for value in node["inputs"].values())
    }


def as_listed(prompt: Prompt, schemas: Schemas) -> tuple[Prompt, list[Respelled]]:
    """The prompt with values as the target's schemas list them, where only separators differ.

    A value that is listed stays, and so does one that may mean several choices.
    """
    changed = prompt
    found: list[Respelled] = []
    for node_id in prompt:
        for _ in range(_DEEPEST_CHOICE):
            values = dict(_respelled(changed[node_id], schemas))
            if not values:
                break
            for name, value in values.items():
                found += _differences(node_id, changed[node_id], name, value)
            changed = with_inputs(changed, {(node_id, n): value for n, value in values.items()})
    return changed, found


def listed_as(value: JsonValue, choices: Sequence[JsonValue]) -> str | None:
    """The choice that a value means in another spelling; ``None`` if there is none."""
    if not isinstance(value, str) or not _has_path(value) or value in choices:
        return None
    plain = _plain(value)
    same = [one for one in choices if isinstance(one, str) and _plain(one) == plain]
    return same[0] if len(same) == 1 else None


def _respelled(node: Node, schemas: Schemas) -> Iterator[tuple[str, JsonValue]]:
    inputs = node["inputs"]
    paths = [name for name, value in inputs.items() if _has_path(value)]
    if not paths:
        return
    declared = schemas.declared(node["class_type"])
    specs = live_inputs(declared, inputs).all()
    for name in paths:
        # A choice that brings inputs along is only live under its own name once it is listed.
        spec = specs.get(name) or _declared(declared, name)
        choices = input_schema(name, spec).selectable
        value = _each(inputs[name], choices)
        if value != inputs[name]:
            yield name, value


def _each(value: JsonValue, choices: Sequence[JsonValue]) -> JsonValue:
    if isinstance(value, list) and not is_link(value):
        return [_each(one, choices) for one in value]
    if isinstance(value, dict):
        return {
            key: _each(one, choices) if key == "__value__" else one for key, one in value.items()
        }
    return listed_as(value, choices) or value


def _declared(declared: dict[str, JsonValue], name: str) -> JsonValue:
    groups = [group for group in declared.values() if isinstance(group, dict)]
    return next((group[name] for group in groups if name in group), None)


def _differences(node_id: str, node: Node, name: str, new: JsonValue) -> Iterator[Respelled]:
    pairs = zip(own_values(node["inputs"][name]), own_values(new), strict=True)
    for before, after in pairs:
        if before != after:
            yield Respelled(node_id, node["class_type"], name, str(before), str(after))


def _has_path(value: JsonValue) -> bool:
    if isinstance(value, list | dict):
        return not is_link(value) and any(map(_is_path, own_values(value)))
    return _is_path(value)


def _is_path(value: JsonValue) -> bool:
    return (
        isinstance(value, str)
        and ("/" in value or "\\" in value)
        and len(value) <= _LONGEST_PATH
        and "\n" not in value
    )


def _plain(name: str) -> str:
    return name.replace("\\", "/")
