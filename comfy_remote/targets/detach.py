"""Starting a process that outlives us, on every platform."""

from __future__ import annotations

import subprocess
import sys
from typing import TypedDict

__all__ = ["detached"]


class _Detached(TypedDict, total=False):
    start_new_session: bool
    creationflags: int


def detached(platform: str = sys.platform) -> _Detached:
    """Arguments of `subprocess` for a process that Ctrl-C in our terminal does not reach.

    On POSIX a session of its own; on Windows a process group of its own and no console
    window.
    """
    if platform == "win32":
        group = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x00000200)
        no_window = getattr(subprocess, "CREATE_NO_WINDOW", 0x08000000)
        return {"creationflags": group | no_window}
    return {"start_new_session": True}
