"""Which widgets an input of a node class makes, and with which values.

A widget's values are saved by position, so every widget that the editor makes counts, also
those that never reach a prompt (``control_after_generate``, upload buttons).

Source of facts: ComfyUI's frontend 1.27.10 and 1.49.6 (widget constructors and core
extensions), read and then checked against what it makes of the official templates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING, Final, TypeAlias

from ...types import JsonValue
from ..schema import DYNAMIC_COMBO

if TYPE_CHECKING:
    from ..schema import InputSchema

__all__ = [
    "CONTROL_VALUES",
    "UNSET",
    "Unset",
    "Widget",
    "exchanged",
    "fits",
    "has_widget",
    "is_widget",
    "settle",
    "widgets_of",
]

_Placed: TypeAlias = "tuple[Widget, JsonValue]"

_COLOR = re.compile(r"#[0-9a-fA-F]{3,8}")
CONTROL_VALUES = ("fixed", "increment", "decrement", "randomize")
"""What happens to a seed after a run."""
_SEEDS = ("seed", "noise_seed")
_BOX = {"x": 0, "y": 0, "width": 512, "height": 512}


class Unset:
    """The type of `UNSET`: a widget without any value, which a prompt leaves out."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset()


@dataclass(slots=True)
class Widget:
    """A widget of a node.

    Attributes:
        kind: What it edits: the input's type, or ``control``, ``filter``, ``button``, ``number``.
        default: Its value until one is restored.
        saved: Whether it has a place in the saved list of values.
        sent: Whether its value goes into the prompt.
        dynamic: Whether ``{a|b}`` and comments in its text are resolved on queueing.
    """

    name: str
    kind: str
    default: JsonValue | Unset = UNSET
    saved: bool = True
    sent: bool = True
    dynamic: bool = False
    schema: InputSchema | None = None


_SIMPLE: dict[str, JsonValue] = {
    "STRING": "",
    "MARKDOWN": "",
    "TEXTAREA": "",
    "PAINTER": "",
    "BOOLEAN": False,
    "INT": 0,
    "FLOAT": 0,
    "BOUNDING_BOX": dict(_BOX),
    "BOUNDING_BOXES": [],
    "COLORS": [],
    "COLOR": "#000000",
    "CURVE": {"points": [[0, 0], [1, 1]], "interpolation": "monotone_cubic"},
    "RANGE": {"min": 0.0, "max": 1.0},
    "CHART": {},
    "GALLERIA": [],
    "COMPOSITOR": "",
}
_NESTED_DEFAULT = {"COLOR": "default", "TEXTAREA": "default", "CHART": "data", "GALLERIA": "images"}
_OTHER = {
    "COMBO",
    "IMAGECOMPARE",
    "VIDEO_EDIT",
    "IMAGEUPLOAD",
    "AUDIOUPLOAD",
    "AUDIO_UI",
    "AUDIO_RECORD",
    "WEBCAM",
    "LOAD_3D",
    "LOAD_3D_ANIMATION",
    DYNAMIC_COMBO,
}
_TYPES = frozenset(_OTHER | _SIMPLE.keys())
_FITTING: dict[str, Collection[type]] = {
    "INT": {int, float},
    "FLOAT": {int, float},
    "BOOLEAN": {bool},
    "STRING": {str, type(None)},
    "MARKDOWN": {str, type(None)},
}
"""By kind: types whose values all fit."""


def is_widget(schema: InputSchema) -> bool:
    """Whether an input is edited in place; else it is a socket, for links only."""
    return has_widget(schema) and not schema.socket_only


def has_widget(schema: InputSchema) -> bool:
    """Whether there are widgets for an input's type, even if it asks for a socket."""
    return schema.widget_type in _TYPES


def widgets_of(schema: InputSchema) -> Iterator[Widget]:
    """The widgets of one input, in their order: its own first."""
    kind, name, options = schema.widget_type, schema.name, schema.options
    match kind:
        case "COMBO":
            yield Widget(name, kind, _combo_default(schema), schema=schema)
        case _ if kind == DYNAMIC_COMBO:
            return  # its node makes it, together with the inputs of its options
        case "IMAGECOMPARE":
            yield Widget(name, kind, ["", ""], saved=False, schema=schema)
        case "VIDEO_EDIT":
            yield Widget(name, kind, _video_edit_default(schema), schema=schema)
        case "IMAGEUPLOAD" | "AUDIOUPLOAD":
            yield Widget(name, "button", sent=False)
        case "AUDIO_UI":
            yield Widget(name, kind, saved=False, sent=False)
        case "AUDIO_RECORD":
            yield Widget(name, kind, "", schema=schema)
            yield Widget(name, "button", sent=False)
        case "LOAD_3D" | "LOAD_3D_ANIMATION" | "WEBCAM":
            yield Widget(name, kind, "", schema=schema)
        case _:
            dynamic = kind == "STRING" and options.get("dynamicPrompts") is True
            yield Widget(name, kind, _default(schema), dynamic=dynamic, schema=schema)
    if kind == "BOUNDING_BOX":
        for side, value in _BOX.items():
            yield Widget(side, "number", value, sent=False)
    yield from _control(schema)


def _control(schema: InputSchema) -> Iterator[Widget]:
    """``control_after_generate``: for seeds, and wherever the node asks for it."""
    kind = schema.widget_type
    asked = schema.options.get("control_after_generate")
    if asked is None and kind == "INT":
        asked = schema.name in _SEEDS
    if not asked or kind not in ("INT", "FLOAT", "COMBO"):
        return
    name = asked if isinstance(asked, str) and kind == "INT" else "control_after_generate"
    yield Widget(name, "control", "randomize", sent=False)
    if kind == "COMBO":
        yield Widget("control_filter_list", "filter", "", sent=False)


def _combo_default(schema: InputSchema) -> JsonValue | Unset:
    if schema.options.get("multi_select"):
        return []
    default = schema.options.get("default")
    if default:
        return default
    if schema.choices:
        return schema.choices[0]
    return "Loading..." if schema.options.get("remote") else UNSET


def _video_edit_default(schema: InputSchema) -> JsonValue:
    default = schema.options.get("default")
    if isinstance(default, dict):
        return default
    features = schema.options.get("features")
    wanted = features if isinstance(features, list) else ["trim", "crop"]
    value: dict[str, JsonValue] = {}
    if "trim" in wanted:
        value["trim"] = {"start_time": 0, "duration": 0}
    if "crop" in wanted:
        value["crop"] = {"x": 0, "y": 0, "width": 0, "height": 0}
    return value


def _default(schema: InputSchema) -> JsonValue | Unset:
    kind = schema.widget_type
    default = schema.options.get("default")
    inner = schema.options.get("options")
    if default is None and kind in _NESTED_DEFAULT and isinstance(inner, dict):
        default = inner.get(_NESTED_DEFAULT[kind])
    return _SIMPLE.get(kind, UNSET) if default is None else default


def fits(widget: Widget, value: JsonValue) -> bool:
    """Whether a saved value can be one of this widget's, by its kind alone.

    A choice that is not in the list fits: lists differ between two machines, and a ComfyUI
    refuses what it does not have.
    """
    if type(value) in _FITTING.get(widget.kind, ()):  # most values
        return True
    match widget.kind:
        case "COMBO":
            choices = widget.schema.choices if widget.schema else ()
            return (
                value is None
                or any(type(value) is type(choice) for choice in choices)
                or (isinstance(value, list) and widget.default == [])
                or (not choices and isinstance(value, str))
                or value in choices
            )
        case "INT" | "FLOAT":
            return _reads_as_number(value)
        case "BOOLEAN":
            return value in (0, 1)
        case "STRING" | "MARKDOWN":
            return False
        case "control":
            return value in CONTROL_VALUES or isinstance(value, bool)
        case _ if widget.kind in _TYPES or widget.default in (None, UNSET):
            return True
        case _:  # a pack's own: as its default is
            return value is None or _shape(value) == _shape(widget.default)


def _reads_as_number(value: JsonValue) -> bool:
    """A text that a ComfyUI reads as a number."""
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def _shape(value: JsonValue | Unset) -> str:
    if isinstance(value, str):
        return "color" if _COLOR.fullmatch(value) else "text"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return "number" if number else type(value).__name__


def settle(widget: Widget, value: JsonValue) -> JsonValue:
    """A value as a number widget settles it when another node sets it: rounded to its step.

    Values that are restored from a file are not settled.
    """
    schema = widget.schema
    if schema is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if not math.isfinite(value):
        return value
    number = schema.options.get
    if widget.kind == "INT":
        step = _number(number("step")) or 1
        offset = 0.0 if step == 1 else math.fmod(_number(number("min")) or 0, step)
        settled = _round((value - offset) / step) * step + offset
        return int(settled) if settled == int(settled) else settled
    if widget.kind != "FLOAT":
        return value
    fine = _number(number("step"))
    precision = 1 if fine is None else max(0, -math.floor(math.log10(fine))) if fine > 0 else 0
    grid = _number(number("round")) or (10.0**-precision if precision else 0)
    if not grid:
        return value
    rounded = round(_round(value / grid) * grid, precision)
    low, high = _number(number("min")), _number(number("max"))
    return max(0 if low is None else low, min(2048 if high is None else high, rounded))


def _number(value: JsonValue) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _round(value: float) -> int:
    """To the nearest integer, halves up, as JavaScript does."""
    return math.floor(value + 0.5)


def exchanged(placed: list[_Placed], of_packs: Collection[str]) -> Iterator[_Placed]:
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
