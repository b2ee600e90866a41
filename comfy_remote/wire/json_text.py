"""Reading JSON that came from elsewhere: one kind of error, and text that can be written."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from ..errors import RequestTooLarge

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["check_json_values", "parse_json"]

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# In text without escapes. One that knows them would take memory for each character it passed.
_QUOTED = re.compile(rb'"[^"]*"')


def parse_json(text: str | bytes) -> JsonValue:
    """The value of a JSON text.

    ``NaN`` and ``Infinity``, which ComfyUI writes though JSON has no such thing, become null.
    Half a surrogate pair, which can be neither printed nor saved, becomes ``?``, and what is
    not UTF-8 becomes U+FFFD.

    Raises:
        ValueError: It is not JSON, or it is nested too deeply to be anything we asked for.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig", "replace")
    try:
        value: JsonValue = json.loads(text, parse_constant=lambda _: None)
        if _SURROGATE.search(text):
            clean = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
            value = json.loads(clean)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def check_json_values(text: bytes, most: int) -> None:
    """Refuse JSON of too many values before it is parsed: ``[],[],…`` takes thirty times its size.

    Args:
        most: Values, keys not counted.

    Raises:
        RequestTooLarge: It has more.
    """
    if _marks_in(text) <= most:
        return
    # Quoted text may hold such marks, too. A value and its key take four quotes at most.
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in text else text
    if bare.count(b'"') > 5 * most or _marks_in(_QUOTED.sub(b"", bare)) > most:
        raise RequestTooLarge(
            f"The JSON holds more than {most} values.",
            advice="Send large data as a file, or less of it.",
            details={"values": most},
        )


def _marks_in(text: bytes) -> int:
    """How many values JSON has at least without its first; more where texts have such marks."""
    return sum(map(text.count, (b",", b"[", b"{")))
