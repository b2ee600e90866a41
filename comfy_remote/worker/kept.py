"""Outputs that did not fit the result, kept for a while for the client to take in parts."""

from __future__ import annotations

import asyncio
import re
import uuid
from pathlib import Path

from ..errors import OutputLost
from ..media.disk_space import make_room
from ..media.files import copy_whole, storage_errors
from ..media.receive import Received
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

    async def put(self, job_id: str, filename: str, file: Received) -> StoredFile:
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

    def _keep(self, file: Received, path: Path) -> None:
        make_room(
            self._folder.glob("*"),
            older_than=self._seconds,
            limit=self._limit,
            needed=file.size,
        )
        with storage_errors(path):
            copy_whole(file.path, path)


def _not_here() -> OutputLost:
    return OutputLost(
        "This worker does not have that output (any more).",
        advice="Outputs are kept for an hour, by the worker that made them or on its volume. Run "
        "the workflow again, or give the worker a bucket (BUCKET_ENDPOINT_URL).",
    )
