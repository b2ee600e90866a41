"""Text from elsewhere, made safe for a line in a terminal, a log or a page, and without secrets.

A remote's message, a node's class, a file's name may hold characters that control a terminal,
begin a new line in a log, change the order of what is shown, or cannot be written at all.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, cast

from .secrets import redact
from .types import JsonValue, with_texts

if TYPE_CHECKING:
    from .errors import ComfyRemoteError

__all__ = ["clean", "cleaned_error", "cleaned_json", "cleaned_text", "escaped_json", "one_line"]

# Control characters (C0 but for the line break, DEL, C1), lone surrogates, line and paragraph
# separators, and what is invisible and changes the order or the meaning of what is beside it.
_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u061c\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff0-\ufffb\U000e0000-\U000e007f]"
)
_LONGEST_MESSAGE, _LONGEST_DETAIL = 8_000, 64 * 1024
_BREAKS = re.compile(r"(?:\r\n|[\n\r\t\x0b\x0c\x85\u2028\u2029])+")


def clean(text: str) -> str:
    """The text with line breaks as they are, and U+FFFD for what must not be shown."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub("\ufffd", text.replace("\t", " "))


def one_line(text: str) -> str:
    """`clean`, and a space for line breaks: for a log, where a line is an entry."""
    return clean(_BREAKS.sub(" ", text))


def escaped_json(text: str) -> str:
    """JSON with the same content, in which what must not be shown is written as ``\\uXXXX``."""
    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def cleaned_error(error: ComfyRemoteError) -> ComfyRemoteError:
    """The same error, with its message, advice and details cleaned, and no longer than people read.

    It is recorded and shown, and a server may say megabytes.
    """
    from .advice import Advice  # here: not on the way to --help

    error.message, advice = _cut(cleaned_text(error.message), _LONGEST_MESSAGE), error.advice
    error.advice = (
        advice.mapped(cleaned_text) if isinstance(advice, Advice) else cleaned_text(advice)
    )
    error.args = (error.message,)
    # Cut last: half a secret is not known as one.
    short = with_texts(error.details, lambda text: _cut(cleaned_text(text), _LONGEST_DETAIL))
    error.details = cast("dict[str, JsonValue]", short)
    return error


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} …"


def cleaned_text(text: str) -> str:
    """A text from elsewhere, as it may be shown; line breaks stay."""
    return clean(redact(text))


def cleaned_json(data: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The same JSON object with its texts cleaned."""
    return cast("dict[str, JsonValue]", with_texts(data, cleaned_text))
