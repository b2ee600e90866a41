"""Safetensors: models, and ComfyUI's latents.

Layout: eight bytes of length, a JSON header of that length, then the tensors
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from ...types import JsonValue, as_list, mapping
from .reading import MAX_TEXT_BYTES, Malformed, exactly, json_of

__all__ = ["expected_size", "is_whole", "tensor_names", "texts"]

# The format's own limit, as the safetensors library has it.
_LONGEST_HEADER = 100_000_000


def expected_size(file: BinaryIO) -> int:
    """How many bytes a file has by its header.

    Raises:
        EOFError: It ends within its header.
        Malformed: It does not have such a header.
    """
    length, header = _header(file, _LONGEST_HEADER)
    end = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            offsets = as_list(mapping(tensor).get("data_offsets"))
            if len(offsets) != 2 or not isinstance(offsets[1], int):
                raise Malformed("its header does not say where its tensors are")
            end = max(end, offsets[1])
    return 8 + length + end


def is_whole(file: BinaryIO, size: int) -> bool:
    """By its length, which is that of its header and the tensors in it."""
    try:
        return expected_size(file) == size
    except Malformed:
        return False


def tensor_names(file: BinaryIO) -> list[str]:
    """The names of its tensors. Raises as `expected_size`; a header may have 16 MiB."""
    _, header = _header(file, MAX_TEXT_BYTES)
    return [name for name in header if name != "__metadata__"]


def texts(file: BinaryIO) -> Iterator[tuple[str, str]]:
    """From ``__metadata__``."""
    _, header = _header(file, MAX_TEXT_BYTES)
    for name, value in mapping(header.get("__metadata__")).items():
        if isinstance(value, str):
            yield name, value


def _header(file: BinaryIO, most: int) -> tuple[int, dict[str, JsonValue]]:
    length = int.from_bytes(exactly(file, 8), "little")
    header = json_of(exactly(file, length, most), "its header")
    if not isinstance(header, dict):
        raise Malformed("its header is not an object")
    return length, header
