"""The safetensors container: a header that says where each tensor's bytes are.

Its own library is not used here: it gives NumPy no memory-mapped arrays and no bfloat16, and
writes only tensors that are all in memory at once. Source of facts:
https://huggingface.co/docs/safetensors (8 bytes of length, little-endian; JSON
``{"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets"}}``, padded with spaces; the
tensors' bytes without a hole between them).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from ...types import JsonValue
from .limits import ValueLimits, invalid, strict_json

__all__ = ["ITEM_SIZES", "MAX_HEADER", "Entry", "Layout", "header_bytes", "parse_layout"]

ITEM_SIZES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E4M3FNUZ": 1,
    "F8_E5M2": 1,
    "F8_E5M2FNUZ": 1,
    "F8_E8M0": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
    "C64": 8,
}
"""Bytes an element, of the dtypes that fill whole bytes."""

MAX_HEADER = 32 * 1024 * 1024
"""Bytes, since all of them are parsed; the safetensors library accepts 100 MB."""

_MAX_DIMENSIONS = 32
_MAX_EXTENT = 2**62  # what an index can count, whatever the array's library
_ITEMS_OF_AN_ENTRY = 16
# How pickles of protocols 2 to 5 begin, and torch.save's zip.
_PICKLES = {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in the file; ``start`` and ``stop`` count from the file's first byte."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What a header says."""

    metadata: dict[str, str]
    entries: dict[str, Entry]


def header_bytes(
    metadata: Mapping[str, str], tensors: Iterable[tuple[str, str, Sequence[int], int]]
) -> bytes:
    """The bytes that come before the tensors.

    Args:
        tensors: Name, dtype, shape and bytes of each, in the file's order: those of larger
            elements first, so that each starts at a multiple of its element's size.
    """
    document: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, dtype, shape, size in tensors:
        document[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def parse_layout(data: memoryview, limits: ValueLimits) -> Layout:
    """Read and check a header: every tensor inside the file, none over another, no hole.

    Args:
        data: The whole file (mapped, so only the header is read).

    Raises:
        ValueInvalid: It is not a safetensors file, or more than the limits allow.
    """
    if len(data) > limits.bytes:
        raise invalid(f"it has {len(data)} bytes, and {limits.bytes} are allowed")
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        if bytes(data[:2]) in _PICKLES:
            raise invalid("it is a pickle, which can run code of its sender, and is never opened")
        raise invalid("it is not a safetensors file, or is cut off")
    if length > MAX_HEADER:
        raise invalid(f"its header has {length} bytes, and {MAX_HEADER} are allowed")
    try:
        text = bytes(data[8 : 8 + length]).decode()
    except UnicodeDecodeError:
        raise invalid("it is not a safetensors file") from None
    document = strict_json(text, limits.tensors * _ITEMS_OF_AN_ENTRY)
    if not isinstance(document, dict):
        raise invalid("its header is not a JSON object")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise invalid("its metadata is not made of strings")
    if len(document) > limits.tensors:
        raise invalid(f"it holds {len(document)} tensors, and {limits.tensors} are allowed")
    entries = sorted(
        (_entry(name, facts, 8 + length) for name, facts in document.items()),
        key=lambda entry: (entry.start, entry.stop),
    )
    at = 8 + length
    for entry in entries:
        if entry.start != at:
            raise invalid(f"tensor {entry.name!r} does not begin where the one before it ends")
        at = entry.stop
    if at != len(data):
        raise invalid(f"its tensors end at byte {at}, and the file has {len(data)}: it is cut off")
    return Layout(cast("dict[str, str]", metadata), {entry.name: entry for entry in entries})


def _entry(name: str, facts: JsonValue, base: int) -> Entry:
    if not isinstance(facts, dict) or facts.keys() != {"dtype", "shape", "data_offsets"}:
        raise invalid(f"tensor {name!r} is described wrongly")
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
        raise invalid(f"tensor {name!r} has a dtype that is not known ({str(dtype)[:40]})")
    extents, ends = _counts(shape), _counts(offsets)
    if extents is None or len(extents) > _MAX_DIMENSIONS or ends is None or len(ends) != 2:
        raise invalid(f"tensor {name!r} is described wrongly")
    item = ITEM_SIZES[dtype]
    if math.prod(max(extent, 1) for extent in extents) * item > _MAX_EXTENT:
        raise invalid(f"tensor {name!r} has an impossible shape")
    if ends[1] - ends[0] != math.prod(extents) * item:
        raise invalid(f"tensor {name!r} has more or fewer bytes than its shape needs")
    return Entry(name, dtype, extents, base + ends[0], base + ends[1])


def _counts(value: JsonValue) -> tuple[int, ...] | None:
    """A list of integers that are not negative, as a tuple; ``None`` for anything else."""
    if not isinstance(value, list):
        return None
    numbers = tuple(v for v in value if isinstance(v, int) and not isinstance(v, bool) and v >= 0)
    return numbers if len(numbers) == len(value) else None
