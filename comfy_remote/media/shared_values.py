"""Value files that two ComfyUIs of one user on one machine pass each other without sending them.

Both know the same folder, which only their owner may enter, and a file in it is named by its
content. So whoever asks for one names no path; and where the other side has another folder
(another user, a container, the far end of a tunnel), the file is just not there.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

from .disk_space import DiskLimits, make_room
from .file_changes import discard, link_file
from .files import blake3_of, storage_errors, write_whole
from .remote_values import named_by_content, value_file_name, value_stem

if TYPE_CHECKING:
    from .values import EncodedValue

__all__ = ["SharedValues"]

_LEFT_AFTER = 600.0
"""Seconds after which a file was left by a program that was killed."""
_MARK = "mark"


class SharedValues:
    """The folder. All of it blocks.

    A file is known by its stem (see `value_stem`): what is written here by its BLAKE3, what older
    versions ask for by its SHA-256.

    Args:
        folder: The same for all of the owner's programs; made when missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def mark(self) -> str:
        """The stem of a file that is in this folder, and in no other.

        What programs that were killed have left is removed.

        Raises:
            LocalStorageError: The folder cannot be used.
        """
        mark = self._folder / _MARK
        with storage_errors(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_room(self._folder.glob("*.safetensors"), older_than=_LEFT_AFTER)
            if not mark.is_file():
                write_whole(mark, os.urandom(32))
            stem = value_stem(blake3_of(mark), "blake3")
            write_whole(self._path(stem), mark.read_bytes())
        return stem

    def write(self, value: EncodedValue) -> str:
        """Write a value, and return its stem. Call `remove` once the other side has it.

        Raises:
            LocalStorageError: It cannot be written, or too little of the disk would stay free.
        """
        DiskLimits.of().check_room(self._folder / _MARK, value.size)
        return value.write_into(self._folder, "blake3").stem

    def offer(self, stem: str, temp: Path) -> bool:
        """Link a value file of a ComfyUI's temp folder into the folder; whether it is there now."""
        name = value_file_name(stem)
        return named_by_content(name) == stem and _linked(temp / name, self._path(stem))

    def give(self, stem: str, path: Path) -> bool:
        """Link a file of the folder to ``path``; whether it is there now."""
        return _linked(self._path(stem), path)

    def take(self, stem: str) -> memoryview | None:
        """The bytes of a file, which leaves the folder: mapped, and the memory can be written to.

        ``None`` if it is not there. (Windows removes no file that is mapped: a later sweep does.)
        """
        path = self._path(stem)
        try:
            with path.open("rb") as file:
                content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        except (OSError, ValueError):  # ValueError: it is empty
            return None
        discard(path, seconds=0)
        return content

    def remove(self, stem: str) -> None:
        """Remove a file that `write` has made."""
        discard(self._path(stem), seconds=0)

    def _path(self, stem: str) -> Path:
        return self._folder / f"{stem}.safetensors"


def _linked(source: Path, destination: Path) -> bool:
    try:
        destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        link_file(source, destination)
    except FileExistsError:
        return True  # by its name, it has the same content
    except OSError:  # not there, or in another file system
        return False
    return True
