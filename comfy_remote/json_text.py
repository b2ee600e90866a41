"""Reading JSON from elsewhere: one kind of error, bounded memory, and text that can be written."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

from .errors import RequestTooLarge
from .types import JsonValue

if TYPE_CHECKING:
    from pydantic import ValidationError

__all__ = ["check_json_values", "has_more_values", "parse_json", "problems_in"]

# Text in quotes, without escapes: an expression that knows escapes would need memory for each
# character that it passes.
_QUOTED = re.compile(rb'"[^"]*"')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MOST_DIGITS = 308  # of what a float can hold
_MOST_VALUES = 5_000_000
"""Several times what the largest ComfyUI says of its nodes."""


def parse_json(text: str | bytes) -> JsonValue:
    """The value of a JSON text.

    ``NaN`` and ``Infinity``, which ComfyUI writes though JSON has no such thing, become null, and
    so does a number that is too large for a float (``1e999``, or 400 digits).
    Half a surrogate pair, which can be neither printed nor saved, becomes ``?``, and what is
    not UTF-8 becomes U+FFFD.

    Raises:
        ValueError: It is not JSON, or it is nested too deeply or holds too many values to be
            anything we asked for.
    """
    if has_more_values(text, _MOST_VALUES):
        raise ValueError("too many values")
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig", "replace")
    try:
        value: JsonValue = json.loads(
            text, parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole
        )
        if _SURROGATE.search(text):
            clean = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
            value = json.loads(clean)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _whole(text: str) -> int | None:
    return int(text) if len(text) <= _MOST_DIGITS else None


def check_json_values(text: bytes, most: int) -> None:
    """Refuse JSON of more values than that, keys not counted, before it is parsed."""
    if has_more_values(text, most):
        raise RequestTooLarge(
            f"The JSON holds more than {most} values.",
            advice="Send large data as a file, or less of it.",
            details={"values": most},
        )


def has_more_values(text: str | bytes, most: int) -> bool:
    """Whether JSON has more values (and containers) than that: ``[],[],…`` takes thirty times
    its size once it is parsed.

    Args:
        most: Keys do not count.
    """
    if len(text) <= most:
        return False
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    if _marks_in(data) <= most:
        return False
    # Quoted text may hold such marks, too. A value and its key take four quotes at most.
    bare = data.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in data else data
    return bare.count(b'"') > 5 * most or _marks_in(_QUOTED.sub(b"", bare)) > most


def _marks_in(text: bytes) -> int:
    """How many values JSON has at least without its first; more where texts have such marks."""
    return sum(map(text.count, (b",", b"[", b"{")))


def problems_in(error: ValidationError, whole: str) -> str:
    """What pydantic found wrong, in one line: ``images.0.name: Field required; format: …``.

    It never contains a value, which may be a key. ``whole`` is what to call the document itself.
    """
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or whole}: {_pydantic_words(e['type'], e['msg'])}"
        for e in error.errors()
    )


def _pydantic_words(kind: str, message: str) -> str:
    """Pydantic's message, without what tells people nothing."""
    return "unknown key" if kind == "extra_forbidden" else message.removeprefix("Value error, ")
