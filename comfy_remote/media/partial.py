"""A file that has arrived in part, and its folder: on disk, so that the next try continues.

Downloads of outputs and of models share it, each with a loop of its own: a target is asked for
bytes from an offset and names their version; a model's server is asked for a range of one version
(``If-Range``), and may answer with another part, another file or a web page.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

from ..errors import JobTimedOut, LocalStorageError, RateLimited, TargetUnreachable
from .file_changes import discard, patiently, replace_file
from .files import CHUNK_SIZE, folder_beside, private_folder, safe_relative_path, storage_errors
from .temporary import ProcessLock

__all__ = ["PartialFile", "partial_folder"]

_LOCK = "lock"
_TO_BE_CONTINUED = (
    TargetUnreachable,
    RateLimited,
    JobTimedOut,
    LocalStorageError,
    asyncio.CancelledError,
    KeyboardInterrupt,
)


@contextlib.contextmanager
def partial_folder(folder: Path, name: str) -> Iterator[Path]:
    """The folder ``.comfy-remote-NAME`` below ``folder``, for this process alone.

    It stays, with its content, if the work in it is interrupted (killed, cancelled, the target
    unreachable, out of time) or what has arrived cannot be put where it belongs; otherwise it is
    removed at the end. While another process has it, a new private folder is used instead.

    It blocks where it begins and where it ends.

    Args:
        folder: Made when missing.
        name: The same for every try. It is made safe as a file name.

    Raises:
        LocalStorageError: It cannot be made.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        made = folder_beside(folder, f".comfy-remote-{safe_relative_path(name).name}")
    with contextlib.ExitStack() as stack:
        ours = True
        try:
            stack.callback(ProcessLock(made / _LOCK).close)
        except sqlite3.Error:  # another has it, or the file system has no locks
            ours = False
        if not ours:
            yield stack.enter_context(private_folder(folder))
            return
        try:
            yield made
        except _TO_BE_CONTINUED:
            stack.close()
            if all(path.name == _LOCK for path in made.iterdir()):
                _remove(made, stack)
            raise
        except BaseException:
            _remove(made, stack)
            raise
        _remove(made, stack)


def _remove(made: Path, stack: contextlib.ExitStack) -> None:
    stack.close()  # Windows removes no file that is open
    discard(made)


class PartialFile:
    """The bytes received so far, and a note of the version that they are a part of.

    A context manager, which closes it. Each method blocks and may raise `LocalStorageError`. Until
    `begin`, there is a file only where an earlier try has left one that can be continued.

    Args:
        path: Of the bytes, in a folder that exists and no other process uses.
        note: Of the note, in a folder that exists.
        full: What to do when the disk is full, if that is not `storage_errors`'s advice.

    Attributes:
        size: Bytes that are here.
        version: What they are a part of; ``None`` if unknown: then another process cannot use them.
    """

    def __init__(self, path: Path, note: Path, *, full: str | None = None) -> None:
        self.path = path
        self._note = note
        self._full = full
        self.version: str | None = None
        self._digest = hashlib.sha256()
        self.size = 0
        self._file: BinaryIO | None = None
        with self._errors():
            if self._note.exists():
                self.version = self._note.read_text(encoding="utf-8", errors="replace")
            if self.version:
                self._opened()
                with self.path.open("rb") as before:
                    while chunk := before.read(CHUNK_SIZE):
                        self._count(chunk)

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def sha256(self) -> str:
        """Of what is here, 64 lower-case hex digits."""
        return self._digest.hexdigest()

    def begin(self, version: str | None) -> None:
        """Discard the bytes that are here: what follows is a part of this version."""
        with self._errors():
            self._opened().truncate(0)
            # Now, so that a kill in between does not leave bytes under another version's note.
            self._write_note(version or "")
        self._digest = hashlib.sha256()
        self.size = 0
        self.version = version

    def note(self, version: str) -> None:
        """Replace the note of the version that the bytes are a part of."""
        with self._errors():
            self._write_note(version)
        self.version = version

    def write(self, chunk: bytes) -> None:
        """Append bytes."""
        with self._errors():
            self._opened().write(chunk)
        self._count(chunk)

    def sync(self) -> None:
        """Flush everything to the disk."""
        with self._errors():
            self._opened().flush()
            os.fsync(self._opened().fileno())

    def close(self) -> None:
        """Close it; it stays for the next try."""
        with self._errors():
            if self._file is not None:
                self._file.close()

    def complete(self, path: Path) -> Path:
        """Give it the name of the complete file. To be called after `close`."""
        with self._errors():
            replace_file(self.path, path)
        discard(self._note, seconds=0)  # one that stays says nothing of bytes that are not there
        return path

    def remove(self) -> None:
        """Remove it and its note, if they can be. To be called after `close`."""
        discard(self._note)  # first: without it, nobody continues what is here
        discard(self.path)

    def _opened(self) -> BinaryIO:
        if self._file is None:
            # To append: after `begin`, what comes is written at the beginning, not behind a hole.
            self._file = patiently(lambda: self.path.open("ab"))
        return self._file

    def _write_note(self, version: str) -> None:
        patiently(self._note.write_text, version, "utf-8")

    def _errors(self) -> AbstractContextManager[None]:
        if self._full is None:
            return storage_errors(self.path)
        return storage_errors(self.path, full=self._full)

    def _count(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self.size += len(chunk)
