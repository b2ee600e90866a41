"""Reading JSON that came from elsewhere: one kind of error, and text that can be written."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["parse_json"]

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


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
