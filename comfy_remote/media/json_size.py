"""How much memory a JSON text would take, estimated before it is parsed."""

from __future__ import annotations

import re

__all__ = ["has_more_values"]

# In text without escapes. One that knows them would take memory for each character it passed.
_QUOTED = re.compile(rb'"[^"]*"')


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
