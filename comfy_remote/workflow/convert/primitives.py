"""PrimitiveNode: a value that the editor writes into the widgets it is linked to.

Source of facts: ComfyUI's frontend 1.49.6 (widget inputs).
"""

from __future__ import annotations

from collections.abc import Callable

from ...types import JsonValue
from .document import Slot
from .graph import Graph, Host
from .node import Node
from .virtual import PRIMITIVE
from .widgets import UNSET, Unset, Widget, settle

__all__ = ["apply_primitives"]

_REPLACE = "Run widget replace on values"


def apply_primitives(graph: Graph, replace: Callable[[str], str]) -> None:
    """Write the values of a graph's primitives into the widgets they are linked to.

    ``replace`` fills in the placeholders of a text, where the primitive is set to do so.
    """
    if not any(node.type == PRIMITIVE for node in graph.nodes.values()):
        return
    for node in graph.in_order():
        if node.type == PRIMITIVE and node.outputs:
            _apply(graph, node, replace)


def _apply(graph: Graph, primitive: Node, replace: Callable[[str], str]) -> None:
    targets = [graph.target(link_id) for link_id in primitive.outputs[0].links]
    if not targets or targets[0] is None:
        return
    first = _widget(*targets[0])
    if first is None or first[1].schema is None:
        return
    value: JsonValue | Unset = first[0].values.get(first[1].name, UNSET)
    saved = primitive.saved.values
    if isinstance(saved, list) and saved:
        value = saved[0]
    widgets = [widget for target in targets if target and (widget := _widget(*target))]
    value = _within(value, [widget for _, widget in widgets])
    if isinstance(value, str) and value and primitive.properties.get(_REPLACE):
        value = replace(value)
    if value is None and first[1].schema.choices:
        value = first[1].schema.choices[0]
    for target in targets:
        if target is None or isinstance(target[0], Host):
            continue
        node, slot = target
        own = node.widget(slot.widget) if slot.widget is not None else None
        if own is not None:
            node.set_value(own, value if isinstance(value, Unset) else settle(own, value))


def _widget(node: Node, slot: Slot) -> tuple[Node, Widget] | None:
    if isinstance(node, Host):
        return node.inner_widget(slot.name)
    widget = node.widget(slot.widget) if slot.widget is not None else None
    return (node, widget) if widget else None


def _within(value: JsonValue | Unset, widgets: list[Widget]) -> JsonValue | Unset:
    """A number within the limits of all the widgets it goes to."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if not widgets or widgets[0].kind not in ("INT", "FLOAT"):
        return value
    for widget in widgets:
        options = widget.schema.options if widget.schema else {}
        low, high = options.get("min"), options.get("max")
        if isinstance(low, int | float) and value < low:
            value = low
        if isinstance(high, int | float) and value > high:
            value = high
    return value
