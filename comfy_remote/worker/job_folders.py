"""Folders for jobs' files, below one temporary folder of the worker."""

from __future__ import annotations

import uuid
from pathlib import Path

from ..aio import in_thread
from ..media.file_changes import discard
from ..media.files import storage_errors
from ..media.temporary import TemporaryFolder

__all__ = ["JobFolders"]


class JobFolders:
    """One for each job. If this process is killed, `remove_leftovers` of the next removes all."""

    def __init__(self) -> None:
        self._all: TemporaryFolder | None = None

    async def new(self) -> Path:
        """A new and empty folder.

        Raises:
            LocalStorageError: It cannot be made.
        """
        if self._all is None:
            self._all = await in_thread(TemporaryFolder, "worker")
        folder = Path(self._all.name, uuid.uuid4().hex)
        with storage_errors(folder):
            folder.mkdir(mode=0o700, parents=True)
        return folder

    async def remove(self, folder: Path) -> None:
        """Remove a folder; what cannot be removed now goes with `close`."""
        await in_thread(discard, folder)

    async def close(self) -> None:
        """Remove all of them."""
        if self._all is not None:
            temporary, self._all = self._all, None
            await in_thread(temporary.cleanup)
