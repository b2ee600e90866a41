"""The bytes of a front's assets: files named by their BLAKE3, each content once. All of it blocks.

`AssetRecords` calls this inside of its transactions: so of two processes, neither removes what the
other is about to refer to.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..media.file_changes import discard, remove_file
from ..media.files import OWN_DATA, storage_errors, sync_folder, take_name
from .stored import NewAsset, has_size

__all__ = ["Blobs"]


class Blobs:
    """The files of one folder, which `make` makes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self) -> None:
        """Make the folder; only its owner may enter."""
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def path(self, blake3: str) -> Path:
        """Where a content is, or would be.

        Args:
            blake3: 64 hex digits, as in all methods.
        """
        return self._folder / blake3[:2] / blake3

    def has(self, blake3: str, size: int) -> bool:
        """Whether a content of so many bytes is here, whole."""
        return has_size(self.path(blake3), size)

    def take(self, file: Path, new: NewAsset, *, durable: bool) -> bool:
        """Give a content its name, unless it is here; whether it was not.

        Args:
            file: It is moved away, or removed.
            durable: Whether the name has to survive a power cut.

        Raises:
            LocalStorageError: It cannot be written.
        """
        path = self.path(new.blake3)
        with storage_errors(path, denied=OWN_DATA):
            if has_size(path, new.size):
                discard(file)
                return False
            path.parent.mkdir(mode=0o700, exist_ok=True)
            take_name(file, path, new.sha256)
            if durable:
                sync_folder(path.parent)
                sync_folder(self._folder)
            return True

    def remove(self, blake3: str) -> int:
        """Remove a content, and return its size; 0 if it is not here, or cannot be removed now:
        Windows removes nothing that another program has open.
        """
        path = self.path(blake3)
        try:
            size = path.stat().st_size
            remove_file(path, seconds=0)
        except OSError:
            return 0
        return size

    def names(self) -> Iterator[list[str]]:
        """What is here, by BLAKE3: a list for each of the 256 folders."""
        for folder in sorted(self._folder.iterdir()):
            names = [one.name for one in folder.iterdir()] if folder.is_dir() else []
            yield [name for name in names if len(name) == 64 and name.startswith(folder.name)]
