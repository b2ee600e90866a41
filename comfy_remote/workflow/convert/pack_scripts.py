"""What the scripts of node packs do to a node in the editor: widgets that they make, old values.

Widgets: an input of a type that the editor itself has no widget for, and inputs that the chosen
value of a list brings along (``formats`` among the options of the list). Values: most scripts
bring those of older versions into the shape of today's when the editor loads a node.

Source of facts: VideoHelperSuite, mtb, KJNodes, RMBG, Impact Pack, Easy Use, Custom Scripts and
others: their schemas, what the editor makes of workflows with their nodes, and how they restore
their nodes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, TypeAlias

from ...types import JsonValue, mapping
from ..schema import InputSchema, NodeSchema, input_schema
from .document import SavedNode
from .widgets import has_widget, is_widget, widgets_of

__all__ = ["COMPUTED", "DRAWS_SEED", "as_saved_today", "brought_inputs", "is_menu", "pack_widgets"]

_Values: TypeAlias = "list[JsonValue] | dict[str, JsonValue] | None"

_VIDEO = ["video", "force_rate", "force_size"]
_PIXELS: Final = re.compile("[0-9]{1,9}")
_FRAMES = ["frame_load_cap", "skip_first_frames", "select_every_nth"]
_LOADERS: Final = {"VHS_LoadVideo", "VHS_LoadVideoPath"}
_BRIDGES: Final = {"PreviewBridge", "PreviewBridgeLatent"}
_RENAMED_CHOICES: Final = {"自定义 x 自定义": "width x height (custom)"}
COMPUTED: Final = {
    "SplineEditor": "coordinates",
    "Canvas_Tab": "canvas",
    "CharacterVoicesNode": "reference_text",
    "LoadImage //Inspire": "image_data",
    "OmniVoiceInstructionBuilderNode": "instruct_text",
}
"""Classes whose script computes values (from a drawing, or from files of the server) when the page
loads a workflow or queues it, and one of these values."""
DRAWS_SEED: Final = {
    "KSampler (Efficient)",
    "KSampler Adv. (Efficient)",
    "KSampler SDXL (Eff.)",
    "Tiled Upscaler Script",
}
"""Classes whose script takes a seed of -1 for a new one each time."""
_OLD_NAMES: Final = {"VHS_VideoCombine": {"save_image": "save_output"}}
"""By class: widgets that its script has renamed, in values that are saved by name."""


def pack_widgets(schema: NodeSchema, saved: SavedNode) -> frozenset[str]:
    """The inputs of types that the editor does not know which are edited in place all the same.

    A file lists every socket of a node. So an input that it does not list, and which has a
    default or a saved value, is a widget; one that it lists is what it says there, unless it was
    of another type then. An input without a default is one only if values are left for it, and
    nothing could be linked to it.
    """
    unknown, plain, most = _of_class(schema)
    if not unknown:
        return frozenset()
    slots = {slot.name: slot for slot in saved.inputs}
    values = saved.values
    found: set[str] = set()
    for spec in unknown:
        slot = slots.get(spec.name)
        if slot is not None and (slot.type == spec.type or slot.link is not None or slot.widget):
            edited = slot.widget is not None
        elif isinstance(values, dict):
            has_default = spec.options.get("default") is not None
            edited = spec.name in values or (not spec.optional and has_default)
        else:
            # A text alone says little: "None" is also the default of sockets.
            default = spec.options.get("default")
            known = isinstance(default, str | int | float) or "widgetType" in spec.options
            words = spec.optional and isinstance(default, str) and not default.startswith("#")
            count = len(_that_say_something(values)) if values else 0
            edited = known and (not words or count > plain)
            edited = edited or (count > most and spec.name in schema.unproduced)
        if edited:
            found.add(spec.name)
    return frozenset(found)


@lru_cache(maxsize=1000)
def _of_class(schema: NodeSchema) -> tuple[list[InputSchema], int, int]:
    """The inputs of types that the editor does not know; how many values the others save, at least
    and at most.
    """
    unknown = [
        spec
        for spec in schema.inputs
        if not (has_widget(spec) or spec.socket_only or spec.type == "*" or _is_dynamic(spec))
    ]
    edited = [spec for spec in schema.inputs if is_widget(spec)]
    plain = sum(widget.saved for spec in edited for widget in widgets_of(spec))
    return unknown, plain, plain + sum(map(_most_brought, edited))


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


def as_saved_today(class_type: str, node_id: str, values: _Values) -> _Values:
    """The saved values of a node, by position or by name; not changed in place."""
    if isinstance(values, list) and values and _is_shown(values[-1]):
        values = _without_previews(values)
    if isinstance(values, dict) and (old_names := _OLD_NAMES.get(class_type)):
        # What goes by today's name counts more.
        renamed = {old_names[k]: v for k, v in values.items() if k in old_names}
        values = {**renamed, **{k: v for k, v in values.items() if k not in old_names}}
    if class_type.endswith("|pysssss") and isinstance(values, list):
        return [_content(value) for value in values]
    if class_type.startswith("VHS_"):
        return _video_helper(class_type, values)
    if class_type in _BRIDGES and isinstance(values, list) and values:
        return [f"${node_id}-0", *values[1:]]  # its picture is the one that passes through
    if class_type.startswith("easy ") and isinstance(values, list):
        return [_RENAMED_CHOICES.get(v, v) if isinstance(v, str) else v for v in values]
    return values


def _content(value: JsonValue) -> JsonValue:
    """A choice that was once saved with its picture: ``{"content", "image"}``."""
    return value["content"] if isinstance(value, dict) and "content" in value else value


def is_menu(class_type: str, widget: str) -> bool:
    """Whether a list is a menu of its script, which goes back to its first line at once."""
    menus = ("Select to add LoRA", "Select to add Wildcard")
    return widget in menus or class_type == "easy prompt"


def _video_helper(class_type: str, values: _Values) -> _Values:
    if isinstance(values, list):
        values = _listed(class_type, values)
    if isinstance(values, dict) and "force_size" in values:
        return _without_force_size(values)
    return values


def _listed(class_type: str, values: list[JsonValue]) -> _Values:
    while values and isinstance(values[-1], dict | None):
        values = _without_previews(values[:-1])
    if class_type == "VHS_LoadImages" and len(values) > 1 and not isinstance(values[1], int):
        return [values[0], *values[2:]]  # its upload button stood here
    if class_type in _LOADERS and len(values) > 2 and isinstance(values[2], str):
        sizes = ["custom_width", "custom_height"] if _has_sizes(values) else []
        return dict(zip([*_VIDEO, *sizes, *_FRAMES], values, strict=False))
    return values


def _that_say_something(values: list[JsonValue]) -> list[JsonValue]:
    """The values without the last ones that no input needs: addresses of previews, and nothing."""
    count = len(values)
    while count and (values[count - 1] in ("", None) or _is_shown(values[count - 1])):
        count -= 1
    return values[:count]


def _without_previews(values: list[JsonValue]) -> list[JsonValue]:
    """The values without the last ones, if they are addresses of what a node has shown."""
    count = len(values)
    while count and _is_shown(values[count - 1]):
        count -= 1
    return values[:count]


def _is_shown(value: JsonValue) -> bool:
    return isinstance(value, str) and value.startswith("/view?")


def _has_sizes(values: list[JsonValue]) -> bool:
    return len([value for value in values[3:] if isinstance(value, int)]) >= 5


def _without_force_size(values: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Width and height instead of the words for them: 0 is "as it comes"."""
    values = dict(values)
    forced = values.pop("force_size")
    if not isinstance(forced, str):
        return values
    if "x" in forced:
        for name, size in zip(("custom_width", "custom_height"), forced.split("x"), strict=False):
            values[name] = int(size) if _PIXELS.fullmatch(size) else 0
    else:
        if forced in ("Disabled", "Custom Height"):
            values["custom_width"] = 0
        if forced in ("Disabled", "Custom Width"):
            values["custom_height"] = 0
    return values
