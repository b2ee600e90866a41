"""The assets of a served Comfy API: files that were uploaded, and what jobs have made.

An asset is a record, in a small database, of bytes that are on disk once, by their BLAKE3. The
database also has what the API remembers of a job besides the record of jobs: its labels, when it
expires, which assets it needs, and its outputs in order.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..wire.comfy_api import OutputType

__all__ = ["AssetLimits", "AssetStore", "StoredAsset", "StoredJob", "content_url"]


@dataclass(frozen=True, slots=True)
class AssetLimits:
    """Limits of one store. Sizes are bytes, times are seconds.

    Attributes:
        file_bytes: One file.
        store_bytes: All files together. Above it, uploads and jobs are refused for now: nothing is
            removed before its time. Besides, `DiskLimits.free` stays free on the disk.
        assets: Records.
        retention: How long an upload stays that names no time, from when it came or was used last.
        key_retention: How long an ``Idempotency-Key`` is used up.
        pause: How long an upload may bring nothing.
        sweep_every: Between two sweeps.
    """

    file_bytes: int = 8 * 1024**3
    store_bytes: int = 64 * 1024**3
    assets: int = 1_000_000
    retention: float = 7 * 24 * 3600.0
    key_retention: float = 24 * 3600.0
    pause: float = 30.0
    sweep_every: float = 600.0


@dataclass(frozen=True, slots=True)
class StoredAsset:
    """One asset.

    Attributes:
        id: A random UUID.
        hash: ``blake3:`` and 64 hex digits.
        sha256: Of the same bytes, 64 hex digits; jobs name their input files by it.
        size: Bytes.
        content_type: As it was sent: nobody has checked that the bytes are that.
        file_path: A safe relative path, ``/`` between its parts: the name for people and engines.
        created: UTC.
        expires: UTC.
        job_id: The job that made it; ``None`` for an upload. With it come `node_id` and `kind`.
        path: Where the bytes are. The name is of no use; do not change or move the file.
    """

    id: str
    hash: str
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


@dataclass(frozen=True, slots=True)
class StoredJob:
    """What the API remembers of a job besides its entry in the record of jobs."""

    id: str
    created: datetime
    expires: datetime
    labels: Mapping[str, str]


class AssetStore:
    """The assets of one front. Used as an asynchronous context manager, on one event loop.

    What takes long is done in threads. Several processes may use one folder at a time.

    Args:
        folder: Its own; made when missing, and only its owner may enter.
    """

    def __init__(self, folder: Path, limits: AssetLimits = AssetLimits()) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> AssetStore:
        raise NotImplementedError

    async def __aexit__(self, *exc_info: object) -> None: ...

    # Uploads

    async def receive(
        self,
        chunks: AsyncIterable[bytes],
        *,
        content_type: str,
        file_path: str,
        expected_hash: str | None = None,
        expires_in: float | None = None,
    ) -> tuple[StoredAsset, bool]:
        """Store what arrives.

        Returns:
            The new asset, and whether its bytes were new, too.
        """
        raise NotImplementedError

    async def from_hash(
        self, hash_: str, *, file_path: str | None = None, expires_in: float | None = None
    ) -> tuple[StoredAsset, bool]:
        """An asset over bytes that are here, and whether it is a new one."""
        raise NotImplementedError

    async def get(self, asset_id: str) -> StoredAsset | None:
        """An asset that has not expired."""
        raise NotImplementedError

    async def has(self, hash_: str) -> bool:
        """Whether bytes are here, by their hash as the API writes it."""
        raise NotImplementedError

    async def delete(self, asset_id: str) -> None:
        """Remove an asset; its bytes go with the last one of them.

        Raises:
            ApiRefusal: ``not_found``, or ``asset_in_use``: a job needs it, or has made it.
        """
        raise NotImplementedError

    async def check_room(self, size: int = 1) -> None:
        """Refuse so many bytes if there is no room for them.

        Raises:
            RateLimited: There is none for now.
        """
        raise NotImplementedError

    # Jobs

    async def add_job(
        self,
        job_id: str,
        *,
        expires: datetime,
        labels: Mapping[str, str] = {},
        uses: Iterable[str] = (),
    ) -> list[StoredAsset]:
        """Note a job, and hold the assets that it uses until it expires.

        A job that is known gets what is new of it.

        Args:
            uses: Ids of assets.

        Returns:
            The assets, in the order of the ids.

        Raises:
            ApiRefusal: ``missing_asset``, with the ids that are not here; then nothing is noted.
        """
        raise NotImplementedError

    async def hold(self, asset_ids: Iterable[str], job_id: str) -> list[StoredAsset]:
        """Hold more assets until a job expires; see `add_job`."""
        raise NotImplementedError

    async def extend_job(self, job_id: str, expires: datetime) -> None:
        """Let a job expire later, with its outputs and what it holds; never earlier."""
        raise NotImplementedError

    async def forget_job(self, job_id: str) -> None:
        """Remove a job that was refused after all, and what it has made; it holds nothing now."""
        raise NotImplementedError

    async def job(self, job_id: str) -> StoredJob | None:
        """A job that has not expired."""
        raise NotImplementedError

    async def jobs(self, job_ids: Iterable[str]) -> dict[str, StoredJob]:
        """Those of several jobs that have not expired, by id."""
        raise NotImplementedError

    async def jobs_labelled(
        self, labels: Mapping[str, str], *, limit: int, before: str | None = None
    ) -> list[StoredJob]:
        """Jobs with all of these labels (all jobs if there are none), the newest first.

        Args:
            before: A job's id: those that were added before it.
        """
        raise NotImplementedError

    async def add_output(
        self,
        path: Path,
        *,
        job_id: str,
        position: int,
        node_id: str,
        name: str,
        kind: OutputType,
        content_type: str,
    ) -> StoredAsset:
        """Take over a file that a job has made; it expires with the job.

        The same file for the same position again gives the asset that is there.

        Args:
            path: A complete file, which is moved away.
            position: Of the output among all of its job's, from 0.
            name: May have folders, ``/`` between them.

        Raises:
            JobNotFound: No such job was added, or it has expired.
            LocalStorageError: It cannot be stored.
        """
        raise NotImplementedError

    async def outputs_of(self, job_id: str) -> list[StoredAsset]:
        """What a job has made so far, by position."""
        raise NotImplementedError

    async def sweep(self) -> None:
        """Remove what has expired, bytes of no asset, and what killed processes left.

        It is also done every `AssetLimits.sweep_every` seconds while the store is open.
        """
        raise NotImplementedError


def content_url(base: str, asset_id: str) -> str:
    """The address of an asset's bytes.

    Args:
        base: The address of the API: ``http://HOST:PORT/api/v2``.
    """
    return f"{base}/assets/{asset_id}/content"
