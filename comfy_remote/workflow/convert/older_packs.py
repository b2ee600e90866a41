"""What the scripts of some packs do with a node's values when the editor loads it.

Most bring the values of older versions into the shape of today's.

Source of facts: how VideoHelperSuite, Impact Pack, Easy Use and KJNodes restore their nodes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["DRAWN", "DRAWS_SEED", "as_saved_today", "is_menu"]

_Values: TypeAlias = "list[JsonValue] | dict[str, JsonValue] | None"

_VIDEO = ["video", "force_rate", "force_size"]
_PIXELS: Final = re.compile("[0-9]{1,9}")
_FRAMES = ["frame_load_cap", "skip_first_frames", "select_every_nth"]
_LOADERS: Final = {"VHS_LoadVideo", "VHS_LoadVideoPath"}
_BRIDGES: Final = {"PreviewBridge", "PreviewBridgeLatent"}
_RENAMED_CHOICES: Final = {"自定义 x 自定义": "width x height (custom)"}
DRAWN: Final = {"SplineEditor": "coordinates"}
"""Classes whose script computes values from what it draws, and one of these values."""
DRAWS_SEED: Final = {
    "KSampler (Efficient)",
    "KSampler Adv. (Efficient)",
    "KSampler SDXL (Eff.)",
    "Tiled Upscaler Script",
}
"""Classes whose script takes a seed of -1 for a new one each time."""
_OLD_NAMES: Final = {"VHS_VideoCombine": {"save_image": "save_output"}}


def as_saved_today(class_type: str, node_id: str, values: _Values) -> _Values:
    """The saved values of a node, by position or by name; not changed in place."""
    if class_type.startswith("VHS_"):
        return _video_helper(class_type, values)
    if class_type in _BRIDGES and isinstance(values, list) and values:
        return [f"${node_id}-0", *values[1:]]  # its picture is the one that passes through
    if class_type.startswith("easy ") and isinstance(values, list):
        return [_RENAMED_CHOICES.get(v, v) if isinstance(v, str) else v for v in values]
    return values


def is_menu(widget: str) -> bool:
    """Whether a list is a menu of its script, which goes back to its first line at once."""
    return widget in ("Select to add LoRA", "Select to add Wildcard")


def _video_helper(class_type: str, values: _Values) -> _Values:
    if isinstance(values, list):
        values = _listed(class_type, values)
    if isinstance(values, dict):
        old_names = _OLD_NAMES.get(class_type, {})
        # What goes by today's name counts more.
        renamed = {old_names[k]: v for k, v in values.items() if k in old_names}
        values = {**renamed, **{k: v for k, v in values.items() if k not in old_names}}
        if "force_size" in values:
            values = _without_force_size(values)
    return values


def _listed(class_type: str, values: list[JsonValue]) -> _Values:
    while values and _is_preview(values[-1]):
        values = values[:-1]
    if class_type == "VHS_LoadImages" and len(values) > 1 and not isinstance(values[1], int):
        return [values[0], *values[2:]]  # its upload button stood here
    if class_type in _LOADERS and len(values) > 2 and isinstance(values[2], str):
        sizes = ["custom_width", "custom_height"] if _has_sizes(values) else []
        return dict(zip([*_VIDEO, *sizes, *_FRAMES], values, strict=False))
    return values


def _is_preview(value: JsonValue) -> bool:
    return isinstance(value, dict | None) or (isinstance(value, str) and value.startswith("/view?"))


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
