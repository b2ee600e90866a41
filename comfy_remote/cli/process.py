"""The commands as pip installs them: processes of their own, which end without taking Python apart.

Taking all imported modules apart takes 10 ms, a thirtieth of a small run, and the system frees that
memory anyway. What has to be done at the end (threads, locks, temporary folders, logs) is done
before.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress

__all__ = ["comfy_remote", "comfy_run_remote"]


def comfy_remote() -> None:
    """The command ``comfy-remote``."""
    from .main import main

    _whole(main)


def comfy_run_remote() -> None:
    """The command ``comfy-run-remote``."""
    from .run_remote import main

    _whole(main)


def _whole(main: Callable[[], None]) -> None:
    status = 1  # of an error that Python itself shows

    def end() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)

    atexit.register(end)  # first, so it is called last
    try:
        main()
        status = 0
    except SystemExit as left:
        if not isinstance(left.code, str):
            status = left.code or 0
        raise
    except KeyboardInterrupt:
        status = 130
        raise
