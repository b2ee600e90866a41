"""Value files that callers sent, by their SHA-256. What is used least recently goes first."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import time
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from ..errors import ValueInvalid
from ..jobs.call import ValueFile
from ..media.files import storage_errors
from ..media.receive import receive_file
from ..media.values import EncodedValue

__all__ = ["ValueStore", "remove_older"]

LARGEST_FILE = 4 * 1024**3
"""Bytes of one value file."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ValueStore:
    """Files below one folder, which is made when missing and only its owner may enter.

    Args:
        folder: Its own.
        room: Bytes of all files together; the oldest are removed to make room.
    """

    def __init__(self, folder: Path, *, room: int = 20 * 1024**3) -> None:
        self.folder = folder
        self.decoding = asyncio.Semaphore(1)
        """For whoever decodes a picture: it takes many times what its file has."""
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
            ValueInvalid: Its SHA-256 is another.
            LocalStorageError: It cannot be written.
        """
        path = self._path(sha256)
        with storage_errors(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        got = await receive_file(chunks, path, sha256=sha256, limit=min(LARGEST_FILE, self._room))
        await asyncio.to_thread(self._make_room, path)
        return ValueFile(path, got.size, sha256)

    async def add(self, content: bytes) -> ValueFile:
        """Keep a file that came in a request."""
        import hashlib

        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
        return self.get(sha256) or await self.put(sha256, _whole(content))

    def write(self, value: EncodedValue) -> ValueFile:
        """Store a value that was made here; it blocks meanwhile.

        Raises:
            LocalStorageError: It cannot be written.
        """
        with storage_errors(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = value.write_into(self.folder)
        self._make_room(path)
        return ValueFile(path, path.stat().st_size, path.stem)

    def _path(self, sha256: str) -> Path:
        if _SHA256.fullmatch(sha256) is None:
            raise ValueInvalid("That is no SHA-256.", advice="It has 64 hex digits, in lower case.")
        return self.folder / f"{sha256}.safetensors"

    def _make_room(self, newest: Path) -> None:
        found = []
        for path in self.folder.glob("*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime, status.st_size, path))
        used = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if used <= self._room:
                return
            if path != newest:
                with contextlib.suppress(PermissionError):  # Windows: a call reads it just now
                    path.unlink(missing_ok=True)
                    used -= size


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
