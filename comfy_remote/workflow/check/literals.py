"""Single inputs by ComfyUI's rules: types of links, ranges and choices of literal values."""

from __future__ import annotations

from typing import cast

from ...types import JsonValue
from ..schema import MATCH_TYPE
from .rules import NodeError, NodeRules, node_error

__all__ = ["check_literal", "type_and_options", "types_fit"]

_LONGEST_LIST_SHOWN = 20
_ANY: tuple[JsonValue, ...] = ("*", MATCH_TYPE)


def type_and_options(spec: JsonValue) -> tuple[JsonValue, dict[str, JsonValue]]:
    """The two parts of ``[type, options]``."""
    match spec:
        case [kind, dict(options), *_]:
            return kind, options
        case [kind, *_]:
            return kind, {}
        case _:
            return "*", {}


def types_fit(received: JsonValue, wanted: JsonValue) -> bool:
    """Whether an output may be linked to an input: one type in common is enough."""
    if received == wanted:
        return True
    if received in _ANY or wanted in _ANY:
        return True
    if isinstance(received, list) and wanted == "COMBO":
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    given, taken = ({part.strip() for part in kinds.split(",")} for kinds in (received, wanted))
    return "*" in given or "*" in taken or bool(given & taken)


def check_literal(
    rules: NodeRules, name: str, kind: JsonValue, options: dict[str, JsonValue], value: JsonValue
) -> tuple[NodeError | None, JsonValue]:
    """The error of a literal value, and the value converted to the input's type."""
    config: JsonValue = [kind, options]
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    try:
        value = _convert(kind, value)
    except (TypeError, ValueError, OverflowError) as error:
        return node_error(
            "invalid_input_type",
            f"Failed to convert an input value to a {kind} value",
            f"{name}, {value}, {error}",
            input_name=name,
            input_config=config,
            received_value=value,
            exception_message=str(error),
        ), value
    if rules.judges(name, config, value):
        return None, value
    # Comparisons may raise, like ComfyUI's: a text where several types are taken.
    if "min" in options and value < options["min"]:  # type: ignore[operator]
        return node_error(
            "value_smaller_than_min",
            f"Value {value} smaller than min of {options['min']}",
            name,
            input_name=name,
            input_config=config,
            received_value=value,
        ), value
    if "max" in options and value > options["max"]:  # type: ignore[operator]
        return node_error(
            "value_bigger_than_max",
            f"Value {value} bigger than max of {options['max']}",
            name,
            input_name=name,
            input_config=config,
            received_value=value,
        ), value
    if kind == "COMBO" or isinstance(kind, list):
        return _chosen(name, kind, options, value), value
    return None, value


def _chosen(
    name: str, kind: JsonValue, options: dict[str, JsonValue], value: JsonValue
) -> NodeError | None:
    listed = options.get("options", []) if kind == "COMBO" else kind
    choices = cast("list[JsonValue]", listed)
    several = isinstance(value, list) and options.get("multiselect", False)
    values = value if several and isinstance(value, list) else [value]
    wrong = [one for one in values if one not in choices]
    if not wrong:
        return None
    shown = len(choices) <= _LONGEST_LIST_SHOWN
    named = str(choices) if shown else f"(list of length {len(choices)})"
    return node_error(
        "value_not_in_list",
        "Value not in list",
        f"{name}: {', '.join(map(repr, wrong))} not in {named}",
        input_name=name,
        input_config=[kind, options] if shown else None,
        received_value=value,
    )


def _convert(kind: JsonValue, value: JsonValue) -> JsonValue:
    match kind:
        case "INT":
            return int(value)  # type: ignore[arg-type]  # it may raise; that is the check
        case "FLOAT":
            return float(value)  # type: ignore[arg-type]
        case "STRING":
            return str(value)
        case "BOOLEAN":
            return bool(value)
        case _:
            return value
