"""Value files as Remote Input reads and Remote Output writes them, in ComfyUI and the sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from ..data_class import dataclass
from ..errors import ValueCannotTravel, WorkflowInvalid
from ..types import JsonValue

if TYPE_CHECKING:
    from .values import EncodedValue, ImageFormat, ObjectAdapter

__all__ = [
    "VALUES_FOLDER",
    "VALUES_KEY",
    "ContentHash",
    "KeptValue",
    "blake3_in_name",
    "encode_items",
    "items_of_file",
    "items_of_text",
    "keep_value",
    "named_by_content",
    "no_value",
    "sha256_in_name",
    "state_of_file",
    "value_file_name",
    "value_stem",
]

VALUES_FOLDER = "comfy_remote"
"""The folder of value files, below a ComfyUI's ``input`` and ``temp``."""
ContentHash: TypeAlias = Literal["sha256", "blake3"]
"""What names a value file. BLAKE3 takes a fifth of the time, and is for values that stay on one
machine; elsewhere, files are checked by their SHA-256."""
VALUES_KEY = "values"
"""Under which a Remote Output lists its file in ComfyUI's history."""

_NAMED_BY_CONTENT = re.compile(
    r"(?:^|/)(?P<stem>(?P<sha256>[0-9a-f]{64})|blake3-(?P<blake3>[0-9a-f]{64}))\.safetensors$"
)


def value_stem(digest: str, content_hash: ContentHash) -> str:
    """A value file's name without its ending: its SHA-256, or ``blake3-`` and its BLAKE3."""
    return digest if content_hash == "sha256" else f"{content_hash}-{digest}"


def value_file_name(stem: str) -> str:
    """A value file's name on a target: by its content, so that cached results stay valid.

    Args:
        stem: See `value_stem`.
    """
    return f"{VALUES_FOLDER}/{stem}.safetensors"


def named_by_content(name: str) -> str | None:
    """The stem of a name that `value_file_name` gave; ``None`` for other names."""
    return _in_name(name, "stem")


def sha256_in_name(name: str) -> str | None:
    """The SHA-256 in a name that `value_file_name` gave; ``None`` for other names."""
    return _in_name(name, "sha256")


def blake3_in_name(name: str) -> str | None:
    """As `sha256_in_name`, of values that two ComfyUIs on one machine pass each other."""
    return _in_name(name, "blake3")


def _in_name(name: str, what: str) -> str | None:
    found = _NAMED_BY_CONTENT.search(name.replace("\\", "/"))
    return found[what] if found else None


@dataclass(frozen=True, slots=True)
class KeptValue:
    """A value file in a ComfyUI's temp folder."""

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
    content_hash: ContentHash = "sha256",
) -> KeptValue:
    """Write a value file into ``comfy_remote`` below the temp folder, named by its content.

    Arguments are those of `encode_items`, ComfyUI's temp folder, and what names the content.

    Raises:
        ValueCannotTravel: It contains a model or the like.
        LocalStorageError: It cannot be written.
    """
    encoded = encode_items(items, type_name, images=images, adapters=adapters)
    return KeptValue(encoded.write_into(temp / VALUES_FOLDER, content_hash), type_name)


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
        type_name: ComfyUI's type; ``*`` if unknown.
        images: See `values.encode`. Pictures that such a file cannot hold (an upscaled one, with
            values above 1) are sent exactly instead, so that no work is lost.

    Raises:
        ValueCannotTravel: It contains a model or the like.
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
    # The format guarantees that the value of a list is one.
    return cast("list[object]", decoded.value) if decoded.is_list else [decoded.value]


def items_of_text(text: str, key: str) -> list[object]:
    """The one item that a JSON text holds.

    Raises:
        WorkflowInvalid: It is not JSON.
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
    """For caches: what changes when a value file does; empty for one named by its content."""
    if named_by_content(path.name) is not None:
        return ""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"
