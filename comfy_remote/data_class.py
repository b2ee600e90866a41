"""`dataclasses.dataclass` for modules that every run imports: the same classes, made sooner.

The standard library compiles six methods for each class, which takes half a millisecond, and a
small run has eighty such classes. Comparing, hashing and showing an object needs no code of its
class's own: here all classes share these three methods, which take some microseconds longer.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls=None, /, *, eq=True, repr=True, frozen=False, **options):  # noqa: A002
        """As `dataclasses.dataclass`, without ``order`` and ``unsafe_hash``."""
        if cls is None:
            return lambda cls: dataclass(cls, eq=eq, repr=repr, frozen=frozen, **options)
        shared = {}
        if repr:
            shared["__repr__"] = _repr
        if eq:
            shared |= {"__eq__": _eq, "__hash__": _hash if frozen else None}
        for name, method in shared.items():
            if vars(cls).get(name) is None:  # a class with its own `__eq__` has no `__hash__`
                setattr(cls, name, method)
        return dataclasses.dataclass(cls, eq=False, repr=False, frozen=frozen, **options)


__all__ = ["dataclass"]


@recursive_repr()
def _repr(self: Any) -> str:
    shown = [one.name for one in dataclasses.fields(self) if one.repr]
    values = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
    return f"{type(self).__qualname__}({values})"


def _eq(self: object, other: object) -> object:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return _compared(self) == _compared(other)


def _hash(self: object) -> int:
    return hash(_compared(self))


def _compared(value: object) -> tuple[object, ...]:
    cls: Any = type(value)
    # A tuple takes an object to be equal to itself, as the standard library's methods do.
    return tuple([getattr(value, name) for name in _names(cls)])


@cache
def _names(cls: Any) -> tuple[str, ...]:
    return tuple(one.name for one in dataclasses.fields(cls) if one.compare)
