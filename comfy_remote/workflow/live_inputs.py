"""Which inputs a node has for its present values: ComfyUI's dynamic inputs.

A dynamic combo has further inputs for each choice (``format.quality``), an autogrow has a row of
them (``images.image0``). Which of them a prompt must give depends on its other values.

Source of facts: ``comfy_api/latest/_io.py`` of ComfyUI 0.33.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TypeAlias

from ..data_class import dataclass
from ..types import JsonValue, mapping, mappings
from .schema import AUTOGROW, DYNAMIC_COMBO, DYNAMIC_SLOT

__all__ = ["LiveInputs", "live_inputs"]

_Specs: TypeAlias = "Mapping[str, JsonValue]"


@dataclass(slots=True)
class LiveInputs:
    """The inputs a node has, dynamic ones by their full names.

    Attributes:
        required, optional: ``{name: [type, options]}``.
        dynamic: Whether any of them comes and goes.
    """

    required: dict[str, JsonValue] = field(default_factory=dict)
    optional: dict[str, JsonValue] = field(default_factory=dict)
    dynamic: bool = False

    def all(self) -> dict[str, JsonValue]:
        """All of them; one declared as both is required."""
        return {
            **self.required,
            **{k: v for k, v in self.optional.items() if k not in self.required},
        }

    def group(self, name: str) -> dict[str, JsonValue]:
        """`required` or `optional`, by name."""
        return self.required if name == "required" else self.optional


def live_inputs(declared: Mapping[str, JsonValue], given: Mapping[str, JsonValue]) -> LiveInputs:
    """The inputs of a node.

    Args:
        declared: ``{"required": {name: [type, options]}, "optional": …}``, as in
            ``/object_info``. ``hidden`` inputs are not set by a prompt.
        given: The ``inputs`` of the node in the prompt.
    """
    found = LiveInputs()
    _add(found, declared, given)
    return found


def _add(
    found: LiveInputs,
    declared: Mapping[str, JsonValue],
    given: Mapping[str, JsonValue],
    prefix: str = "",
) -> None:
    for group in ("required", "optional"):
        for key, spec in mapping(declared.get(group)).items():
            name = f"{prefix}{key}"
            match spec:
                case [str(kind), dict(options), *_] if kind == AUTOGROW:
                    _add_row(found, mapping(options.get("template")), name)
                case [str(kind), dict(options), *_] if kind in (DYNAMIC_COMBO, DYNAMIC_SLOT):
                    inner = _brought(kind, options, given[name]) if name in given else None
                    if inner is not None:
                        _add(found, inner, given, f"{name}.")
                        found.group(group)[name] = spec
                        found.dynamic = True
                case _:
                    found.group(group)[name] = spec
                    found.dynamic = found.dynamic or bool(prefix)


def _brought(kind: str, options: _Specs, given: JsonValue) -> _Specs | None:
    """The inputs that a dynamic one brings along; ``None`` if there is no such choice."""
    if kind == DYNAMIC_SLOT:
        return mapping(options.get("inputs"))
    chosen = (one for one in mappings(options.get("options")) if one.get("key") == given)
    return next((mapping(one.get("inputs")) for one in chosen), None)


def _add_row(found: LiveInputs, template: _Specs, row: str) -> None:
    group, spec = _template_input(mapping(template.get("input")))
    if spec is None:
        return
    least = template.get("min")
    for number, name in enumerate(_names(template)):
        needed = group == "required" and isinstance(least, int) and number < least
        found.group("required" if needed else "optional")[f"{row}.{name}"] = spec
    found.dynamic = True


def _template_input(groups: _Specs) -> tuple[str, JsonValue]:
    for group, inputs in groups.items():
        for spec in mapping(inputs).values():
            return group, spec
    return "optional", None


def _names(template: _Specs) -> list[str]:
    names, prefix, most = template.get("names"), template.get("prefix"), template.get("max")
    if isinstance(names, list):
        return [str(name) for name in names]
    return [f"{prefix}{i}" for i in range(most)] if isinstance(most, int) else []
