"""Workflows as JSON text: in any encoding of Unicode; anything else is refused with its reason."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, cast

from ..errors import WorkflowInvalid

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["EXPORT", "decode", "parse_json", "refuse_constant"]

EXPORT = "Export the workflow from ComfyUI: Workflow > Export (API)."
_AGAIN = "Export the workflow again from ComfyUI: Workflow > Export (API)."


def decode(data: bytes, name: str) -> str:
    """The text of a JSON file, in UTF-8, -16 or -32, with a byte order mark or without.

    Raises:
        WorkflowInvalid: It is empty, or no text; ``name`` begins the message.
    """
    if not data.strip():
        raise WorkflowInvalid(f"{name} is empty: it is not valid JSON.", advice=EXPORT)
    try:
        # Windows PowerShell writes UTF-16 when it redirects.
        return data.decode(json.detect_encoding(data))
    except UnicodeDecodeError:
        raise WorkflowInvalid(
            f"{name} is not a text file, nor of a kind that ComfyUI saves workflows in.",
            advice=EXPORT,
        ) from None


def parse_json(text: str, name: str) -> JsonValue:
    """The document of a JSON text.

    Raises:
        WorkflowInvalid: It is not JSON; says what it is instead, or where it goes wrong.
    """
    try:
        # Python's reader takes NaN and Infinity, which JSON and every other reader refuse.
        return cast("JsonValue", json.loads(text, parse_constant=refuse_constant))
    except json.JSONDecodeError as error:
        raise _not_json(text, name, error) from None
    except ValueError as error:
        raise WorkflowInvalid(f"{name} is not valid JSON: {error}.", advice=_AGAIN) from None
    except RecursionError:
        raise WorkflowInvalid(f"{name} is nested too deeply to be a workflow.") from None


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
