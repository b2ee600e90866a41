"""Values for inputs: a text becomes what the node takes, and is checked against its schema."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

from ...errors import WorkflowInvalid
from ...types import JsonValue
from ..json_document import refuse_constant
from ..live_inputs import live_inputs
from ..prompt import Node, Prompt, is_link
from ..schema import InputSchema, Schemas, input_schema
from ..spelling import listed_as

__all__ = [
    "check_value",
    "did_you_mean",
    "input_schema_of",
    "listed",
    "quoted",
    "range_text",
    "value_from_text",
]

_NUMBERS = frozenset({"INT", "FLOAT"})


def value_from_text(
    prompt: Prompt,
    node_id: str,
    key: str,
    text: str,
    schemas: Schemas | None,
    *,
    checked: bool = True,
) -> JsonValue:
    """The value of an input for a text that a person typed.

    If the schema knows the input, the value gets its type and is checked (`check_value`). If not,
    it gets the type of the value that it replaces; if that is a link or nothing, it is JSON, or
    else text. A link is typed as JSON: ``["6", 0]``.

    Raises:
        WorkflowInvalid: The text does not fit.
    """
    node = prompt[node_id]
    old = node["inputs"].get(key)
    schema = input_schema_of(node, key, schemas)
    if not isinstance(old, str) and (schema is None or schema.type != "STRING" or is_link(old)):
        link = _json(text)
        if is_link(link):
            if link[0] not in prompt:
                raise _does_not_fit(node_id, key, text, f"a link: there is no node {link[0]!r}")
            return link
    types = frozenset(schema.type.split(",")) if schema is not None else frozenset[str]()
    value: JsonValue = text
    if types and types <= _NUMBERS:
        value = _number(node_id, key, text)
    elif types == {"BOOLEAN"}:
        value = _boolean(node_id, key, text)
    elif schema is not None and (choices := schema.selectable):
        several = _json(text) if schema.options.get("multiselect") else None
        same = (choice for choice in choices if not isinstance(choice, str) and str(choice) == text)
        value = several if isinstance(several, list) else next(same, text)
    elif types not in ({"STRING"}, {"COMBO"}):
        return _like(node_id, key, old, text)
    if checked:
        check_value(prompt, node_id, key, value, schemas)
    return value


def check_value(
    prompt: Prompt, node_id: str, key: str, value: JsonValue, schemas: Schemas | None
) -> None:
    """Check type, range and choice of a value, as far as the schema knows them.

    The bundled snapshot does not know a target's files, so its choices do not count.

    Raises:
        WorkflowInvalid: It does not fit; with the range, or the nearest choice.
    """
    schema = input_schema_of(prompt[node_id], key, schemas)
    if schema is None or schemas is None or is_link(value):
        return
    choices = schema.selectable
    if choices and not schemas.is_snapshot and not schema.lists_uploads:
        for one in value if isinstance(value, list) else [value]:
            if one not in choices and listed_as(one, choices) is None:
                raise WorkflowInvalid(
                    f"{quoted(one)} is not among the choices of input {key} of node {node_id} "
                    f"({prompt[node_id]['class_type']}) on {schemas.source}."
                    f"{did_you_mean(str(one), map(str, choices))}",
                    advice=f"It has {listed(choices)}.",
                    details={"node_id": node_id, "input": key},
                )
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    if schema.type == "INT" and value != int(value):
        raise _does_not_fit(node_id, key, str(value), "a whole number")
    low, high = schema.options.get("min"), schema.options.get("max")
    if (isinstance(low, int | float) and value < low) or (
        isinstance(high, int | float) and value > high
    ):
        raise WorkflowInvalid(
            f"{value} is out of range for input {key} of node {node_id} "
            f"({prompt[node_id]['class_type']}), which takes {range_text(low, high)}.",
            details={"node_id": node_id, "input": key},
        )


def input_schema_of(node: Node, key: str, schemas: Schemas | None) -> InputSchema | None:
    """The schema of an input; that of ``format.quality`` depends on the choice in ``format``."""
    if schemas is None or (schema := schemas.get(node["class_type"])) is None:
        return None
    known = next((found for found in schema.inputs if found.name == key), None)
    if known is not None or "." not in key:
        return known
    spec = live_inputs(schemas.declared(node["class_type"]), node["inputs"]).all().get(key)
    return None if spec is None else input_schema(key, spec)


def did_you_mean(name: str, names: Iterable[str], *, near_from: float = 0.6) -> str:
    """`` Did you mean 'seed'?``, or nothing when no name is near.

    Args:
        near_from: How near, from 0 to 1.
    """
    import difflib  # here: only a mistake needs it

    near = difflib.get_close_matches(name, list(names), n=1, cutoff=near_from)
    return f" Did you mean {near[0]!r}?" if near else ""


def _like(node_id: str, key: str, old: JsonValue, text: str) -> JsonValue:
    """The text as a value of the same type as the one it replaces."""
    if isinstance(old, str):
        return text
    value = _json(text)
    if value is _NOT_JSON:
        value = text
    if old is None or isinstance(old, list | dict):
        return value
    return _boolean(node_id, key, text) if isinstance(old, bool) else _number(node_id, key, text)


def _number(node_id: str, key: str, text: str) -> JsonValue:
    value = _json(text)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        raise _does_not_fit(node_id, key, text, "a number")
    return value


def _boolean(node_id: str, key: str, text: str) -> bool:
    if text.strip().lower() not in ("true", "false"):
        raise _does_not_fit(node_id, key, text, "true or false")
    return text.strip().lower() == "true"


_NOT_JSON = "\0not JSON"
_DECODER = json.JSONDecoder(parse_constant=refuse_constant)  # `json.loads` would make one each time


def _json(text: str) -> JsonValue:
    try:
        value: JsonValue = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return _NOT_JSON
    return value


def _does_not_fit(node_id: str, key: str, text: str, wanted: str) -> WorkflowInvalid:
    return WorkflowInvalid(
        f"{quoted(text)} does not fit input {key} of node {node_id}, which takes {wanted}.",
        details={"node_id": node_id, "input": key},
    )


def quoted(value: JsonValue, longest: int = 200) -> str:
    """A value for a message, cut short."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}…"


def listed(choices: Sequence[JsonValue], most: int = 12) -> str:
    """The first choices for a message, and how many more there are."""
    shown = ", ".join(map(str, choices[:most]))
    return shown if len(choices) <= most else f"{shown}, and {len(choices) - most} more"


def range_text(low: JsonValue, high: JsonValue) -> str:
    """``0 to 8``, ``8 at most``, ``0 at least``."""
    if low is None:
        return f"{high} at most"
    return f"{low} at least" if high is None else f"{low} to {high}"
