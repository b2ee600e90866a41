"""What a target has and this ComfyUI has not: node classes, and choices such as models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..workflow.schema import InputSchema, NodeSchema, Schemas

if TYPE_CHECKING:
    from pydantic import JsonValue

__all__ = ["choices_there", "nodes_there"]


def nodes_there(here: Schemas, there: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The definitions of the classes that only the target has, as its ``/object_info`` has them."""
    return {name: node for name, node in there.items() if name not in here}


def choices_there(here: Schemas, there: Schemas) -> dict[str, JsonValue]:
    """``{class: {input: [values]}}``: what lists of choices have on the target only.

    Lists of uploaded files are left out: files that a workflow loads are taken from here.
    """
    found: dict[str, JsonValue] = {}
    for name in there:
        ours, theirs = here.get(name), there.get(name)
        if ours is not None and theirs is not None:
            inputs = _more_choices(ours, theirs)
            if inputs:
                found[name] = inputs
    return found


def _more_choices(ours: NodeSchema, theirs: NodeSchema) -> dict[str, JsonValue]:
    known = {spec.name: spec for spec in ours.inputs}
    more: dict[str, JsonValue] = {}
    for spec in theirs.inputs:
        mine = known.get(spec.name)
        if mine is None or not spec.choices or _is_upload(spec):
            continue
        added = [value for value in spec.choices if value not in mine.choices]
        if added:
            more[spec.name] = added
    return more


def _is_upload(spec: InputSchema) -> bool:
    return any(key.endswith("_upload") and value for key, value in spec.options.items())
