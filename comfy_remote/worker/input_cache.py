"""Input files that have been here before, by their SHA-256; those not used for longest go first."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from ..media.disk_space import make_room
from ..media.files import copy_whole

__all__ = ["InputCache"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


class InputCache:
    """Files in one folder, which several workers may share. All of it blocks.

    It only ever saves time: what cannot be read or written is as if it were not there.

    Args:
        folder: On the volume, if there is one.
        limit: Bytes of all of them together.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    def take(self, sha256: str, path: Path) -> bool:
        """Put the file at ``path``, if it is here."""
        if not _SHA256.fullmatch(sha256):
            return False
        here = self._folder / sha256
        try:
            shutil.copyfile(here, path)
            os.utime(here)
        except OSError:
            return False
        return True

    def has(self, sha256: str) -> bool:
        """Whether a file is here now."""
        return _SHA256.fullmatch(sha256) is not None and (self._folder / sha256).is_file()

    def add(self, sha256: str, path: Path) -> None:
        """Keep a copy of a file, if it fits."""
        here = self._folder / sha256
        size = path.stat().st_size
        if size > self._limit or not _SHA256.fullmatch(sha256):
            return
        with contextlib.suppress(OSError):
            if here.is_file():
                os.utime(here)
                return
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_room(self._folder.glob("*"), limit=self._limit, needed=size)
            copy_whole(path, here)
