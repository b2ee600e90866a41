"""Objects of other packages' classes, taken apart into values that travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["ObjectAdapter", "ObjectParts"]


class ObjectAdapter(Protocol):
    """Knows one kind of object, so that this package need not import its class."""

    @property
    def kind(self) -> str:
        """The kind's name in the file, for example ``video``."""
        ...

    def take_apart(self, value: object) -> object | None:
        """What the object is made of, as a value that travels; ``None`` if it is another kind."""
        ...

    def put_together(self, parts: object) -> object:
        """The object, made from what `take_apart` returned on the other side.

        Raises:
            ValueError: The parts make no such object (so do TypeError and LookupError).
        """
        ...


@dataclass(frozen=True, slots=True)
class ObjectParts:
    """An object that no adapter here knows: its parts, encoded again as they came."""

    kind: str
    parts: object
