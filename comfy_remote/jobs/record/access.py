"""How the parts of a `Record` use its file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Protocol, TypeAlias, TypeVar

__all__ = ["Read", "Write"]

_T = TypeVar("_T")

Read: TypeAlias = Callable[..., list[sqlite3.Row]]
"""Gives the rows of a query: the SQL, then its values."""


class Write(Protocol):
    """Runs something in the record's writing thread, and gives what that returns."""

    def __call__(self, work: Callable[[sqlite3.Connection], _T]) -> _T: ...
