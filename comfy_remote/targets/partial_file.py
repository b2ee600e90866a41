"""What has arrived of a file so far, on disk, so that also another process can go on with it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType

from ..media.files import CHUNK_SIZE, storage_errors

__all__ = ["PartialFile"]


class PartialFile:
    """``NAME.part`` beside the file it will be, and ``NAME.version`` with what it is a part of.

    Used as a context manager, which closes it. Each of its methods may raise `LocalStorageError`.

    Args:
        path: Of the complete file. Its folder is there, and no other process uses it.

    Attributes:
        size: Bytes that are here.
        version: What the target called the version that they are of; ``None`` if it has none: then
            they are of no use to another process.
    """

    def __init__(self, path: Path) -> None:
        self._whole = path
        self.path = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.version")
        self.version: str | None = None
        self._digest = hashlib.sha256()
        self.size = 0
        with storage_errors(path):
            if self._note.exists():
                self.version = self._note.read_text(encoding="utf-8", errors="replace")
            # Appended to, and emptied if nobody knows what it is a part of.
            self._file = self.path.open("ab" if self.version else "wb")
            if self.version:
                with self.path.open("rb") as before:
                    while chunk := before.read(CHUNK_SIZE):
                        self._count(chunk)

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with storage_errors(self.path):
            self._file.close()

    @property
    def sha256(self) -> str:
        """Of what is here, 64 lower-case hex digits."""
        return self._digest.hexdigest()

    def begin(self, version: str | None) -> None:
        """Throw away what is here: what comes now is of this version."""
        with storage_errors(self.path):
            self._file.truncate(0)
            # Then only: killed in between, nothing is left of one version under another's name.
            if version is None:
                self._note.unlink(missing_ok=True)
            else:
                self._note.write_text(version, encoding="utf-8")
        self._digest = hashlib.sha256()
        self.size = 0
        self.version = version

    def write(self, chunk: bytes) -> None:
        """Append."""
        with storage_errors(self.path):
            self._file.write(chunk)
        self._count(chunk)

    def complete(self) -> Path:
        """Give it its name; closed before."""
        with storage_errors(self._whole):
            self.path.replace(self._whole)
            if self.version is not None:
                self._note.unlink(missing_ok=True)
        return self._whole

    def remove(self) -> None:
        """Leave nothing; closed before."""
        with storage_errors(self.path):
            self.path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)

    def _count(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self.size += len(chunk)
