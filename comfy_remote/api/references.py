"""References to assets in a prompt: found, and made input files."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, cast

from pydantic import JsonValue

from ..errors import InputFileMissing
from ..media.content_names import content_name
from ..targets.base import InputFile
from ..wire.comfy_api import ASSET_TYPE
from ..workflow.files import ANNOTATION, FileUse
from ..workflow.files.names import may_look_up
from ..workflow.prompt import Place, Prompt, with_inputs
from .errors import ApiRefusal
from .stored import StoredAsset

__all__ = ["OnTargetOnly", "Reference", "references_in", "with_files"]

_LONGEST_ID = 200
_Path: TypeAlias = "tuple[str | int, ...]"


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to an asset in a prompt.

    Attributes:
        node_id, input: Where it is.
        path: Keys and indices below the input's value; empty if it is the value.
        asset_id: What it refers to.
    """

    node_id: str
    input: str
    path: _Path
    asset_id: str


def references_in(prompt: Prompt) -> Iterator[Reference]:
    """The references in a prompt, in its order.

    Raises:
        ApiRefusal: ``missing_asset``: one names no asset.
    """
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            for path, found in _typed(value):
                info = found.get("info")
                asset_id = info.get("id") if isinstance(info, dict) else None
                if not isinstance(asset_id, str) or not 0 < len(asset_id) <= _LONGEST_ID:
                    raise ApiRefusal(
                        "missing_asset",
                        f"Node {node_id} ({node['class_type']}): the reference in {name!r} names "
                        "no asset. Its info needs the id of one.",
                        details={"node_id": node_id, "input": name},
                    )
                yield Reference(node_id, name, path, asset_id)


def with_files(
    prompt: Prompt, references: Iterable[Reference], assets: Mapping[str, StoredAsset]
) -> tuple[Prompt, tuple[InputFile, ...]]:
    """The prompt with names of files where its references are, and those files.

    A file is named as its asset is; by its content if another asset has the same name.

    Args:
        references: All that are in the prompt.
        assets: What they refer to, by id.
    """
    files: dict[str, InputFile] = {}
    places: defaultdict[str, dict[Place, None]] = defaultdict(dict)
    values: dict[Place, JsonValue] = {}
    for reference in references:
        asset, place = assets[reference.asset_id], (reference.node_id, reference.input)
        file = _file_of(asset, files)
        files[file.name] = file
        places[file.name][place] = None
        if not reference.path:
            values[place] = file.name
            continue
        if place not in values:
            values[place] = copy.deepcopy(prompt[place[0]]["inputs"][place[1]])
        _put(values[place], reference.path, file.name)
    named = (replace(file, places=tuple(places[name])) for name, file in files.items())
    return with_inputs(prompt, values), tuple(named)


class OnTargetOnly:
    """The files of this machine that a stranger's prompt may name: none. An `InputSource`."""

    def find(self, use: FileUse) -> Path | None:
        """Nothing is here."""
        del use
        return None

    def described(self, path: Path) -> tuple[int, str]:
        """Never called, since `find` finds nothing."""
        raise NotImplementedError(path)

    def must_be_found(self, use: FileUse) -> bool:
        """Others than input files may be the target's own."""
        return use.folder == "input"

    def may_be_on_target(self, use: FileUse) -> bool:
        """By a plain name only: neither ``..`` nor an absolute path."""
        return may_look_up(use.name)

    def missing(self, use: FileUse, prompt: Prompt) -> InputFileMissing:
        """The error for what is not on the target."""
        return InputFileMissing(
            f"Node {use.node_id} ({prompt[use.node_id]['class_type']}) loads {use.name[:200]!r} in "
            f"{use.input!r}, which the target does not have.",
            advice="Upload it, and put the reference to the asset where its name is.",
            details={"node_id": use.node_id, "input": use.input, "name": use.name[:200]},
        )


def _typed(value: JsonValue) -> Iterator[tuple[_Path, dict[str, JsonValue]]]:
    """The references in a value, each with its path."""
    waiting: list[tuple[_Path, JsonValue]] = [((), value)]
    while waiting:
        path, one = waiting.pop()
        if isinstance(one, dict):
            if one.get("__type") == ASSET_TYPE:
                yield path, one
                continue
            waiting.extend(((*path, key), inner) for key, inner in reversed(one.items()))
        elif isinstance(one, list):
            indices = range(len(one) - 1, -1, -1)
            waiting.extend(((*path, index), one[index]) for index in indices)


def _put(value: JsonValue, path: _Path, name: str) -> None:
    *before, last = path
    inner = cast("dict[str | int, JsonValue]", value)
    for step in before:
        inner = cast("dict[str | int, JsonValue]", inner[step])
    inner[last] = name


def _file_of(asset: StoredAsset, files: Mapping[str, InputFile]) -> InputFile:
    name = asset.file_path
    if ANNOTATION.match(name):  # ComfyUI would look for it in that folder
        name = name.replace("[", "(").replace("]", ")")
    known = files.get(name)
    if known is not None and known.sha256 != asset.sha256:
        name = content_name(name, asset.sha256)
        known = files.get(name)
    return known or InputFile(name, asset.path, asset.size, asset.sha256)
