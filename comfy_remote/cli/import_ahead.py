"""Importing an HTTP stack while the rest of the program is being imported."""

from __future__ import annotations

import threading
from importlib import import_module

__all__ = ["import_ahead"]

_SLOW = "aiohttp"


def import_ahead() -> None:
    """Begin to import what talking to a target needs, in a thread. Returns at once.

    When it is imported, aiohttp reads the certificates that the system trusts, without Python's
    lock: a quarter of the start, in which our own modules, the workflow and the configuration
    are read. Whoever imports it meanwhile waits for the thread. Other people's modules only: ours
    would wait for each other.
    """
    threading.Thread(target=_import_slow, name="import-ahead").start()


def _import_slow() -> None:
    import_module(_SLOW)
