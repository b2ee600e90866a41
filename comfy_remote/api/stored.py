"""What a front has stored: an asset, a job; and what an asset is to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from ..wire.comfy_api import OutputType, blake3_hash

__all__ = ["NewAsset", "StoredAsset", "StoredJob", "has_size", "utc"]


@dataclass(frozen=True, slots=True)
class StoredAsset:
    """One asset.

    Attributes:
        id: A random UUID.
        blake3: 64 hex digits.
        sha256: Of the same bytes, 64 hex digits; jobs name their input files by it.
        size: Bytes.
        content_type: As it was sent: nobody has checked that the bytes are that.
        file_path: A safe relative path, ``/`` between its parts: the name for people and engines.
        created: UTC.
        expires: UTC.
        job_id: The job that made it; ``None`` for an upload. With it come `node_id` and `kind`.
        path: Where the bytes are, under a name that says nothing. The file must not be changed.
    """

    id: str
    blake3: str
    sha256: str
    size: int
    content_type: str
    file_path: str
    created: datetime
    expires: datetime
    job_id: str | None
    node_id: str | None
    kind: OutputType | None
    path: Path

    @property
    def hash(self) -> str:
        """Its BLAKE3 as the API writes it."""
        return blake3_hash(self.blake3)

    def is_whole(self) -> bool:
        """Whether its bytes are where they belong. Blocking."""
        return has_size(self.path, self.size)


@dataclass(frozen=True, slots=True)
class StoredJob:
    """What the API remembers of a job besides its entry in the record of jobs."""

    id: str
    created: datetime
    expires: datetime
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class NewAsset:
    """What an asset is to be.

    Attributes:
        blake3: 64 hex digits, as `sha256`.
        stays: Seconds from now, and from each use.
        job_id: The job that has made it; then `position`, `node_id` and `kind` are there, too.
    """

    blake3: str
    sha256: str
    size: int
    content_type: str
    file_path: str
    stays: float = 0.0
    job_id: str | None = None
    position: int | None = None
    node_id: str | None = None
    kind: OutputType | None = None


def has_size(path: Path, size: int) -> bool:
    """Whether a file is there and has that many bytes. Blocking."""
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def utc(seconds: float) -> datetime:
    """Seconds since the epoch as a time, exact to a millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), timezone.utc)
