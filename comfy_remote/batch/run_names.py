"""What the folder of a run, and a file in a common folder, are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from ..types import JsonValue

__all__ = ["flat_name", "run_name"]


def run_name(row: int, values: Mapping[str, JsonValue]) -> str:
    """The folder of a run: its number."""
    del values
    return f"{row:04}"


def flat_name(pattern: str, row: int, values: Mapping[str, JsonValue], output_name: str) -> str:
    """The name of an output where all are in one folder."""
    del values
    path = PurePath(output_name)
    named = {"index": f"{row:04}", "name": path.stem, "ext": path.suffix}
    for word, text in named.items():
        pattern = pattern.replace("{" + word + "}", text)
    return pattern
