"""The quicker `dataclass`: its classes do what the standard library's do."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from dataclasses import FrozenInstanceError, asdict, field, replace

import pytest

from comfy_remote.data_class import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """Two numbers, and what is neither compared nor shown."""

    x: float
    y: float = 0.0
    memo: list[int] = field(default_factory=list, compare=False, repr=False)


@dataclass
class Plain:
    """One that can be changed."""

    x: int


@dataclass(frozen=True)
class Caseless:
    """One that compares in a way of its own."""

    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Caseless) and other.name.lower() == self.name.lower()


@dataclass(frozen=True, eq=False)
class Itself:
    """One that equals itself only."""

    x: int


@dataclass(frozen=True)
class Named(Caseless):
    """A class of such a class."""

    of: Named | None = None


def test_objects_are_equal_by_class_and_compared_fields() -> None:
    assert Point(1, 2, [1]) == Point(1, 2, [2])
    assert Point(1, 2) != Point(1, 3)
    assert Point(1) != (1, 0.0)
    assert Point(math.nan) == Point(math.nan), "the same object, as in a tuple"
    assert Plain(1) == Plain(1)
    assert Caseless("A") == Caseless("a")
    assert Named("a") != Named("A")
    assert Itself(1) != Itself(1)


def test_frozen_objects_are_keys_and_others_are_not() -> None:
    assert {Point(1, 2, [1]): "there"}[Point(1, 2)] == "there"
    assert hash(Caseless("a")) == hash(Caseless("a"))
    assert len({Itself(1), Itself(1)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Plain(1))


def test_objects_are_shown_as_they_are_made() -> None:
    assert repr(Point(1, 2, [1])) == "Point(x=1, y=2)"
    assert repr(Named("a", Named("b"))) == "Named(name='a', of=Named(name='b', of=None))"


def test_frozen_objects_stay_as_they_are() -> None:
    point = Point(1)
    with pytest.raises(FrozenInstanceError):
        point.x = 2.0  # type: ignore[misc]
    plain = Plain(1)
    plain.x = 2
    assert plain == Plain(2)


def test_the_standard_library_knows_them() -> None:
    point = Point(1, 2, [3])
    assert dataclasses.is_dataclass(Point)
    assert asdict(point) == {"x": 1, "y": 2, "memo": [3]}
    assert replace(point, x=5.0) == Point(5, 2)
    assert copy.deepcopy(point) == pickle.loads(pickle.dumps(point)) == point
    match point:
        case Point(x, y):
            assert (x, y) == (1, 2)
