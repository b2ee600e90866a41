"""Rows of values in one file, a JSON list a line: each is read by its number, none is held."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from ..errors import LocalStorageError
from ..media.files import OWN_DATA, storage_errors, written_whole
from ..types import JsonValue, as_list

__all__ = ["FrozenRows"]

_IN_MEMORY = 8 * 1024 * 1024
"""Bytes; beyond, the rows are in a temporary file until they are saved."""
_CHUNK = 1024 * 1024
_AT_ONCE = 100  # of rows, each of 1 MB at most


class FrozenRows:
    """Rows that are added once and never change. Eight bytes of memory each. Thread-safe."""

    def __init__(self) -> None:
        # Closed with this object: see `close`.
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        self._starts = array("Q", [0])
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> list[JsonValue]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        start, end = self._starts[number], self._starts[number + 1]
        with self._lock:
            self._file.seek(start)
            line = self._file.read(end - start)
        return as_list(json.loads(line.decode("ascii")))

    def add(self, cells: Sequence[JsonValue]) -> None:
        """Add a row at the end.

        Raises:
            OSError: The temporary file cannot be written.
        """
        # Escaped, because the name of a file may have half characters in it, which UTF-8 has not.
        line = f"{json.dumps(cells)}\n".encode()
        with self._lock:
            self._file.seek(self._starts[-1])
            self._file.write(line)
            self._starts.append(self._starts[-1] + len(line))

    def some(self, first: int, count: int) -> Iterator[list[JsonValue]]:
        """Rows one after another, read many at a time."""
        for at in range(first, first + count, _AT_ONCE):
            start, end = self._starts[at], self._starts[min(at + _AT_ONCE, first + count)]
            with self._lock:
                self._file.seek(start)
                lines = self._file.read(end - start)
            yield from (as_list(json.loads(line)) for line in lines.decode("ascii").splitlines())

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._starts[-1]

    def save(self, path: Path) -> None:
        """Write all rows; the file is complete or absent.

        Raises:
            LocalStorageError: It cannot be written.
        """
        with self._lock, storage_errors(path, denied=OWN_DATA):
            self._file.seek(0)
            with written_whole(path, durable=True) as beside, beside.open("wb") as file:
                shutil.copyfileobj(self._file, file, _CHUNK)

    @classmethod
    def load(cls, path: Path, count: int, size: int) -> FrozenRows:
        """The rows of a file that `save` has written.

        Args:
            count, size: How many rows and bytes it had.

        Raises:
            LocalStorageError: It cannot be read, or has changed.
        """
        rows = cls()
        try:
            file = path.open("rb")
        except OSError as error:
            raise LocalStorageError(
                f"{path} could not be read: {error.strerror or error}.", advice=OWN_DATA
            ) from error
        rows._file.close()
        rows._file = file
        starts, start = array("Q", [0]), 0
        for line in file:
            start += len(line)
            starts.append(start)
        if (len(starts) - 1, start) != (count, size):
            rows.close()
            raise LocalStorageError(
                f"{path} is damaged: it has {len(starts) - 1} rows of {count}.",
                advice="Start the batch again.",
                details={"path": str(path)},
            )
        rows._starts = starts
        return rows

    def close(self) -> None:
        """Close the file. Windows removes no folder with an open file in it."""
        self._file.close()
