"""The official templates, what ComfyUI's editor makes of them, and how the two are compared."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data" / "conversion"
OLD_WHEEL = "COMFYUI_TEMPLATES_0_1_95"
"""Names the path of that wheel of ``comfyui-workflow-templates``, which has 84 MB of pictures."""


def load(name: str) -> dict[str, Any]:
    return json.loads(gzip.decompress((DATA / f"{name}.json.gz").read_bytes()))


def templates(version: str) -> dict[str, dict[str, Any]]:
    """Template file name to workflow; empty if the package is not here."""
    texts = _installed() if version == "0.33.0" else _old_wheel()
    documents = {name: json.loads(text) for name, text in texts}
    return {k: v for k, v in documents.items() if isinstance(v, dict) and "nodes" in v}


def _installed() -> Iterator[tuple[str, str]]:
    try:
        folder = files("comfyui_workflow_templates_json") / "templates"
    except ModuleNotFoundError:
        return
    for file in folder.iterdir():
        if file.name.endswith(".json"):
            yield file.name, file.read_text(encoding="utf-8")


def _old_wheel() -> Iterator[tuple[str, str]]:
    path = os.environ.get(OLD_WHEEL)
    if not path:
        return
    with zipfile.ZipFile(path) as wheel:
        for name in wheel.namelist():
            if "/templates/" in name and name.endswith(".json"):
                yield Path(name).name, wheel.read(name).decode()


def differences(
    expected: dict[str, Any], prompt: dict[str, Any], object_info: dict[str, Any]
) -> list[str]:
    """Where two prompts differ, in the nodes that the server knows and the inputs it declares."""
    ours, theirs = (
        {key: node for key, node in each.items() if node.get("class_type") in object_info}
        for each in (prompt, expected)
    )
    found = [f"{key}: only in one" for key in ours.keys() ^ theirs.keys()]
    for key in ours.keys() & theirs.keys():
        if ours[key]["class_type"] != theirs[key]["class_type"]:
            found.append(f"{key}: another class")
            continue
        groups = object_info[ours[key]["class_type"]]["input"]
        names = {*groups.get("required", {}), *groups.get("optional", {})}
        one, other = (
            {name: v for name, v in node["inputs"].items() if name.partition(".")[0] in names}
            for node in (ours[key], theirs[key])
        )
        found += [
            f"{key}.{name}: {one.get(name)!r} instead of {other.get(name)!r}"
            for name in one.keys() | other.keys()
            if name not in one or name not in other or not _same(one[name], other[name])
        ]
    return sorted(found)


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: ``1`` is ``1.0``, ``true`` is not ``1``."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
