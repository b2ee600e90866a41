"""Value files that callers sent, by their SHA-256."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from ..errors import RequestTooLarge, ValueInvalid
from ..media.limited_folder import LimitedFolder, no_room
from ..media.receive import receive_file
from ..media.values import EncodedValue
from .values import ValueFile

__all__ = ["ValueStore"]

LARGEST_FILE = 4 * 1024**3
"""Bytes of one value file."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ValueStore:
    """Value files in a folder.

    Args:
        folder: Its own; see `LimitedFolder`.
        room: Bytes of all files together.
    """

    def __init__(self, folder: Path, *, room: int = 20 * 1024**3) -> None:
        self.folder = LimitedFolder(folder, room)
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
            raise no_room() if left < LARGEST_FILE else error from None
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


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    view = memoryview(content)
    for start in range(0, len(view), 1024 * 1024):
        yield bytes(view[start : start + 1024 * 1024])
