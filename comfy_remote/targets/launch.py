"""How to start a process: a module of ours, and one that outlives us, on every platform."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TypedDict

__all__ = ["PACKAGE_PARENT", "detached", "own_module", "own_program"]

_PACKAGE = Path(__file__).resolve().parents[1]

PACKAGE_PARENT = _PACKAGE.parent
"""The working folder for `own_module`: ``python -m`` looks there first, and in a folder of the
user's a ``json.py`` would be taken for Python's own."""


def own_module(name: str) -> tuple[str, str]:
    """Arguments of Python that run a module of this package, started in `PACKAGE_PARENT`.

    >>> own_module("sandbox")
    ('-m', 'comfy_remote.sandbox')
    """
    # The folder's name and not `__package__`: inside ComfyUI the package has another one.
    return "-m", f"{_PACKAGE.name}.{name}"


# ComfyUI's portable Python for Windows looks in no working folder, so `-m` finds nothing there.
_RUN = (
    "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def own_program(name: str) -> tuple[str, ...]:
    """Like `own_module`, for any Python, isolated ones too, and in any working folder."""
    return "-c", _RUN, str(PACKAGE_PARENT), own_module(name)[1]


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
