"""``${NAME}`` in a workflow file: filled in with variables, as JSON-safe text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

from ..errors import WorkflowInvalid

__all__ = ["fill_in", "variables_in"]

# What looks like a credential stays out of a workflow, which ends in pictures and logs.
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
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

    Inside of a string the value is escaped. Elsewhere (``"seed": ${SEED}``) a number, ``true``,
    ``false`` or ``null`` is put there as it is, and anything else as a string. ``$${NAME}``
    stands for ``${NAME}`` itself.

    Args:
        text: JSON, or what is JSON once it is filled in.
        variables: Usually the environment, and what was given on the command line.
        name: Begins the messages of errors.

    Raises:
        WorkflowInvalid: A variable has no value, or its name looks like that of a secret.
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
    if _SECRET.search(variable):
        raise WorkflowInvalid(
            f"{name} asks for ${{{variable}}}, which looks like a secret and is not filled in.",
            advice="Workflows end in pictures and logs. Name the variable differently if it is "
            "no secret.",
            details={"variable": variable},
        )
    if variable not in variables:
        import difflib  # here: only a mistake needs it

        near = difflib.get_close_matches(
            variable, [v for v in variables if not _SECRET.search(v)], 1
        )
        hint = f" Did you mean ${{{near[0]}}}?" if near else ""
        raise WorkflowInvalid(
            f"{name} asks for ${{{variable}}}, which has no value.{hint}",
            advice=_advice(variable),
            details={"variable": variable},
        )
    return variables[variable]


def _advice(variable: str) -> str:
    options = {
        "PROMPT": "--prompt TEXT",
        "NEGATIVE": "--negative TEXT",
        "SEED": "--seed N",
        "OUTPUT_FOLDER": "--output-folder PATH (of comfy-run-remote)",
        "IMAGE_ID": "--image-id ID (of comfy-run-remote)",
    }
    given = f"Give {options[variable]}, or set" if variable in options else "Set"
    return (
        f"{given} the environment variable {variable}; write $${{{variable}}} for the text itself."
    )


def _bare(value: str) -> str:
    try:
        number = json.loads(value)
    except (ValueError, RecursionError):
        return json.dumps(value)
    if isinstance(number, float) and not math.isfinite(number):
        return json.dumps(value)
    return value if number is None or isinstance(number, int | float) else json.dumps(value)
