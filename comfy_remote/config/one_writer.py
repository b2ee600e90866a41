"""The owner's files are changed by one program at a time: commands, and ComfyUI's page."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping

from ..errors import LocalStorageError
from ..media.files import OWN_DATA, storage_errors
from ..media.temporary import ProcessLock
from .folders import home

__all__ = ["one_writer"]

_PATIENCE = 10.0  # seconds; a change takes milliseconds


@contextlib.contextmanager
def one_writer(
    environment: Mapping[str, str] = os.environ, *, patience: float = _PATIENCE
) -> Iterator[None]:
    """Be the only one who changes them: what is read in this context is what is replaced.

    It blocks, and must not be nested.

    Raises:
        LocalStorageError: Another program holds it for longer than ``patience`` (seconds), or
            nothing can be locked there.
    """
    path = home(environment) / "own-files.lock"
    with storage_errors(path, denied=OWN_DATA):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        lock = ProcessLock(path, patience=patience)
    except sqlite3.Error as error:
        raise LocalStorageError(
            f"{path} could not be locked: {error}. Nothing was changed.",
            advice="Another program may be changing your settings: try again. " + OWN_DATA,
            details={"path": str(path)},
        ) from error
    try:
        yield
    finally:
        lock.close()
