"""Outputs that did not fit the result, kept for a while for the client to take in parts."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from pathlib import Path

from ..errors import OutputLost
from ..media.files import copy_whole, storage_errors
from ..targets.download import Downloaded
from .store import StoredFile

__all__ = ["KeptFiles"]

_SECONDS = 3600.0
_NAME = re.compile(r"[0-9a-f]{32}")


class KeptFiles:
    """Files under names that cannot be guessed.

    They go an hour after they came, or before that when there are too many; both when the next
    one comes.

    Args:
        folder: On the volume, if there is one: then any worker can give them out.
        limit: Bytes of all of them together.
        seconds: How long one is kept.
    """

    public = False

    def __init__(self, folder: Path, *, limit: int, seconds: float = _SECONDS) -> None:
        self._folder = folder
        self._limit = limit
        self._seconds = seconds

    @property
    def folder(self) -> Path:
        """Where they are; need not exist."""
        return self._folder

    async def put(self, job_id: str, filename: str, file: Downloaded) -> StoredFile:
        """Keep a copy of a file.

        Raises:
            LocalStorageError: It cannot be written, for example since the disk is full.
        """
        del job_id, filename
        name = uuid.uuid4().hex
        await asyncio.to_thread(self._keep, file, self._folder / name)
        return StoredFile(kept=name)

    def part(self, name: str, offset: int, length: int) -> tuple[bytes, int]:
        """Some bytes of a file, and its whole size. Blocking.

        Raises:
            OutputLost: It is not here.
        """
        path = self._folder / name
        if not _NAME.fullmatch(name):
            raise _not_here()
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(length), path.stat().st_size
        except FileNotFoundError:
            raise _not_here() from None

    def _keep(self, file: Downloaded, path: Path) -> None:
        self._make_room(file.size)
        with storage_errors(path):
            copy_whole(file.path, path)

    def _make_room(self, needed: int) -> None:
        now = time.time()
        left = []
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            with contextlib.suppress(OSError):  # another worker has removed it
                stat = path.stat()
                left.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in left) + needed
        for modified, size, path in sorted(left):
            if now - modified > self._seconds or total > self._limit:
                with contextlib.suppress(OSError):
                    path.unlink()
                    total -= size


def _not_here() -> OutputLost:
    return OutputLost(
        "This worker does not have that output (any more).",
        advice="Outputs are kept for an hour, by the worker that made them or on its volume. Run "
        "the workflow again, or give the worker a bucket (BUCKET_ENDPOINT_URL).",
    )
