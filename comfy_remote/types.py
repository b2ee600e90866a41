"""Small tools for JSON values: read as the type that is expected, and with all texts changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["JsonValue", "as_list", "mapping", "mappings", "with_texts"]

JsonValue: TypeAlias = "list[JsonValue] | dict[str, JsonValue] | str | bool | int | float | None"
"""pydantic's `JsonValue`, for modules that are read before pydantic is imported."""


def mapping(value: JsonValue) -> dict[str, JsonValue]:
    """A value where an object is expected; empty for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: JsonValue) -> list[JsonValue]:
    """A value where a list is expected; empty for anything else."""
    return value if isinstance(value, list) else []


def mappings(value: JsonValue) -> list[dict[str, JsonValue]]:
    """The objects in a value where a list of objects is expected."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def with_texts(value: JsonValue, change: Callable[[str], str]) -> JsonValue:
    """A JSON value with ``change`` applied to all of its texts, keys too."""
    match value:
        case str():
            return change(value)
        case list():
            return [with_texts(one, change) for one in value]
        case dict():
            return {change(key): with_texts(one, change) for key, one in value.items()}
        case _:
            return value
