"""Checks saved values against their widgets: which cannot belong there, and which are left over.

A file saved with another version of a pack, or by a pack whose script makes widgets that no schema
shows, has its values in other places. The editor uses them as they are; we report them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, permutations
from typing import TYPE_CHECKING, TypeAlias

from .doubt import shown
from .widgets import CONTROL_VALUES, Widget, fits

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["Misfits", "exchanged"]

Placed: TypeAlias = "tuple[Widget, JsonValue]"

_MAX_SHOWN = 5
_BUTTONS = ("image", "refresh")
"""What buttons save as their value."""


@dataclass(slots=True)
class Misfits:
    """What does not fit on one node: sentences, by input or (``None``) for the node."""

    sentences: list[tuple[str | None, str]] = field(default_factory=list)

    def find(self, placed: Sequence[Placed]) -> None:
        """Note the values that cannot be of their widgets."""
        wrong = [(w, value) for w, value in placed if w.sent and not fits(w, value)]
        if wrong:
            named = [f"{shown(value)} for {w.name} ({w.kind})" for w, value in wrong[:_MAX_SHOWN]]
            self.sentences.append(
                (
                    wrong[0][0].name,
                    f"saved values that cannot be of these inputs: {', '.join(named)}"
                    f"{_and_more(len(wrong))}. Others of this node may be shifted, too: open the "
                    "workflow in ComfyUI and check it, or set them",
                )
            )

    def moved(self, placed: Sequence[Placed]) -> None:
        """Note the values that were exchanged."""
        if placed:
            named = ", ".join(f"{shown(value)} for {w.name}" for w, value in placed)
            self.sentences.append(
                (
                    placed[0][0].name,
                    f"saved values stand in places where they cannot be; taken are {named}. It may "
                    "have been saved with another version of its pack",
                )
            )

    def shifted(self, placed: Sequence[Placed], by_name: Mapping[str, JsonValue]) -> None:
        """Note the values that the file has by name, too, and there for another input."""
        wrong = [(w, v) for w, v in placed if w.name in by_name and by_name[w.name] != v]
        if wrong:
            named = [
                f"{shown(value)} instead of {shown(by_name[w.name])} for {w.name}"
                for w, value in wrong[:_MAX_SHOWN]
            ]
            self.sentences.append(
                (
                    wrong[0][0].name,
                    f"by their places, its inputs get other values than by their names: "
                    f"{', '.join(named)}{_and_more(len(wrong))}. ComfyUI's editor goes by places; "
                    "check them, or set them",
                )
            )

    def drawn(self, name: str) -> None:
        """Note that a script of the page computes values again."""
        self.sentences.append(
            (
                name,
                "in the page, its script computes values from its drawing when the workflow is "
                "loaded; here they are those of the file",
            )
        )

    def group_node(self) -> None:
        """Note that newer editors read group nodes otherwise."""
        self.sentences.append(
            (
                None,
                "it is a group node. The values in it are those that its file shows; newer "
                "editors make a subgraph of it when they load it, and mix up many of them",
            )
        )

    def left_in_list(self, values: Sequence[JsonValue]) -> None:
        """Note values that are left when every widget has its own."""
        left = [value for value in values if _says_something(value)]
        if left:
            self._left(", ".join(shown(value) for value in left[:_MAX_SHOWN]), len(left))

    def left_by_name(self, values: Mapping[str, JsonValue]) -> None:
        """Note values whose names no widget has."""
        left = {name: value for name, value in values.items() if _says_something(value)}
        if left:
            some = islice(left.items(), _MAX_SHOWN)
            self._left(", ".join(f"{name} = {shown(value)}" for name, value in some), len(left))

    def _left(self, named: str, count: int) -> None:
        self.sentences.append(
            (
                None,
                f"more values were saved than it has inputs for here, and are not used: {named}"
                f"{_and_more(count)}. It may have been saved with another version of its pack",
            )
        )


def exchanged(placed: list[Placed], of_packs: Collection[str]) -> Iterator[Placed]:
    """The values that change places so that all fit, if there is one way only.

    Only where a pack's own widget is among those that do not fit: its place in the list is the
    pack's doing. ``placed`` is changed.
    """
    wrong = [i for i, (widget, value) in enumerate(placed) if not fits(widget, value)]
    if not any(placed[i][0].name in of_packs for i in wrong) or len(wrong) > 4:
        return
    values = [placed[i][1] for i in wrong]
    orders = [
        order
        for order in permutations(values)
        if all(fits(placed[i][0], value) for i, value in zip(wrong, order, strict=True))
    ]
    if len(orders) != 1:
        return
    for i, value in zip(wrong, orders[0], strict=True):
        placed[i] = (placed[i][0], value)
        yield placed[i]


def _and_more(count: int) -> str:
    return f", and {count - _MAX_SHOWN} more" if count > _MAX_SHOWN else ""


def _says_something(value: JsonValue) -> bool:
    """Buttons and previews save nothing, or what only the editor shows."""
    if not isinstance(value, str | int | float) or value in ("", *_BUTTONS):
        return False
    return value not in CONTROL_VALUES
