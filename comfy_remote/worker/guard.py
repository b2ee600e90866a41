"""Runs a Python program that ends when its parent does: ``guard.py PARENT_PID PROGRAM [ARGS]``.

A worker that is killed can no longer stop its engine, which would keep the GPU. So the engine
watches its parent itself, from a thread inside its own process.
``PROGRAM`` is a script, or ``-m MODULE``.

Runs under the engine's Python, which need not have this package: standard library only.
"""

from __future__ import annotations

import os
import runpy
import signal
import site
import sys
import threading
import time
from pathlib import Path

_LOOK_EVERY = 0.5
_NODE_SITE = "COMFY_REMOTE_NODE_SITE"  # `nodes.at_start` has it for the package


def wait_for_end_of(parent: int) -> None:
    """Block until the process that started this one has ended."""
    if sys.platform == "win32":
        import ctypes

        synchronize, infinite = 0x00100000, 0xFFFFFFFF
        no_such_process = 87
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        handle = kernel.OpenProcess(synchronize, False, parent)
        if handle:
            kernel.WaitForSingleObject(handle, infinite)
        elif ctypes.get_last_error() != no_such_process:
            # It lives, and may not be watched: better no guard than an engine that ends at once.
            threading.Event().wait()
    else:
        # A process that has lost its parent is given another one.
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)


def _follow_into_death(parent: int) -> None:
    wait_for_end_of(parent)
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)  # with all we have started
    # Not `sys.exit`: that would end this thread only.
    os._exit(1)


def main(arguments: list[str]) -> None:
    """Run the program as if Python had been started with it."""
    threading.Thread(target=_follow_into_death, args=(int(arguments[0]),), daemon=True).start()
    program = arguments[1:]
    # Behind the Python's own packages, which stay the ones that are used.
    for folder in filter(None, os.environ.get(_NODE_SITE, "").split(os.pathsep)):
        site.addsitedir(folder)  # type: ignore[attr-defined]  # mypy finds tools/site.py
    here = str(Path(__file__).resolve().parent)
    # Python put this script's folder first, and a program must not import our modules by
    # accident. Portable (embedded) Pythons don't put it there.
    if sys.path and Path(sys.path[0] or ".").resolve() == Path(here):
        del sys.path[0]
    if program[0] == "-m":
        sys.argv = program[1:]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        sys.path.insert(0, str(Path(program[0]).resolve().parent))
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
