"""Bounded reading of binary files, whatever sizes they claim."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import BinaryIO, cast

from ...json_text import has_more_values
from ...types import JsonValue, mapping

__all__ = [
    "MAX_TEXT_BYTES",
    "Malformed",
    "ends_with",
    "exactly",
    "json_of",
    "skip",
    "text_of",
    "texts_in",
]

MAX_TEXT_BYTES = 16 * 1024 * 1024
"""The largest workflows are a few megabytes."""

_MAX_VALUES = 2_000_000
_TAIL = 64 * 1024


class Malformed(Exception):
    """A file is not what its first bytes promise; the text says in what way."""


def exactly(file: BinaryIO, size: int, most: int = MAX_TEXT_BYTES) -> bytes:
    """The next ``size`` bytes.

    Raises:
        EOFError: The file ends before.
        Malformed: That is more than ``most``.
    """
    if size > most:
        raise Malformed(f"its metadata claims to have {size} bytes")
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def skip(file: BinaryIO, size: int) -> None:
    """Go ``size`` bytes on, without reading them."""
    file.seek(size, os.SEEK_CUR)


def ends_with(file: BinaryIO, size: int, end: bytes, *, padded: bool = False) -> bool:
    """Whether a file ends with these bytes, or has them in its last 64 KiB.

    Args:
        padded: Nothing but zeros may follow them.
    """
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    return tail.rstrip(b"\0").endswith(end) if padded else end in tail


def text_of(data: bytes) -> str:
    """UTF-8, or Latin-1, which some savers write."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def texts_in(document: JsonValue) -> Iterator[tuple[str, str]]:
    """The names and values of a JSON object; values that are no texts as JSON."""
    for name, value in mapping(document).items():
        yield name, value if isinstance(value, str) else json.dumps(value)


def json_of(data: bytes, what: str) -> JsonValue:
    """Parsed JSON.

    Args:
        what: Names it in the error: "its header".

    Raises:
        Malformed: It is not valid JSON, or would take too much memory.
    """
    if has_more_values(data, _MAX_VALUES):
        raise Malformed(f"{what} has too many values")
    try:
        return cast("JsonValue", json.loads(data))
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{what} is not valid JSON") from error
