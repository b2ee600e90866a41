"""Temporary folders that do not outlive their process for long, and the lock that tells.

A process that is killed removes nothing. So each folder holds a lock that the system releases
then, and the next start removes the folders whose locks are free.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
from contextlib import closing
from pathlib import Path

from .file_changes import discard
from .files import storage_errors

__all__ = ["ProcessLock", "TemporaryFolder", "is_locked", "remove_leftovers"]

_PREFIX = "comfy-remote-"
_LOCK = ".lock"
_TRIES = 3


class ProcessLock:
    """A lock that the system releases when its process ends, on every platform.

    Held until `close`, or to the end of the process.

    Args:
        path: The lock's file, made when missing.
        patience: Seconds to wait for another process that holds it; blocking.

    Raises:
        sqlite3.Error: Another process holds it, or files cannot be locked there.
    """

    def __init__(self, path: Path, *, patience: float = 0.0) -> None:
        # SQLite has solved this for all platforms, and is imported anyway.
        self._connection = sqlite3.connect(
            path, timeout=patience, isolation_level=None, check_same_thread=False
        )
        try:
            self._connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error:
            self._connection.close()
            raise

    def close(self) -> None:
        """Release the lock."""
        self._connection.close()

    def __del__(self) -> None:
        # Since Python 3.13, SQLite warns if the connection is not closed.
        if hasattr(self, "_connection"):
            self._connection.close()


def is_locked(path: Path) -> bool:
    """Whether a process that is alive holds the `ProcessLock` of a file that exists.

    Several may ask at a time, and keep nobody from taking it for longer than that. Blocking.
    """
    address = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=0.0)) as connection:
            connection.execute("SELECT 1 FROM sqlite_master").fetchall()
    except sqlite3.Error:
        return True
    return False


class TemporaryFolder(tempfile.TemporaryDirectory[str]):
    """A new folder that only its owner may enter, removed with `cleanup` or with this object.

    Args:
        kind: Part of its name, ``comfy-remote-KIND-…``.
        parent: Below the system's temporary folder when ``None``; made when missing.

    Raises:
        LocalStorageError: It cannot be made.
    """

    def __init__(self, kind: str, parent: Path | None = None) -> None:
        where = parent or Path(tempfile.gettempdir())
        with storage_errors(where):
            where.mkdir(parents=True, exist_ok=True)
            for left in reversed(range(_TRIES)):
                # Windows does not remove a file that is mapped; an orderly end is not an error.
                super().__init__(prefix=f"{_PREFIX}{kind}-", dir=where, ignore_cleanup_errors=True)
                self._lock = _locked(Path(self.name))
                if self._lock is not None or not left:
                    break
                # Another process may have taken it for a leftover, and be removing it.
                super().cleanup()

    def cleanup(self) -> None:
        """Remove the folder and what is in it."""
        if self._lock is not None:
            self._lock.close()  # Windows removes no file that is open
        discard(Path(self.name))
        super().cleanup()


def _locked(folder: Path) -> ProcessLock | None:
    """The lock of a new folder; ``None`` if another process has it, or there are no locks."""
    try:
        lock = ProcessLock(folder / _LOCK)
    except sqlite3.Error:
        return None
    if (folder / _LOCK).exists():
        return lock
    lock.close()
    return None


def remove_leftovers(parent: Path | None = None) -> list[Path]:
    """Remove the temporary folders of this user's processes that have ended; it blocks meanwhile.

    Links are not followed, and what is not certainly a leftover stays.

    Args:
        parent: Where they are; the system's temporary folder when ``None``.

    Returns:
        The folders that were removed.
    """
    where = parent or Path(tempfile.gettempdir())
    try:
        folders = [*where.glob(f"{_PREFIX}*")]
    except OSError:
        return []
    return [folder for folder in folders if _removed(folder)]


def _removed(folder: Path) -> bool:
    if not _is_ours(folder):
        return False
    try:
        lock = ProcessLock(folder / _LOCK)
    except sqlite3.Error:  # its process is running
        return False
    # Windows removes no file that is open; neither does it remove one that another has opened.
    if os.name == "nt":
        lock.close()
    discard(folder)
    lock.close()
    return not folder.exists()


def _is_ours(folder: Path) -> bool:
    try:
        about, lock = folder.lstat(), (folder / _LOCK).lstat()
    except OSError:  # it has no lock, or has just gone
        return False
    # Neither may be a link, and another user's stays.
    if not stat.S_ISDIR(about.st_mode) or not stat.S_ISREG(lock.st_mode):
        return False
    return not hasattr(os, "getuid") or about.st_uid == lock.st_uid == os.getuid()
