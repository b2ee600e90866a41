"""How much of a job's input files has been sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .base import InputFile

__all__ = ["UploadProgress"]


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
