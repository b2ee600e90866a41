"""Whether a file is the kind of model that its name says."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from ...json_text import has_more_values

__all__ = ["what_is_wrong"]

# The format's own limit, as the safetensors library has it.
_LONGEST_HEADER = 100_000_000
_MOST_VALUES = 2_000_000
_BEGINNING = 512


def what_is_wrong(path: Path, name: str) -> str | None:
    """Why a file cannot be the model it was published as; ``None`` if nothing speaks against it.

    Reads the beginning, and of a safetensors file the header, whose offsets tell whether it is
    whole (https://github.com/huggingface/safetensors#format). Nothing is unpickled.

    Args:
        path: The file.
        name: Its name; the ending decides what it should be.
    """
    suffix = Path(name).suffix.lower()
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    start = beginning.lstrip().lower()
    if not beginning:
        return "it is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file that it points to"
    if suffix in (".safetensors", ".sft"):
        return _safetensors(path)
    if suffix == ".gguf" and not beginning.startswith(b"GGUF"):
        return "it does not begin like a GGUF file"
    if suffix in (".ckpt", ".pt", ".pt2", ".pth", ".bin") and start.startswith((b"{", b"error")):
        return "it is a text, not a model"
    return None


def _safetensors(path: Path) -> str | None:
    size = path.stat().st_size
    if size < 8:
        return "it is too short for a safetensors file"
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(_LONGEST_HEADER, size):
            return "it does not begin like a safetensors file"
        text = file.read(length)
    if has_more_values(text, _MOST_VALUES):
        return "the header of the safetensors file cannot be read"
    try:
        header = json.loads(text)
        ends = [
            tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__"
        ]
        end = max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return "the header of the safetensors file cannot be read"
    expected = 8 + length + end
    if size != expected:
        return f"it has {size} bytes, and its safetensors header speaks of {expected}"
    return None
