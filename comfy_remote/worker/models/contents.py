"""Whether a file is the kind of model that its name says."""

from __future__ import annotations

from pathlib import Path

from ...media.formats import Malformed, safetensors

__all__ = ["what_is_wrong"]

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
    try:
        with path.open("rb") as file:
            expected = safetensors.expected_size(file)
    except EOFError:
        return "it does not begin like a safetensors file"
    except Malformed as error:
        return f"it does not begin like a safetensors file: {error}"
    if size != expected:
        return f"it has {size} bytes, and its safetensors header speaks of {expected}"
    return None
