"""The files of stored results, by their SHA-256, and the limits of size and age.

Several processes use one store. A file is written before the row that needs it, and removed after
the last one; where that goes wrong, a result lacks a file, and is a miss. Each file's hash is
checked before it is handed out, since a saved picture may be the same file on the disk, and its
user may change it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ...config.cache_settings import CacheSettings
from ...media.disk_space import DiskLimits
from ...media.file_changes import discard, link_file
from ...media.files import copy_whole, sha256_of
from ...types import JsonValue
from ..record import Record
from ..record.results import StoredResult

__all__ = ["Pruned", "ResultStore"]

_log = logging.getLogger(__name__)

_DAY = 86400.0
_PRUNED_EVERY = 32  # results
_BEING_TAKEN = 60.0
"""Seconds for which a result stays that was just taken: its files are being copied."""
_LEFT_ALONE = 3600.0
"""Seconds: a file without a row that is younger may belong to a result that is being stored."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed."""

    results: int
    size: int


class ResultStore:
    """The store of one record. Its methods block.

    Args:
        settings: Its limits.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        record: Record,
        settings: CacheSettings = CacheSettings(),  # noqa: B008 - frozen
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._rows = record.results
        self.folder = record.path.parent / "cache"
        self._settings = settings
        self._now = now

    def path_of(self, sha256: str) -> Path:
        """Where a file is."""
        return self.folder / sha256[:2] / sha256

    def find(self, key: str) -> StoredResult | None:
        """The result of a key, its files checked; one that is damaged is removed.

        Raises:
            LocalStorageError: The record cannot be used.
        """
        result = self._rows.get(key)
        if result is None:
            return None
        if self._now() - result.used > self._settings.max_days * _DAY:
            return None
        for output in result.outputs:
            sha256 = str(output["sha256"])
            path = self.path_of(sha256)
            if not _is_whole(path, output["size"], sha256):
                _log.info("%s was changed or removed in the cache: it counts no more.", path)
                self._rows.remove([key])
                discard(path)
                return None
        return result

    def taken(self, key: str) -> None:
        """Note that a result was used.

        Raises:
            LocalStorageError: The record cannot be used.
        """
        self._rows.taken(key, self._now())

    def put(self, result: StoredResult, files: Iterable[tuple[str, Path]]) -> None:
        """Store a result, and remove what the limits no longer cover.

        Args:
            files: SHA-256 and path of each of its files. A link is made where the disk allows it.

        Raises:
            OSError: A file cannot be stored.
            LocalStorageError: The disk is nearly full, or the record cannot be used.
        """
        if result.size > self._settings.max_bytes:
            _log.debug("A result of %d bytes is larger than the cache may be.", result.size)
            return
        DiskLimits.of().check_room(self.folder, result.size)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for sha256, source in files:
            path = self.path_of(sha256)
            if _is_whole(path, source.stat().st_size, sha256):
                continue
            discard(path)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                link_file(source, path)
            except FileExistsError:
                continue  # another process has stored it
            except OSError:
                copy_whole(source, path)  # another disk, or one without links
        self._rows.put(result)
        stored = self._rows.total()
        if stored.size > self._settings.max_bytes or stored.results % _PRUNED_EVERY == 0:
            self.prune()

    def prune(
        self,
        *,
        max_bytes: int | None = None,
        older_than: float | None = None,
        everything: bool = False,
    ) -> Pruned:
        """Remove what the limits no longer cover, those unused for the longest time first.

        Args:
            max_bytes: Bytes that may stay; as configured by default.
            older_than: Seconds since the last use; as configured by default.
            everything: Remove all of it.

        Raises:
            LocalStorageError: The record cannot be used.
        """
        limit = self._settings.max_bytes if max_bytes is None else max_bytes
        age = self._settings.max_days * _DAY if older_than is None else older_than
        now, total, gone = self._now(), 0, []
        for result in self._rows.all():
            total += result.size
            if result.hits and 0 <= now - result.used < _BEING_TAKEN and not everything:
                continue
            if everything or total > limit or now - result.used > age:
                total -= result.size
                gone.append(result)
        if gone:
            self._rows.remove(result.key for result in gone)
        self._sweep(0.0 if everything else _LEFT_ALONE)
        return Pruned(len(gone), sum(result.size for result in gone))

    def _sweep(self, younger: float) -> None:
        """Remove the files that belong to no result."""
        used = self._rows.files()
        with contextlib.suppress(OSError):
            for folder in self.folder.iterdir():
                for path in folder.iterdir() if folder.is_dir() else ():
                    if path.name in used:
                        continue
                    # The time of the inode: a linked file may be old.
                    with contextlib.suppress(OSError):
                        if time.time() - path.stat().st_ctime >= younger:
                            discard(path)


def _is_whole(path: Path, size: JsonValue, sha256: str) -> bool:
    try:
        return path.stat().st_size == size and sha256_of(path) == sha256
    except OSError:
        return False
