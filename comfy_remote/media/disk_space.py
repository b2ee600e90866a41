"""How much of this machine's disk may be used, and what is removed to make room."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..advice import Hint
from ..data_class import dataclass
from ..errors import ConfigurationError, LocalStorageError, OutputTooLarge
from ..units import size_text
from .file_changes import discard

__all__ = ["DiskLimits", "make_room"]

_SIZE_LIMIT = "COMFY_REMOTE_OUTPUT_SIZE_LIMIT"
_FREE_SPACE = "COMFY_REMOTE_FREE_SPACE"


@dataclass(frozen=True, slots=True)
class DiskLimits:
    """How much downloads may take.

    Attributes:
        largest: Bytes of a file whose size was not announced.
        free: Bytes of the disk that stay free.
    """

    largest: int = 64 * 2**30
    free: int = 512 * 2**20

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> DiskLimits:
        """From ``COMFY_REMOTE_OUTPUT_SIZE_LIMIT`` and ``COMFY_REMOTE_FREE_SPACE``.

        Raises:
            ConfigurationError: One of them is not a size (bytes, or with a unit: ``20GB``).
        """
        return cls(
            _size(environment, _SIZE_LIMIT, cls().largest),
            _size(environment, _FREE_SPACE, cls().free),
        )

    def room(self, folder: Path) -> int:
        """Bytes that may still be written to a folder, which need not exist yet.

        Raises:
            OSError: Its disk does not say.
        """
        there = next(one for one in (folder, *folder.parents) if one.is_dir())
        return max(0, shutil.disk_usage(there).free - self.free)

    def check_size(self, filename: str, size: int) -> None:
        """Raise `OutputTooLarge` for an output of unannounced size that has grown too large."""
        if size > self.largest:
            raise OutputTooLarge(
                f"{filename} has more than {size_text(self.largest)}, and the target did not say "
                "how large it is.",
                advice=Hint.OUTPUT_SIZE_LIMIT(variable=_SIZE_LIMIT),
                details={"filename": filename, "limit": self.largest},
            )

    def check_room(self, path: Path, size: int) -> None:
        """Raise `LocalStorageError` if too little would stay free after ``size`` more bytes."""
        try:
            free = shutil.disk_usage(path.parent).free
        except OSError:
            return  # writing will say what is wrong
        if free - size < self.free:
            raise LocalStorageError(
                f"The disk that holds {path.parent} has {size_text(free)} free, of which "
                f"{size_text(self.free)} are reserved: there is no room for {path.name}"
                f"{f' ({size_text(size)})' if size else ''}.",
                advice=Hint.ROOM_OR_OTHER_DISK(variable=_FREE_SPACE),
                details={"path": str(path), "free": free, "reserve": self.free},
            )


def make_room(
    paths: Iterable[Path],
    *,
    older_than: float | None = None,
    limit: int | None = None,
    needed: int = 0,
) -> None:
    """Remove files, those not modified for longest first. Blocking.

    What another process has removed meanwhile, or uses (on Windows), is skipped.

    Args:
        paths: Those that may be removed. A folder is removed whole, by its own time.
        older_than: Seconds; what was not modified for longer is always removed.
        limit: Bytes that may stay, ``needed`` included.
        needed: Bytes that are about to be written.
    """
    now, there = time.time(), []
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            there.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in there) + needed
    for modified, size, path in sorted(there):
        old = older_than is not None and now - modified > older_than
        if not old and (limit is None or total <= limit):
            return
        discard(path, seconds=0)
        if not path.exists():
            total -= size


def _size(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, "").strip()
    if not value:
        return default
    # Here, because importing it is slow, and `cli.entry.import_ahead` does so in a thread.
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(value))
    except ValidationError:
        raise ConfigurationError(
            f"{name} is not a size: {value!r}.",
            advice="Give bytes, or a unit with it: 20GB, 512MiB.",
        ) from None
