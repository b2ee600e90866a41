"""Widgets that packs' own scripts make, as far as a class's schema and its file show them.

Two kinds: an input of a type that the editor itself has no widget for, and inputs that the
chosen value of a list brings along (``formats`` among the options of the list).

Source of facts: VideoHelperSuite, mtb, KJNodes and RMBG (their schemas, and what the editor makes
of their example workflows).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...types import mapping
from ..schema import InputSchema, NodeSchema, input_schema
from .document import SavedNode
from .widgets import has_widget, is_widget, widgets_of

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["brought_inputs", "pack_widgets"]


def pack_widgets(schema: NodeSchema, saved: SavedNode) -> frozenset[str]:
    """The inputs of types that the editor does not know which are edited in place all the same.

    A file lists every socket of a node. So an input that it does not list, and which has a
    default or a saved value, is a widget; one that it lists is what it says there. An input
    without a default is one only if values are left for it, and nothing could be linked to it.
    """
    slots = {slot.name: slot for slot in saved.inputs}
    edited_ones = [spec for spec in schema.inputs if is_widget(spec)]
    plain = sum(widget.saved for spec in edited_ones for widget in widgets_of(spec))
    most = plain + sum(_most_brought(spec) for spec in edited_ones)
    count = len(saved.values or ())
    found: set[str] = set()
    for spec in schema.inputs:
        if has_widget(spec) or spec.socket_only or spec.type == "*" or _is_dynamic(spec):
            continue
        slot = slots.get(spec.name)
        if slot is not None:
            edited = slot.widget is not None
        elif isinstance(saved.values, dict):
            has_default = spec.options.get("default") is not None
            edited = spec.name in saved.values or (not spec.optional and has_default)
        else:
            # A text alone says little: "None" is the default of sockets, too.
            default = spec.options.get("default")
            known = isinstance(default, str | int | float) or "widgetType" in spec.options
            words = spec.optional and isinstance(default, str) and not default.startswith("#")
            edited = known and (not words or count > plain)
            edited = edited or (count > most and spec.name in schema.unproduced)
        if edited:
            found.add(spec.name)
    return frozenset(found)


def _is_dynamic(spec: InputSchema) -> bool:
    return spec.type.startswith("COMFY_")


def _most_brought(spec: InputSchema) -> int:
    return max(map(len, brought_inputs(spec).values()), default=0)


def brought_inputs(spec: InputSchema) -> Mapping[str, list[InputSchema]]:
    """The further inputs of a list, by the choice that brings them along."""
    return {
        choice: [found for one in inputs if (found := _brought(one)) is not None]
        for choice, inputs in mapping(spec.options.get("formats")).items()
        if isinstance(inputs, list)
    }


def _brought(raw: JsonValue) -> InputSchema | None:
    """An input as ``[name, type, options]``."""
    match raw:
        case [str(name), kind, *more]:
            return input_schema(name, [kind, *more])
        case _:
            return None
