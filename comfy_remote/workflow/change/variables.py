"""``${NAME}`` in a workflow file: filled in with variables, as JSON-safe text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from ...advice import Hint
from ...errors import WorkflowInvalid

__all__ = ["fill_in", "variables_in"]

# One pass over the JSON text: an escape, the start or end of a string, a placeholder.
_PART = re.compile(r'\\.|"|\$?\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}', re.DOTALL)


def variables_in(text: str) -> set[str]:
    """The names of all placeholders, those written ``$${NAME}`` left out."""
    return {
        match["name"]
        for match in _PART.finditer(text)
        if match["name"] and not match[0].startswith("$$")
    }


def fill_in(text: str, variables: Mapping[str, str], name: str = "The workflow") -> str:
    """The JSON text with every ``${NAME}`` replaced by that variable's value.

    Inside a string the value is escaped. Elsewhere (``"seed": ${SEED}``) numbers, ``true``,
    ``false`` and ``null`` are inserted as they are, anything else as a string. ``$${NAME}``
    stands for ``${NAME}`` itself.

    Args:
        text: JSON once it is filled in.
        variables: Never the whole environment: somebody else's file could name any of it, and what
            is in a workflow ends up in pictures and logs.

    Raises:
        WorkflowInvalid: A variable has no value; ``name`` begins the message.
    """
    if "${" not in text:
        return text
    in_string = False
    safe: dict[tuple[str, bool], str] = {}

    def replacement(match: re.Match[str]) -> str:
        nonlocal in_string
        variable = match["name"]
        if variable is None:
            in_string ^= match[0] == '"'
            return match[0]
        if match[0].startswith("$$"):
            return match[0][1:]
        if (variable, in_string) not in safe:
            value = _value(variable, variables, name)
            safe[variable, in_string] = json.dumps(value)[1:-1] if in_string else _bare(value)
        return safe[variable, in_string]

    return _PART.sub(replacement, text)


def _value(variable: str, variables: Mapping[str, str], name: str) -> str:
    try:
        return variables[variable]
    except KeyError:
        import difflib  # here: only a mistake needs it

        near = difflib.get_close_matches(variable, variables, 1)
        hint = f" Did you mean ${{{near[0]}}}?" if near else ""
        raise WorkflowInvalid(
            f"{name} asks for ${{{variable}}}, which was not given.{hint}",
            advice=Hint.GIVE_VARIABLE(variable=variable),
            details={"variable": variable},
        ) from None


def _bare(value: str) -> str:
    try:
        number = json.loads(value)
    except (ValueError, RecursionError):
        return json.dumps(value)
    if isinstance(number, float) and not math.isfinite(number):
        return json.dumps(value)
    return value if number is None or isinstance(number, int | float) else json.dumps(value)
