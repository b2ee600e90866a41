"""Value files that callers sent, by their SHA-256."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import time
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from ..errors import RateLimited, RequestTooLarge, ValueInvalid
from ..media.disk_space import DiskLimits
from ..media.files import storage_errors
from ..media.receive import receive_file
from ..media.values import EncodedValue
from .values import ValueFile

__all__ = ["ValueStore", "no_room", "remove_older", "room_left"]

LARGEST_FILE = 4 * 1024**3
"""Bytes of one value file."""

_AGAIN_AFTER = 60
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ValueStore:
    """Files below one folder, which is made when missing and only its owner may enter.

    Args:
        folder: Its own.
        room: Bytes of all files together. None is removed before its time to make room.
    """

    def __init__(self, folder: Path, *, room: int = 20 * 1024**3) -> None:
        self.folder = folder
        self.decoding = asyncio.Semaphore(1)
        """Held while a picture is decoded, which takes many times the size of its file."""
        self._room = room

    def get(self, sha256: str) -> ValueFile | None:
        """A file that was sent before; it counts as used now."""
        path = self._path(sha256)
        try:
            os.utime(path)
            return ValueFile(path, path.stat().st_size, sha256)
        except FileNotFoundError:
            return None

    async def put(self, sha256: str, chunks: AsyncIterable[bytes]) -> ValueFile:
        """Take a file while it arrives.

        Raises:
            RequestTooLarge: It has more than 4 GiB.
            RateLimited: There is no room for it now.
            ValueInvalid: Its SHA-256 is another.
            LocalStorageError: It cannot be written.
        """
        path = self._path(sha256)
        with storage_errors(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        left = await asyncio.to_thread(room_left, self.folder, self._room)
        try:
            got = await receive_file(chunks, path, sha256=sha256, limit=min(LARGEST_FILE, left))
        except RequestTooLarge as error:
            raise no_room() if left < LARGEST_FILE else error from None
        return ValueFile(path, got.size, sha256)

    async def add(self, content: bytes) -> ValueFile:
        """Keep a file that came in a request."""
        import hashlib

        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
        return self.get(sha256) or await self.put(sha256, _whole(content))

    def write(self, value: EncodedValue) -> ValueFile:
        """Store a value that was made here; it blocks meanwhile.

        Raises:
            RateLimited: There is no room for it now.
            LocalStorageError: It cannot be written.
        """
        with storage_errors(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if room_left(self.folder, self._room) < value.size:
            raise no_room()
        path = value.write_into(self.folder)
        return ValueFile(path, path.stat().st_size, path.stem)

    def _path(self, sha256: str) -> Path:
        if _SHA256.fullmatch(sha256) is None:
            raise ValueInvalid("That is no SHA-256.", advice="It has 64 hex digits, in lower case.")
        return self.folder / f"{sha256}.safetensors"


def room_left(folder: Path, room: int) -> int:
    """Bytes that may still be written below a folder; it blocks meanwhile.

    Args:
        room: Bytes of all files there. Besides, `DiskLimits.free` stays free on the disk.
    """
    used = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # it has just gone
            used += path.lstat().st_size
    return max(0, min(room - used, DiskLimits.of().room(folder)))


def no_room() -> RateLimited:
    """The error for a service whose folder or disk is full."""
    return RateLimited(
        "The service has no room for more files.",
        advice="Try again later: old results and files are deleted.",
        details={"retry_after": _AGAIN_AFTER},
    )


def remove_older(folder: Path, seconds: float) -> None:
    """Remove what in a folder has not been touched for so long; it blocks meanwhile."""
    before = time.time() - seconds
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            if path.stat().st_mtime >= before:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()
        except OSError:
            continue  # somebody uses it, or has removed it


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    view = memoryview(content)
    for start in range(0, len(view), 1024 * 1024):
        yield bytes(view[start : start + 1024 * 1024])
