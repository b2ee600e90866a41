"""The values that an input takes, one after another: computed from their number, or stored."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TypeAlias

from ..types import JsonValue, mapping
from .frozen_rows import FrozenRows

__all__ = ["Drawn", "Stepped", "Stored", "Values", "values_from_json"]


@dataclass(frozen=True, slots=True)
class Stepped:
    """A range: ``(first + number * step) / 10 ** scale``, exactly.

    Whole numbers (``scale`` 0) are `int`, others the `float` that is nearest.
    """

    first: int
    step: int
    count: int
    scale: int = 0

    def at(self, number: int) -> list[JsonValue]:
        """The value, as a row of one."""
        value = self.first + number * self.step
        return [float(f"{value}e-{self.scale}") if self.scale else value]

    def to_json(self) -> dict[str, JsonValue]:
        """For `values_from_json`."""
        return {
            "kind": "stepped",
            "first": self.first,
            "step": self.step,
            "count": self.count,
            "scale": self.scale,
        }


@dataclass(frozen=True, slots=True)
class Drawn:
    """Seeds that look random, all of them different: ``(first + number * step) % modulus``.

    ``step`` and ``modulus`` have no common divisor, so none comes again in ``modulus`` draws.
    """

    first: int
    step: int
    count: int
    modulus: int

    @classmethod
    def by(cls, source: random.Random, count: int, modulus: int) -> Drawn:
        """Draw the first and the step."""
        step = source.randrange(modulus // 3, max(modulus // 3 + 1, modulus // 3 * 2))
        while math.gcd(step, modulus) != 1:
            step += 1
        return cls(source.randrange(modulus), step, count, modulus)

    def at(self, number: int) -> list[JsonValue]:
        """The seed, as a row of one."""
        return [(self.first + number * self.step) % self.modulus]

    def to_json(self) -> dict[str, JsonValue]:
        """For `values_from_json`."""
        return {
            "kind": "drawn",
            "first": self.first,
            "step": self.step,
            "count": self.count,
            "modulus": self.modulus,
        }


@dataclass(frozen=True, slots=True)
class Stored:
    """``count`` rows of `FrozenRows`, from the one numbered ``first``."""

    rows: FrozenRows
    first: int
    count: int

    def at(self, number: int) -> list[JsonValue]:
        """The row."""
        return self.rows[self.first + number]

    def to_json(self) -> dict[str, JsonValue]:
        """For `values_from_json`."""
        return {"kind": "stored", "first": self.first, "count": self.count}


Values: TypeAlias = "Stepped | Drawn | Stored"


def values_from_json(value: JsonValue, rows: FrozenRows) -> Values:
    """The inverse of ``to_json``; raises `KeyError` or `ValueError` for anything else."""
    found = mapping(value)
    kind = found["kind"]
    numbers = {name: one for name, one in found.items() if isinstance(one, int)}
    if kind == "stepped":
        return Stepped(*(numbers[name] for name in ("first", "step", "count", "scale")))
    if kind == "drawn":
        return Drawn(*(numbers[name] for name in ("first", "step", "count", "modulus")))
    if kind == "stored":
        return Stored(rows, numbers["first"], numbers["count"])
    raise ValueError(f"{kind!r} are no values")
