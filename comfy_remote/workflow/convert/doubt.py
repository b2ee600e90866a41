"""What a conversion is not sure of: a saved value that may not be where it belongs."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["Doubt", "shown"]


@dataclass(frozen=True, slots=True)
class Doubt:
    """A saved value of a node that does not fit.

    Attributes:
        node_id: The node's id in the prompt.
        class_type: Its class.
        input: The input that has got the value; ``None`` where none has.
        message: What is not certain about it, a sentence, with the value.
    """

    node_id: str
    class_type: str
    input: str | None
    message: str

    @property
    def sentence(self) -> str:
        """The message with its node, for people."""
        return f"Warning: node {self.node_id} ({self.class_type}): {self.message}"


def shown(value: JsonValue) -> str:
    """A value for a message: short."""
    return reprlib.repr(value)
