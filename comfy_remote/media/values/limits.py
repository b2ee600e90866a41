"""Limits on what reading a value file may cost, and the JSON reader that obeys them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

from ...errors import ValueInvalid
from ...types import JsonValue

__all__ = ["MAX_INTEGER_BITS", "ValueLimits", "check_plain", "invalid", "strict_json"]

MAX_INTEGER_BITS = 4096
"""Python's integers have no limit, but writing one as text takes time quadratic in its length."""

_MAX_INTEGER_DIGITS = 1234  # of 2 ** 4096
# In text without escapes. One that knows them would keep a note of each character it passed.
_STRING = re.compile(r'"[^"]*"')
_MARKS_OF_A_DOCUMENT = 8


@dataclass(frozen=True, slots=True)
class ValueLimits:
    """What a value may need at most.

    Attributes:
        bytes: Of the file, and of the pictures in it when they are decoded.
        depth: Containers inside of each other.
        items: Values in all: each list, each dict and everything in them.
        tensors: Tensors and blobs in the file.
    """

    bytes: int = 4 * 1024**3
    depth: int = 64
    items: int = 1_000_000
    tensors: int = 100_000


def invalid(why: str) -> ValueInvalid:
    """The error for a value file (or envelope) that is not what it should be."""
    return ValueInvalid(
        f"This is not a value that can be read: {why}.",
        advice="It may be damaged, or made by a program that does not follow the format: see "
        "docs/values.md.",
    )


def strict_json(text: str, items: int) -> JsonValue:
    """JSON without repeated keys, NaN or Infinity.

    Args:
        items: How many values there may be. What cannot be so few is refused before it is
            parsed, since each would take some 60 bytes; the caller counts what is left.

    Raises:
        ValueInvalid: It is not such JSON.
    """
    # A value, its tag and its key (`"key":{"$":"tuple","items":[]},`) take four marks and
    # twelve quotes at most.
    bare = text.replace(r"\\", "").replace(r"\"", "") if "\\" in text else text
    most = 4 * items + _MARKS_OF_A_DOCUMENT
    if bare.count('"') <= 3 * most:
        bare = _STRING.sub("", bare)
    if bare.count('"') > 3 * most or sum(map(bare.count, ",[{")) > most:
        raise invalid(f"it holds more than {items} values")
    try:
        value: JsonValue = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError:
        raise invalid("its JSON is nested too deeply") from None
    except ValueError as error:
        raise invalid(f"its JSON is broken ({str(error)[:200]})") from None
    return value


def check_plain(value: JsonValue, limits: ValueLimits) -> None:
    """Raise `ValueInvalid` for a JSON value beyond the limits on items or depth."""
    items = 0
    level: list[JsonValue] = [value]
    for _ in range(limits.depth + 2):
        items += len(level)
        if items > limits.items:
            raise invalid(f"it holds more than {limits.items} values")
        below: list[JsonValue] = []
        for one in level:
            if isinstance(one, list):
                below += one
            elif isinstance(one, dict):
                below += one.values()
        if not below:
            return
        level = below
    raise invalid(f"it is more than {limits.depth} containers deep")


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is in one object twice")
    return made


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _integer(digits: str) -> int:
    if len(digits) > _MAX_INTEGER_DIGITS + 1:
        raise ValueError("an integer is too long")
    return int(digits)
