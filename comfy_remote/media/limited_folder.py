"""Folders with a limit for the bytes in them, known without walking through them."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from ..errors import RateLimited
from .disk_space import DiskLimits, make_room
from .files import storage_errors

__all__ = ["LimitedFolder", "no_room"]

_AGAIN_AFTER = 60


class LimitedFolder:
    """A folder of files that are deleted by age, with a limit for their bytes together.

    What is in it is counted once, again by each `sweep` or `count`, and when there seems to be no
    room; what is added meanwhile is counted along. All of it blocks.

    Args:
        path: Its own; made when missing, and only its owner may enter.
        room: Bytes of all files together. None is removed before its time to make room; besides,
            `DiskLimits.free` stays free on the disk.
    """

    def __init__(self, path: Path, room: int) -> None:
        self.path = path
        self._room = room
        self._used: int | None = None
        self._added = 0
        self._lock = threading.Lock()

    def left(self) -> int:
        """Bytes that may still be written.

        Raises:
            LocalStorageError: The folder cannot be made.
        """
        with storage_errors(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._lock:
            if self._used is None:
                self._used = self._counted()
            return max(0, min(self._room - self._used, DiskLimits.of().room(self.path)))

    def check_room(self, size: int = 1) -> None:
        """Refuse bytes that there is no room for.

        Raises:
            RateLimited: There is no room for them now.
            LocalStorageError: As `left`.
        """
        if self.left() < size:
            self._used = None  # what replaced an equal file was counted twice
            if self.left() < size:
                raise no_room()

    def added(self, size: int) -> None:
        """Count bytes that were written, or, below 0, removed."""
        with self._lock:
            self._added += size
            if self._used is not None:
                self._used += size

    def sweep(self, keep: float) -> None:
        """Remove what was not touched for `keep` seconds, and count the rest again."""
        make_room(self.path.glob("*"), older_than=keep)
        self.count()

    def count(self) -> None:
        """Count what is there again. What is added meanwhile may be counted twice."""
        with self._lock:
            before = self._added
        used = self._counted()
        with self._lock:
            self._used = used + max(0, self._added - before)

    def _counted(self) -> int:
        used = 0
        for path in self.path.rglob("*"):
            with contextlib.suppress(OSError):  # it has just gone
                used += path.lstat().st_size
        return used


def no_room() -> RateLimited:
    """The error for a service whose folder or disk is full."""
    return RateLimited(
        "The service has no room for more files.",
        advice="Try again later: old results and files are deleted.",
        details={"retry_after": _AGAIN_AFTER},
    )
