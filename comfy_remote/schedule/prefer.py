"""What decides among the members of a route that can take a run."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["Prefer"]

Prefer: TypeAlias = Literal["order", "price", "soonest"]
