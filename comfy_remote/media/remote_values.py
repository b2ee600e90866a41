"""Value files as Remote Input reads and Remote Output writes them, in ComfyUI and the sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from ..errors import ValueCannotTravel, WorkflowInvalid
from ..types import JsonValue

if TYPE_CHECKING:
    from .values import EncodedValue, ImageFormat, ObjectAdapter

__all__ = [
    "VALUES_FOLDER",
    "VALUES_KEY",
    "KeptValue",
    "encode_items",
    "items_of_file",
    "items_of_text",
    "keep_value",
    "no_value",
    "sha256_in_name",
    "state_of_file",
    "value_file_name",
]

VALUES_FOLDER = "comfy_remote"
"""The folder of value files, below a ComfyUI's ``input`` and ``temp``."""
VALUES_KEY = "values"
"""Under which a Remote Output lists its file in ComfyUI's history."""

_NAMED_BY_CONTENT = re.compile(r"(?:^|/)(?P<sha256>[0-9a-f]{64})\.safetensors$")


def value_file_name(sha256: str) -> str:
    """What a value file is called on a target: by its content.

    An unchanged value keeps its name, and with it the target's cached results.
    """
    return f"{VALUES_FOLDER}/{sha256}.safetensors"


def sha256_in_name(name: str) -> str | None:
    """The SHA-256 that a value file's name tells, if it is one of `value_file_name`."""
    found = _NAMED_BY_CONTENT.search(name.replace("\\", "/"))
    return found["sha256"] if found else None


@dataclass(frozen=True, slots=True)
class KeptValue:
    """A value file that lies in a ComfyUI's temp folder."""

    path: Path
    type: str

    def shown(self, key: str) -> dict[str, JsonValue]:
        """How a node lists it: ComfyUI's three fields of a file, and ours."""
        return {
            "filename": self.path.name,
            "subfolder": VALUES_FOLDER,
            "type": "temp",
            "key": key,
            "value_type": self.type,
        }


def keep_value(
    items: list[object],
    type_name: str,
    temp: Path,
    *,
    images: ImageFormat = "exact",
    adapters: Sequence[ObjectAdapter] = (),
) -> KeptValue:
    """Write a value file into ``comfy_remote`` below the temp folder, named by its content.

    Args:
        items: What ComfyUI calls a list: each item is of the type.
        type_name: ComfyUI's type, ``*`` if it is not known.
        temp: ComfyUI's temp folder.
        images: See `encode_items`.

    Raises:
        ValueCannotTravel: A model or the like is in it.
        LocalStorageError: It cannot be written.
    """
    encoded = encode_items(items, type_name, images=images, adapters=adapters)
    return KeptValue(encoded.write_into(temp / VALUES_FOLDER), type_name)


def encode_items(
    items: list[object],
    type_name: str,
    *,
    images: ImageFormat = "exact",
    adapters: Sequence[ObjectAdapter] = (),
) -> EncodedValue:
    """A value that ComfyUI has as a list, for a file.

    Args:
        items: What ComfyUI calls a list: each item is of the type.
        type_name: ComfyUI's type, ``*`` if it is not known.
        images: See `values.encode`. Pictures that have no place in such a file (an upscaled one,
            with values above 1) go exactly instead: nobody should lose an hour's work to it.

    Raises:
        ValueCannotTravel: A model or the like is in it.
    """
    from .values import encode  # here, as below: a job that carries no values needs none of it

    try:
        return encode(items, type_name, as_list=True, images=images, adapters=adapters)
    except ValueCannotTravel:
        if images == "exact":
            raise
    return encode(items, type_name, as_list=True, adapters=adapters)


def items_of_file(
    path: Path,
    key: str,
    *,
    tensors: Literal["numpy", "torch"],
    adapters: Sequence[ObjectAdapter] = (),
) -> list[object]:
    """The items in a value file; one that holds a single value gives a list of one.

    Raises:
        WorkflowInvalid: The file is not there.
        ValueInvalid: It is not a value file.
    """
    if not path.is_file():
        raise WorkflowInvalid(
            f"The value file {path.name} for the key {key!r} is not in the input folder.",
            advice="Send it again with the call.",
            details={"key": key},
        )
    from .values import read_value

    decoded = read_value(path, tensors=tensors, adapters=adapters)
    # By the format, the value of a list is one.
    return cast("list[object]", decoded.value) if decoded.is_list else [decoded.value]


def items_of_text(text: str, key: str) -> list[object]:
    """The one item that JSON text holds.

    Raises:
        WorkflowInvalid: It is no JSON.
    """
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError) as error:
        raise WorkflowInvalid(
            f"The value for the key {key!r} is not JSON: {error}.",
            advice='A text needs its quotation marks: "like this".',
            details={"key": key},
        ) from None


def no_value(key: str) -> WorkflowInvalid:
    """The error of a Remote Input without a value."""
    return WorkflowInvalid(
        f"Remote Input has no value for the key {key!r}.",
        advice="Connect something to its input fallback, which is used when the workflow runs "
        "here, or call the workflow with a value for that key.",
        details={"key": key},
    )


def state_of_file(path: Path) -> str:
    """What changes when a value file does: for caches.

    Of one that is named by its content that is nothing: it may be removed and sent again.
    """
    if sha256_in_name(path.name) is not None:
        return ""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"
