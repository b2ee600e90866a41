"""Values as older versions of some packs saved them, in the shape of today's.

The packs' own scripts do this when they load such a file.

Source of facts: VideoHelperSuite (how it restores its nodes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["as_saved_today"]

_Values: TypeAlias = "list[JsonValue] | dict[str, JsonValue] | None"

_VIDEO = ["video", "force_rate", "force_size"]
_FRAMES = ["frame_load_cap", "skip_first_frames", "select_every_nth"]
_LOADERS: Final = {"VHS_LoadVideo", "VHS_LoadVideoPath"}
_OLD_NAMES: Final = {"VHS_VideoCombine": {"save_image": "save_output"}}


def as_saved_today(class_type: str, values: _Values) -> _Values:
    """The saved values of a node, by position or by name; not changed in place."""
    if not class_type.startswith("VHS_"):
        return values
    if isinstance(values, list):
        values = _listed(class_type, values)
    if isinstance(values, dict):
        old_names = _OLD_NAMES.get(class_type, {})
        # What goes by today's name counts more.
        renamed = {old_names.get(k, k): v for k, v in values.items() if k in old_names}
        values = {**renamed, **{k: v for k, v in values.items() if k not in old_names}}
        if "force_size" in values:
            values = _without_force_size(values)
    return values


def _listed(class_type: str, values: list[JsonValue]) -> _Values:
    while values and isinstance(values[-1], dict | None):
        values = values[:-1]  # previews and buttons
    if class_type == "VHS_LoadImages" and len(values) > 1 and not isinstance(values[1], int):
        return [values[0], *values[2:]]  # its upload button stood here
    if class_type in _LOADERS and len(values) > 2 and isinstance(values[2], str):
        sizes = ["custom_width", "custom_height"] if _has_sizes(values) else []
        return dict(zip([*_VIDEO, *sizes, *_FRAMES], values, strict=False))
    return values


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
            values[name] = int(size) if size.isascii() and size.isdigit() else 0
    else:
        if forced in ("Disabled", "Custom Height"):
            values["custom_width"] = 0
        if forced in ("Disabled", "Custom Width"):
            values["custom_height"] = 0
    return values
