"""What a conversion is not sure of, and the error where it cannot be exact.

A file saved with another version of a pack, or by a pack whose script makes widgets that no schema
shows, has its values in other places. The editor uses them as they are; we report them.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol, TypeAlias

from ...errors import WorkflowInvalid
from ...types import JsonValue
from .widgets import CONTROL_VALUES, Widget, fits

__all__ = ["Doubt", "NodeDoubts", "invalid"]

_Placed: TypeAlias = "tuple[Widget, JsonValue]"

_MAX_SHOWN = 5
_BUTTONS = ("image", "refresh")
"""What buttons save as their value."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A saved value of a node that does not fit.

    Attributes:
        node_id: The node's id in the prompt.
        input: The input that has the value; ``None`` if none has it.
        message: What is uncertain, a sentence with the value.
    """

    node_id: str
    class_type: str
    input: str | None
    message: str

    @property
    def sentence(self) -> str:
        """The message with its node, for people."""
        return f"Warning: node {self.node_id} ({self.class_type}): {self.message}"


@dataclass(slots=True)
class NodeDoubts:
    """The doubts about one node: sentences, by input or (``None``) for the node."""

    sentences: list[tuple[str | None, str]] = field(default_factory=list)

    def find(self, placed: Sequence[_Placed]) -> None:
        """Note the values that cannot be of their widgets."""
        wrong = [(w, value) for w, value in placed if w.sent and not fits(w, value)]
        if wrong:
            named = [f"{_shown(value)} for {w.name} ({w.kind})" for w, value in wrong[:_MAX_SHOWN]]
            self._add(
                wrong[0][0].name,
                f"saved values that cannot be of these inputs: {', '.join(named)}"
                f"{_and_more(len(wrong))}. Other values of this node may also be shifted: open the "
                "workflow in ComfyUI and check it, or set them",
            )

    def moved(self, placed: Sequence[_Placed]) -> None:
        """Note the values that were exchanged."""
        if placed:
            named = ", ".join(f"{_shown(value)} for {w.name}" for w, value in placed)
            self._add(
                placed[0][0].name,
                f"saved values did not fit their inputs, and were exchanged: {named}. It may have "
                "been saved with another version of its pack",
            )

    def shifted(self, placed: Sequence[_Placed], by_name: Mapping[str, JsonValue]) -> None:
        """Note the values that differ from those that the file has by name."""
        wrong = [(w, v) for w, v in placed if w.name in by_name and by_name[w.name] != v]
        if wrong:
            named = [
                f"{_shown(value)} instead of {_shown(by_name[w.name])} for {w.name}"
                for w, value in wrong[:_MAX_SHOWN]
            ]
            self._add(
                wrong[0][0].name,
                f"the file has other values for its inputs by position than by name: "
                f"{', '.join(named)}{_and_more(len(wrong))}. ComfyUI's editor uses positions; "
                "check them, or set them",
            )

    def computed(self, name: str) -> None:
        """Note that a script of the page computes values again."""
        self._add(
            name,
            "in ComfyUI's page, a script of its pack computes values of it (from what is drawn or "
            "stored there); here they are those of the file",
        )

    def lost_link(self, origin: str) -> None:
        """Note a link of Use Everywhere whose input is not known."""
        self._add(
            None,
            f"the file notes a link from node {origin} to it (Use Everywhere), and it is not clear "
            "to which input; it is not made",
        )

    def group_node(self) -> None:
        """Note that newer editors read group nodes differently."""
        self._add(
            None,
            "it is a group node. Its values are those of the file; newer editors turn it into a "
            "subgraph when they load it, and mix up many of them",
        )

    def left_in_list(self, values: Sequence[JsonValue]) -> None:
        """Note values that are left when every widget has its own."""
        left = [value for value in values if _says_something(value)]
        if left:
            self._left(", ".join(_shown(value) for value in left[:_MAX_SHOWN]), len(left))

    def left_by_name(self, values: Mapping[str, JsonValue]) -> None:
        """Note values whose names no widget has."""
        left = {name: value for name, value in values.items() if _says_something(value)}
        if left:
            some = islice(left.items(), _MAX_SHOWN)
            self._left(", ".join(f"{name} = {_shown(value)}" for name, value in some), len(left))

    def _add(self, name: str | None, sentence: str) -> None:
        self.sentences.append((name, sentence))

    def _left(self, named: str, count: int) -> None:
        self._add(
            None,
            f"the file has more values than it has inputs here; these are not used: {named}"
            f"{_and_more(count)}. It may have been saved with another version of its pack",
        )


class _Named(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def title(self) -> str | None: ...


def invalid(node: _Named, why: str, advice: str = "") -> WorkflowInvalid:
    """The error for a node, as saved or as loaded; ``why`` is part of a sentence."""
    title = f", titled {node.title!r}" if node.title and node.title != node.type else ""
    return WorkflowInvalid(
        f"The workflow cannot be converted at node {node.id} ({node.type}{title}): {why}.",
        advice=advice or "Or export it from ComfyUI with Workflow > Export (API).",
        details={"node_id": node.id, "class_type": node.type},
    )


def _shown(value: JsonValue) -> str:
    return reprlib.repr(value)


def _and_more(count: int) -> str:
    return f", and {count - _MAX_SHOWN} more" if count > _MAX_SHOWN else ""


def _says_something(value: JsonValue) -> bool:
    """Buttons and previews save nothing, or what only the editor shows."""
    if not isinstance(value, (str, int, float)) or value in ("", *_BUTTONS):
        return False
    return value not in CONTROL_VALUES
