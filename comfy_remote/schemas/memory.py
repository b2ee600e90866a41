"""What targets said about their nodes the last time they were asked."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from ..types import JsonValue
from .store import Store, Stored

__all__ = ["Memory"]

_MOST = 32
_AGE = timedelta(days=90)
_OFTEN_ENOUGH = timedelta(hours=1)


class Memory:
    """The last description of each target, in the user's data folder."""

    def __init__(self, home: Path) -> None:
        self._store = Store(home / "schemas" / "targets", most=_MOST, age=_AGE)

    def keep(self, address: str, nodes: Mapping[str, JsonValue]) -> None:
        """Store a target's ``/object_info``, by address: its name may later mean another one."""
        if not self._store.is_newer(address, _OFTEN_ENOUGH):
            self._store.put(address, dict(nodes))

    def recall(self, address: str) -> Stored | None:
        """What it said, if that is not more than 90 days ago."""
        return self._store.get(address)
