"""Events, errors and texts of targets, cleaned: no secrets, no control characters.

Record, command, page, nodes and library get them only after this.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from ..clean import clean
from ..errors import ComfyRemoteError
from ..events import Event, Finished, Log, NodeText, Progress
from ..types import with_texts
from .secrets import redact

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["cleaned", "cleaned_error", "cleaned_json", "cleaned_text"]


def cleaned(event: Event) -> Event:
    """The same event with its texts cleaned; what a workflow has made is left as it is."""
    match event:
        case Log():
            return replace(event, message=cleaned_text(event.message))
        case Progress() if event.message:
            return replace(event, message=cleaned_text(event.message))
        case NodeText():
            return replace(event, text=cleaned_text(event.text))
        case Finished():
            if event.error is not None:
                cleaned_error(event.error)
            problems = tuple(
                replace(
                    one,
                    node_class=cleaned_text(one.node_class) if one.node_class else None,
                    filename=cleaned_text(one.filename) if one.filename else None,
                    reason=cleaned_text(one.reason),
                )
                for one in event.problems
            )
            return replace(event, details=cleaned_json(event.details), problems=problems)
        case _:
            return event


def cleaned_error(error: ComfyRemoteError) -> ComfyRemoteError:
    """The error itself, its words and details cleaned."""
    error.message, error.advice = cleaned_text(error.message), cleaned_text(error.advice)
    error.args = (error.message,)
    error.details = cleaned_json(error.details)
    return error


def cleaned_text(text: str) -> str:
    """A text from elsewhere, as it may be shown; line breaks stay."""
    return clean(redact(text))


def cleaned_json(data: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The same JSON object with its texts cleaned."""
    return cast("dict[str, JsonValue]", with_texts(data, cleaned_text))
