"""Whether models fit the disk, before a byte of them is fetched."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ...errors import LocalStorageError
from ...units import size_text
from .download import FULL_DISK
from .plan import Missing

__all__ = ["bytes_to_fetch", "check_space", "fits", "free_bytes"]

# What the rest of the system needs of a disk that is not a volume of its own.
_RESERVE = 64 * 1024 * 1024


def bytes_to_fetch(missing: Sequence[Missing], root: Path) -> int:
    """What must still come, as far as sizes are known."""
    return sum(max(0, one.found.size - one.part(root).size) for one in missing if one.found.size)


def free_bytes(root: Path) -> int | None:
    """Free space where the folder is, or will be."""
    for folder in (root, *root.parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return None


def fits(missing: Sequence[Missing], root: Path) -> bool:
    """Whether there is room for them. A quota that the volume does not tell shows later."""
    free = free_bytes(root)
    return free is None or bytes_to_fetch(missing, root) + _RESERVE <= free


def check_space(missing: Sequence[Missing], root: Path) -> None:
    """Refuse what does not fit.

    Raises:
        LocalStorageError: Says how much is needed, and how much is free.
    """
    if fits(missing, root):
        return
    free = free_bytes(root) or 0
    needed = bytes_to_fetch(missing, root)
    named = ", ".join(f"{one.path.name} ({size_text(one.found.size or 0)})" for one in missing[:5])
    raise LocalStorageError(
        f"The models do not fit the disk: {size_text(needed)} are to be fetched ({named}), and "
        f"{size_text(free)} are free in {root}.",
        advice=FULL_DISK,
        details={"needed": needed, "free": free, "path": str(root)},
    )
