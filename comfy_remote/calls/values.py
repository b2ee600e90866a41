"""The values of a call: how they are sent, and how they are read and checked on arrival."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from ..errors import ValueInvalid
from ..media.files import sha256_of
from ..media.values import (
    DecodedValue,
    EncodedValue,
    ImageFormat,
    ObjectAdapter,
    ValueLimits,
    decode_value,
    encode,
    read_value,
)
from ..media.values.types import check_type
from ..targets.base import input_errors
from ..types import JsonValue
from ..workflow.interface import ANY

__all__ = [
    "LONGEST_PLAIN_TEXT",
    "Argument",
    "ValueFile",
    "ValueForm",
    "check_result",
    "is_plain",
]

LONGEST_PLAIN_TEXT = 64 * 1024
"""Characters: a longer text travels as a file, not in the prompt and the record of jobs."""


@dataclass(frozen=True, slots=True)
class ValueFile:
    """A value file on this machine.

    Attributes:
        size: Bytes.
        sha256: 64 lower-case hex digits.
        type: ComfyUI's type, ``*`` if it is not known.
    """

    path: Path
    size: int
    sha256: str
    type: str = ANY

    @classmethod
    def of(cls, path: Path, type: str = ANY) -> ValueFile:  # noqa: A002  the field's own word
        """A file that is there; blocks while it is hashed.

        Raises:
            InputFileMissing: It cannot be read.
        """
        with input_errors(path):
            return cls(path, path.stat().st_size, sha256_of(path), type)


Argument: TypeAlias = "ValueFile | JsonValue"
"""What a key of a workflow gets: a value file, or a plain JSON value."""


@dataclass(frozen=True, slots=True)
class ValueForm:
    """How Python values are sent, and what results become.

    Attributes:
        tensors: Which library's tensors the results hold.
        images: How IMAGE values are sent; see `media.values.encode`.
        adapters: For objects of other classes; see `media.values`.
        limits: What one result may need at most.
        maps_files: Whether tensors may stay in the file that they are read from. Not on Windows,
            which removes no file that is mapped.
    """

    tensors: Literal["numpy", "torch"] = "numpy"
    images: ImageFormat = "exact"
    adapters: Sequence[ObjectAdapter] = ()
    limits: ValueLimits = field(default_factory=ValueLimits)
    maps_files: bool = os.name != "nt"

    def sent(self, value: object, type_: str = ANY) -> EncodedValue | JsonValue:
        """A value as it is sent: a plain JSON value, or a value file.

        Args:
            value: A `DecodedValue` is sent as it is, with all items if it is a list.
            type_: ComfyUI's type, where the value does not say.

        Raises:
            ValueCannotTravel: It holds a model or the like.
        """
        whole = value if isinstance(value, DecodedValue) else DecodedValue(type_, False, value)
        if not whole.is_list and is_plain(whole.value):
            return whole.value  # type: ignore[return-value]  # `is_plain` has seen to that
        return encode(
            whole.value,
            type_ if whole.type == ANY else whole.type,
            as_list=whole.is_list,
            images=self.images,
            adapters=self.adapters,
        )

    def argument(self, value: object, type_: str, folder: Path) -> Argument:
        """The same for a workflow on a target; a value file is written into ``folder``."""
        sent = self.sent(value, type_)
        if not isinstance(sent, EncodedValue):
            return sent
        path = sent.write_into(folder)
        return ValueFile(path, sent.size, path.stem, sent.type)

    def decoded(self, data: bytearray | memoryview) -> DecodedValue:
        """The value in a file's bytes, which its tensors share. Raises `ValueInvalid` as `read`."""
        return decode_value(data, tensors=self.tensors, adapters=self.adapters, limits=self.limits)

    def read(self, path: Path, type_: str = ANY) -> DecodedValue:
        """The value in a file that may be removed afterwards.

        Args:
            type_: ComfyUI's type, where the file does not say.

        Raises:
            ValueInvalid: The file is damaged, hostile, or beyond the limits.
        """
        found = (
            read_value(path, tensors=self.tensors, adapters=self.adapters, limits=self.limits)
            if self.maps_files
            else decode_value(
                path.read_bytes(),
                tensors=self.tensors,
                adapters=self.adapters,
                limits=self.limits,
            )
        )
        return DecodedValue(type_ if found.type == ANY else found.type, found.is_list, found.value)


def is_plain(value: object) -> bool:
    """Whether a value travels as plain JSON: a finite number, or a text that is not long."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) or (isinstance(value, str) and len(value) <= LONGEST_PLAIN_TEXT)


def check_result(result: DecodedValue, expected: str = ANY) -> None:
    """Check a result's items against ComfyUI's type.

    Args:
        expected: The type that is wanted; ``*`` for the result's own.

    Raises:
        ValueInvalid: It is of another type, or not what its type says.
    """
    wanted = set(expected.split(","))
    fits = result.type in wanted or (result.type == "INT" and "FLOAT" in wanted)
    if ANY not in (result.type, expected) and not fits:
        raise ValueInvalid(
            f"The result is {result.type}, and {expected} is expected.",
            advice="Choose another result, or expect another type.",
        )
    items = result.value if result.is_list and isinstance(result.value, list) else [result.value]
    for item in items:
        check_type(result.type if expected == ANY else expected, item)
