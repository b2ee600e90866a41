"""Names of files that somebody else has chosen: which of them may be looked up on this machine.

Looking a name up can do harm: for ``\\\\host\\share\\a.png``, Windows logs in at that host with the
user's name and a hash of the password. So the text of a name is judged first, by the rules of all
platforms on each of them, and only then is the file system asked.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["file_below", "may_look_up", "names_another_machine"]

# A drive, with or without a folder behind it: "C:\a.png", "C:a.png".
_DRIVE = re.compile(r"[A-Za-z]:")


def names_another_machine(name: str) -> bool:
    """Whether a name is a UNC path (``//host/share/a``) or a device (``\\\\?\\C:\\a``)."""
    return name.replace("\\", "/").lstrip().startswith("//")


def may_look_up(name: str) -> bool:
    """Whether a name is a relative path without ``..``: only such a one is looked up.

    Paths of other machines, devices, absolute paths and paths on another drive are not. Asks
    nothing of the file system.
    """
    plain = name.replace("\\", "/").lstrip()
    parts = plain.split("/")
    return not (plain.startswith("/") or _DRIVE.match(plain) or ".." in parts or "\0" in plain)


def file_below(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder or below it; ``None`` if it is not there, or outside.

    For names that somebody else has chosen: ``..``, absolute paths and links do not lead out.
    """
    if not may_look_up(name):
        return None
    joined = os.path.join(folder, name)  # noqa: PTH118  # a prompt may have hundreds of names
    try:
        if not os.path.isfile(joined):  # noqa: PTH113
            return None
        # `Path.resolve` raises RuntimeError where links form a cycle, before Python 3.13.
        path = Path(os.path.realpath(joined))
        inside = path.is_relative_to(os.path.realpath(folder))
    except (OSError, ValueError):  # too long
        return None
    return path if inside else None
