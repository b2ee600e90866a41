"""Whether a file that arrived is whole, by what its own format says."""

from __future__ import annotations

import struct
from pathlib import Path, PurePosixPath

from ..advice import Hint
from ..errors import OutputCorrupt
from .formats import CHECKED_SUFFIXES, SIGNATURE_BYTES, Malformed, format_of, safetensors

__all__ = ["check_whole"]


def check_whole(path: Path, filename: str) -> None:
    """Refuse a file that is cut off, damaged where its format can tell, or something else.

    A picture, film, sound or model whose name is that of another kind is accepted: custom nodes
    save such files.

    Raises:
        OutputCorrupt: It is not whole, or not what the name says.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    suffix = PurePosixPath(filename).suffix.lower()
    with path.open("rb") as file:
        found = format_of(file.read(SIGNATURE_BYTES))
        # The beginning of a damaged safetensors file says nothing.
        check = found.is_whole if found else None
        if suffix == ".safetensors":
            check = safetensors.is_whole
        if check is None and suffix in CHECKED_SUFFIXES:
            what = f"is not a file of type {suffix[1:].upper()}" if size else "is empty"
            raise _corrupt(filename, what, size)
        file.seek(0)
        try:
            whole = check is None or check(file, size)
        except (EOFError, struct.error, Malformed):
            whole = False
    if not whole:
        raise _corrupt(filename, "is cut off or damaged", size)


def _corrupt(filename: str, what: str, size: int) -> OutputCorrupt:
    return OutputCorrupt(
        f"{filename} {what} ({size} bytes arrived).",
        advice=Hint.RESUME_FOR_OUTPUTS(),
        details={"filename": filename, "size": size},
    )
