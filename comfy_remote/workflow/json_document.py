"""Workflows as JSON documents: from text in any encoding, in API format or UI format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TypeGuard, cast

from ..errors import WorkflowInvalid
from ..json_text import has_more_values
from ..text_file import NotText, text_of
from ..types import JsonValue, mapping, mappings

__all__ = [
    "EXPORT",
    "MOST_VALUES",
    "decode",
    "graphs_in",
    "in_ui_format",
    "is_ui_format",
    "parse_json",
    "refuse_constant",
]

MOST_VALUES = 2_000_000
"""Twenty times what the largest workflow has. Each takes up to 64 bytes once it is parsed."""
_DEEPEST = 100

EXPORT = "Export the workflow from ComfyUI: Workflow > Export (API)."
_AGAIN = "Export the workflow again from ComfyUI: Workflow > Export (API)."


def decode(data: bytes, name: str) -> str:
    """The text of a JSON file, in UTF-8, -16 or -32, with a byte order mark or without.

    Raises:
        WorkflowInvalid: It is empty or not text; ``name`` begins the message.
    """
    if not data.strip():
        raise WorkflowInvalid(f"{name} is empty: it is not valid JSON.", advice=EXPORT)
    try:
        return text_of(data)
    except NotText:
        raise WorkflowInvalid(
            f"{name} is not a text file, nor of a kind that ComfyUI saves workflows in.",
            advice=EXPORT,
        ) from None


def parse_json(text: str, name: str) -> JsonValue:
    """The document of a JSON text.

    Raises:
        WorkflowInvalid: It is not JSON; says what it is instead, or where it goes wrong. Or it
            holds too many values to be a workflow.
    """
    if has_more_values(text, MOST_VALUES):
        raise WorkflowInvalid(
            f"{name} holds more than {MOST_VALUES:,} values, which is too many for a workflow.",
            advice=EXPORT,
        )
    try:
        # Python's reader accepts NaN and Infinity, which are not JSON.
        return cast("JsonValue", json.loads(text, parse_constant=refuse_constant))
    except json.JSONDecodeError as error:
        raise _not_json(text, name, error) from None
    except ValueError as error:
        raise WorkflowInvalid(f"{name} is not valid JSON: {error}.", advice=_AGAIN) from None
    except RecursionError:
        raise WorkflowInvalid(f"{name} is nested too deeply to be a workflow.") from None


def is_ui_format(document: JsonValue) -> TypeGuard[dict[str, JsonValue]]:
    """Whether a document is what ComfyUI's editor saves (schema 0.4 or 1.0)."""
    return isinstance(document, dict) and isinstance(document.get("nodes"), list)


def in_ui_format(name: str) -> WorkflowInvalid:
    """The error for a workflow in UI format where only a prompt can be used."""
    return WorkflowInvalid(
        f"{name} is a workflow in UI format (what Save writes), which cannot run as it is.",
        advice="Export it from ComfyUI with Workflow > Export (API), in older versions "
        "Save (API Format).",
        details={"format": "ui"},
    )


def graphs_in(workflow: Mapping[str, JsonValue]) -> Iterator[Mapping[str, JsonValue]]:
    """The root graph of a workflow in UI format and its subgraphs, unchecked, to a depth of 100."""
    waiting = [(workflow, 0)]
    while waiting:
        graph, depth = waiting.pop()
        yield graph
        if depth < _DEEPEST:
            inside = mappings(mapping(graph.get("definitions")).get("subgraphs"))
            waiting += reversed([(definition, depth + 1) for definition in inside])


def refuse_constant(constant: str) -> JsonValue:
    """For `json.loads`: no ``NaN`` and no ``Infinity``, which JSON does not have."""
    raise ValueError(f"{constant} is not JSON")


def _not_json(text: str, name: str, error: json.JSONDecodeError) -> WorkflowInvalid:
    if text.lstrip().startswith("<"):
        return WorkflowInvalid(
            f"{name} is a web page (or XML), not JSON.",
            advice="Download the file itself: on GitHub with Raw, on other sites after signing in.",
        )
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return WorkflowInvalid(
            f"{name} is cut off: its JSON ends in the middle (line {error.lineno}).",
            advice="Fetch or save the file again.",
        )
    return WorkflowInvalid(f"{name} is not valid JSON: {error}.", advice=_AGAIN)
