"""How much of a job's input files has been sent."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

from .base import InputFile, input_errors

__all__ = ["UploadProgress", "opened_input"]


class UploadProgress:
    """Counts the bytes that are there, over all files that are sent side by side.

    Args:
        on_sent: Called with the number of bytes that are there, and of all.
    """

    def __init__(
        self, files: Iterable[InputFile], on_sent: Callable[[int, int], None] | None
    ) -> None:
        self._total = sum({file.sha256: file.size for file in files}.values())
        self._there: dict[str, int] = {}
        self._on_sent = on_sent

    def note(self, file: InputFile, size: int) -> None:
        """So many bytes of a file are there now; fewer than before if it is sent again."""
        self._there[file.sha256] = size
        if self._on_sent is not None:
            self._on_sent(sum(self._there.values()), self._total)


@contextmanager
def opened_input(file: InputFile, progress: UploadProgress) -> Iterator[BinaryIO]:
    """A file for a multipart form, which notes how much of it has been read.

    aiohttp reads it in another thread.
    """
    with input_errors(file.path):
        # By a name in bytes, which aiohttp does not quote: it need not be UTF-8.
        raw = open(os.fsencode(file.path), "rb", buffering=0)  # noqa: PTH123, SIM115
    loop = asyncio.get_running_loop()

    def note(read: int) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(progress.note, file, read)

    with _Counted(raw, note) as content:
        yield cast("BinaryIO", content)


class _Counted(io.BufferedReader):
    """A file that says how much of it was read."""

    def __init__(self, raw: io.RawIOBase, on_read: Callable[[int], object]) -> None:
        super().__init__(raw)
        self._on_read = on_read

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._on_read(self.tell())
        return data
