"""Finding what waits for itself."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

__all__ = ["find_circle"]

_Item = TypeVar("_Item", bound=Hashable)


def find_circle(needs: Mapping[_Item, Collection[_Item]]) -> list[_Item] | None:
    """Items that need each other in a circle, each once; ``None`` if none do."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        found: list[_Item] = error.args[1]
        return found[1:]  # the first is the last again
    return None
