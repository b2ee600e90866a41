"""A folder for what is being fetched, which the next try finds again."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ..errors import JobTimedOut, RateLimited, TargetUnreachable
from .files import private_folder, safe_relative_path, storage_errors
from .process_lock import ProcessLock

__all__ = ["partial_folder"]

_LOCK = "lock"
_TO_BE_CONTINUED = (
    TargetUnreachable,
    RateLimited,
    JobTimedOut,
    asyncio.CancelledError,
    KeyboardInterrupt,
)


@contextlib.contextmanager
def partial_folder(folder: Path, name: str) -> Iterator[Path]:
    """The folder ``.comfy-remote-NAME`` below ``folder``, for this process alone.

    It stays when what is done in it was interrupted (killed, cancelled, the target out of reach,
    out of time),
    with whatever it holds, and is removed at every other end. While another process has it, a new
    private one takes its place.

    Args:
        folder: It and its parents are made when missing.
        name: The same for every try. Made safe as a file name; it may come from elsewhere.

    Raises:
        LocalStorageError: It cannot be made.
    """
    made = folder / f".comfy-remote-{safe_relative_path(name).name}"
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        made.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as stack:
        ours = True
        try:
            stack.callback(ProcessLock(made / _LOCK).close)
        except sqlite3.Error:  # another has it, or the file system has no locks
            ours = False
        if not ours:
            yield stack.enter_context(private_folder(folder))
            return
        try:
            yield made
        except _TO_BE_CONTINUED:
            stack.close()
            if all(path.name == _LOCK for path in made.iterdir()):
                _remove(made, stack)
            raise
        except BaseException:
            _remove(made, stack)
            raise
        _remove(made, stack)


def _remove(made: Path, stack: contextlib.ExitStack) -> None:
    stack.close()  # Windows removes no file that is open
    shutil.rmtree(made, ignore_errors=True)
