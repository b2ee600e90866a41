"""Value files that callers sent, by their SHA-256."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from ..errors import RateLimited, RequestTooLarge, ValueInvalid
from ..media.disk_space import DiskLimits, make_room
from ..media.files import storage_errors
from ..media.receive import receive_file
from ..media.values import EncodedValue
from .values import ValueFile

__all__ = ["KeptFolder", "ValueStore"]

LARGEST_FILE = 4 * 1024**3
"""Bytes of one value file."""

_AGAIN_AFTER = 60
_SHA256 = re.compile(r"[0-9a-f]{64}")


class KeptFolder:
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
                raise _no_room()

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


class ValueStore:
    """Value files in a folder.

    Args:
        folder: Its own; see `KeptFolder`.
        room: Bytes of all files together.
    """

    def __init__(self, folder: Path, *, room: int = 20 * 1024**3) -> None:
        self.folder = KeptFolder(folder, room)
        self.decoding = asyncio.Semaphore(1)
        """Held while a picture is decoded, which takes many times the size of its file."""

    def get(self, sha256: str) -> ValueFile | None:
        """A file that was sent before; it counts as used now."""
        path = self._path(sha256)
        try:
            os.utime(path)
            return ValueFile(path, path.stat().st_size, sha256)
        except FileNotFoundError:
            return None

    async def put(self, sha256: str, chunks: AsyncIterable[bytes]) -> ValueFile:
        """Store a file while it arrives.

        Raises:
            RequestTooLarge: It has more than 4 GiB.
            RateLimited: There is no room for it now.
            ValueInvalid: Its SHA-256 is another.
            LocalStorageError: It cannot be written.
        """
        path = self._path(sha256)
        again = path.is_file()
        left = await asyncio.to_thread(self.folder.left)
        try:
            got = await receive_file(chunks, path, sha256=sha256, limit=min(LARGEST_FILE, left))
        except RequestTooLarge as error:
            raise _no_room() if left < LARGEST_FILE else error from None
        self.folder.added(0 if again else got.size)
        return ValueFile(path, got.size, sha256)

    async def add(self, content: bytes) -> ValueFile:
        """Store a file that came in a request."""
        import hashlib

        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
        return self.get(sha256) or await self.put(sha256, _whole(content))

    def write(self, value: EncodedValue) -> ValueFile:
        """Store a value that was made here. Blocking.

        Raises:
            RateLimited: There is no room for it now.
            LocalStorageError: It cannot be written.
        """
        self.folder.check_room(value.size)
        path = value.write_into(self.folder.path)
        self.folder.added(value.size)
        return ValueFile(path, path.stat().st_size, path.stem)

    def _path(self, sha256: str) -> Path:
        if _SHA256.fullmatch(sha256) is None:
            raise ValueInvalid(
                "That is not a SHA-256.", advice="It has 64 hex digits, in lower case."
            )
        return self.folder.path / f"{sha256}.safetensors"


def _no_room() -> RateLimited:
    """The error for a service whose folder or disk is full."""
    return RateLimited(
        "The service has no room for more files.",
        advice="Try again later: old results and files are deleted.",
        details={"retry_after": _AGAIN_AFTER},
    )


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    view = memoryview(content)
    for start in range(0, len(view), 1024 * 1024):
        yield bytes(view[start : start + 1024 * 1024])
