"""The assets of a served Comfy API: files that were uploaded, and what jobs have made.

An asset is a record (`asset_records`) of bytes that are on disk once, by their BLAKE3. The same
database has what the API remembers of a job besides the record of jobs: its labels, when it
expires, which assets it needs, and its outputs in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import time
import uuid
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from blake3 import blake3

from ..aio import in_thread
from ..errors import ComfyRemoteError, RateLimited
from ..media.file_changes import discard, replace_file
from ..media.files import CHUNK_SIZE, copy_whole, safe_relative_path, storage_errors
from ..media.limited_folder import LimitedFolder
from ..media.receive import receive_file
from ..media.temporary import TemporaryFolder, remove_leftovers
from ..wire.comfy_api import OutputType, blake3_digits, blake3_hash
from .asset_records import AssetRecords, key_reuse
from .errors import ApiRefusal
from .stored import NewAsset, StoredAsset, StoredJob

__all__ = ["Arrived", "AssetLimits", "AssetStore"]

_log = logging.getLogger(__name__)

_ARRIVING = "arriving"
_COUNTED_EVERY = 8 * 2**20
_AGAIN_AFTER = 60


@dataclass(frozen=True, slots=True)
class AssetLimits:
    """Limits of one store. Sizes are bytes, times are seconds.

    Attributes:
        file_bytes: One file.
        store_bytes: All files together. Above it, uploads and jobs are refused for now: nothing is
            removed before its time. Besides, `DiskLimits.free` stays free on the disk.
        assets: Records.
        uploads_at_a_time: The others wait; each takes some 4 MB of memory.
        retention: How long an upload stays that names no time, from when it came or was used last.
        key_retention: How long an ``Idempotency-Key`` is used up.
        pause: How long an upload may bring nothing.
        sweep_every: Between two sweeps.
    """

    file_bytes: int = 8 * 1024**3
    store_bytes: int = 64 * 1024**3
    assets: int = 1_000_000
    uploads_at_a_time: int = 16
    retention: float = 7 * 24 * 3600.0
    key_retention: float = 24 * 3600.0
    pause: float = 30.0
    sweep_every: float = 600.0


@dataclass(frozen=True, slots=True)
class Arrived:
    """Bytes that have arrived and are no asset yet; see `AssetStore.arriving`."""

    path: Path
    size: int
    blake3: str
    sha256: str


class AssetStore:
    """The assets of one front. Used as an asynchronous context manager, on one event loop.

    What takes long is done in threads. Several processes may use one folder at a time.

    Args:
        folder: Its own; made when missing, and only its owner may enter.
        now: Seconds since the epoch.

    Attributes:
        before_sweep: Called before each sweep, for whoever has jobs that must not expire.

    Raises, in all methods:
        LocalStorageError: The folder or its database cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        limits: AssetLimits = AssetLimits(),
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.limits = limits
        self._now = now
        self._space = LimitedFolder(folder, limits.store_bytes)
        self._uploads = asyncio.Semaphore(limits.uploads_at_a_time)
        self._keys_arriving: set[str] = set()
        self._assets = 0
        self._open: AssetRecords | None = None
        self._temporary: TemporaryFolder | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self.before_sweep: Callable[[], Awaitable[None]] | None = None

    async def __aenter__(self) -> AssetStore:
        try:
            await in_thread(self._begin)
            await self.sweep()
        except BaseException:
            await self._end()
            raise
        self._sweeping = asyncio.get_running_loop().create_task(self._sweep_again_and_again())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await self._end()

    async def _end(self) -> None:
        if self._temporary is not None:
            await in_thread(self._temporary.cleanup)
        if self._open is not None:
            await in_thread(self._open.close)

    # Uploads

    @contextlib.asynccontextmanager
    async def using_key(self, key: str | None) -> AsyncIterator[None]:
        """Hold an ``Idempotency-Key`` while its upload arrives. It is used up by `add` alone.

        Raises:
            ApiRefusal: ``idempotency_key_reuse``: it was used before, or is being used.
        """
        if key is None:
            yield
            return
        if key in self._keys_arriving:
            raise key_reuse()
        self._keys_arriving.add(key)
        try:
            if await in_thread(self._records.key_is_used, key):
                raise key_reuse()
            yield
        finally:
            self._keys_arriving.discard(key)

    @contextlib.asynccontextmanager
    async def arriving(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[Arrived]:
        """What has arrived, complete, on the disk and hashed. If `add` does not take it, it is
        removed at the end.

        Raises:
            RequestTooLarge: It has more than `AssetLimits.file_bytes`.
            RateLimited: There is no room for it now.
        """
        path, hashed, arrived = self._new_file(), blake3(), 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal arrived
            checked = 0
            async for chunk in chunks:
                arrived += len(chunk)
                self._space.added(len(chunk))
                if arrived >= checked:
                    checked = arrived + _COUNTED_EVERY
                    await in_thread(self._space.check_room)
                yield chunk

        try:
            async with self._uploads:  # whoever waits here is not read from
                got = await receive_file(
                    counted(),
                    path,
                    limit=self.limits.file_bytes,
                    durable=True,
                    also=hashed.update,
                )
            yield Arrived(path, got.size, hashed.hexdigest(), got.sha256)
        finally:
            self._space.added(-arrived)  # `add` counts what stays
            await in_thread(discard, path)

    async def add(
        self,
        arrived: Arrived,
        *,
        content_type: str,
        file_path: str,
        expected_hash: str | None = None,
        expires_in: float | None = None,
        key: str | None = None,
    ) -> tuple[StoredAsset, bool]:
        """Make an asset of what has arrived.

        Args:
            file_path: A hint for its name; see `safe_relative_path`.
            expected_hash: ``blake3:`` and 64 hex digits.
            expires_in: Seconds from now.
            key: An ``Idempotency-Key``, which it uses up.

        Returns:
            The asset, and whether its bytes are new, too.

        Raises:
            ApiRefusal: ``hash_mismatch``, ``idempotency_key_reuse``.
        """
        if expected_hash is not None and blake3_digits(expected_hash) != arrived.blake3:
            raise ApiRefusal(
                "hash_mismatch",
                "The bytes that arrived have another BLAKE3 than expected_hash says. Send them "
                "again.",
                details={"expected": expected_hash[:100], "received": blake3_hash(arrived.blake3)},
            )
        new = NewAsset(
            blake3=arrived.blake3,
            sha256=arrived.sha256,
            size=arrived.size,
            content_type=content_type,
            file_path=str(safe_relative_path(file_path)),
            stays=self.limits.retention if expires_in is None else expires_in,
        )
        self._check_count()
        asset, is_new = await in_thread(
            self._records.add, new, arrived.path, key=key, key_stays=self.limits.key_retention
        )
        self._space.added(arrived.size if is_new else 0)
        self._assets += 1
        return asset, is_new

    async def from_hash(
        self, hash_: str, *, file_path: str | None = None, expires_in: float | None = None
    ) -> tuple[StoredAsset, bool]:
        """An asset over bytes that are here, and whether it is a new one: if there is an upload of
        the same bytes and name, that is it, and stays longer.

        Args:
            hash_: As the API writes it. Only what this store has received or made is found.

        Raises:
            ApiRefusal: ``blob_not_found``.
        """
        self._check_count()
        found: tuple[StoredAsset, bool] | None = None
        if (content := blake3_digits(hash_)) is not None:
            found = await in_thread(
                self._records.add_from_hash,
                content,
                None if file_path is None else str(safe_relative_path(file_path)),
                self.limits.retention if expires_in is None else expires_in,
            )
        if found is None:
            raise ApiRefusal(
                "blob_not_found", "There are no bytes with that hash here. Upload the file."
            )
        self._assets += found[1]
        return found

    async def get(self, asset_id: str) -> StoredAsset | None:
        """An asset that has not expired."""
        return await in_thread(self._records.get, asset_id)

    async def has(self, hash_: str) -> bool:
        """Whether bytes are here, by their hash as the API writes it."""
        content = blake3_digits(hash_)
        return content is not None and await in_thread(self._records.has, content)

    async def delete(self, asset_id: str) -> None:
        """Remove an asset; its bytes go with the last one of them.

        Raises:
            ApiRefusal: ``not_found``, or ``asset_in_use``: a job needs it, or has made it.
        """
        await self._remove_unused([await in_thread(self._records.delete, asset_id)])
        self._assets -= 1

    async def check_room(self, size: int = 1) -> None:
        """Refuse so many bytes if there is no room for them.

        Raises:
            RateLimited: There is none for now.
        """
        self._check_count()
        await in_thread(self._space.check_room, size)

    # Jobs

    async def add_job(
        self,
        job_id: str,
        *,
        expires: datetime,
        labels: Mapping[str, str] = {},
        uses: Iterable[str] = (),
    ) -> list[StoredAsset]:
        """Note a job, and hold the assets that it uses until it expires, whole or not at all.

        A job that is known holds these, too; its labels stay.

        Args:
            uses: Ids of assets.

        Returns:
            The assets, in the order of the ids.

        Raises:
            ApiRefusal: ``missing_asset``, with the ids that are not here; then nothing is noted.
        """
        return await in_thread(
            self._records.add_job, job_id, expires.timestamp(), labels, list(uses)
        )

    async def extend_job(self, job_id: str, expires: datetime) -> None:
        """Let a job expire later, with its outputs and what it holds; never earlier."""
        await in_thread(self._records.extend_job, job_id, expires.timestamp())

    async def forget_job(self, job_id: str) -> None:
        """Remove a job that was refused after all, and what it has made; it holds nothing now."""
        await self._remove_unused(await in_thread(self._records.forget_job, job_id))

    async def job(self, job_id: str) -> StoredJob | None:
        """A job that has not expired."""
        return (await self.jobs([job_id])).get(job_id)

    async def jobs(self, job_ids: Iterable[str]) -> dict[str, StoredJob]:
        """Those of several jobs that have not expired, by id."""
        return await in_thread(self._records.jobs, list(job_ids))

    async def jobs_labelled(
        self, labels: Mapping[str, str], *, limit: int, before: str | None = None
    ) -> list[StoredJob]:
        """Jobs with all of these labels (all jobs if there are none), the newest first.

        Args:
            before: A job's id: those that were added before it.

        Raises:
            ApiRefusal: ``invalid_cursor``: that job is not here, or no longer.
        """
        return await in_thread(self._records.jobs_labelled, labels, limit, before)

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
        """
        file = self._new_file()

        def take() -> tuple[StoredAsset, int]:
            try:
                with storage_errors(path):
                    _move(path, file)
                    size, content, sha256 = _hashed(file)
                new = NewAsset(
                    blake3=content,
                    sha256=sha256,
                    size=size,
                    content_type=content_type,
                    file_path=str(safe_relative_path(name)),
                    job_id=job_id,
                    position=position,
                    node_id=node_id,
                    kind=kind,
                )
                asset, is_new = self._records.add_output(new, file)
                return asset, size if is_new else 0
            finally:
                discard(file)

        asset, size = await in_thread(take)
        self._space.added(size)
        self._assets += 1
        return asset

    async def outputs_of(self, job_id: str) -> list[StoredAsset]:
        """What a job has made so far, by position."""
        return await in_thread(self._records.outputs_of, job_id)

    # Looking after it

    async def sweep(self) -> None:
        """Remove what has expired, bytes of no asset, and what killed processes left.

        It is done when the store is opened, and every `AssetLimits.sweep_every` seconds then.
        """
        if self.before_sweep is not None:
            await self.before_sweep()
        await in_thread(self._sweep)

    def _sweep(self) -> None:
        self._records.expire()
        remove_leftovers(self.folder / _ARRIVING)
        with storage_errors(self.folder):
            for contents in self._records.unused():
                self._records.remove_unused(contents)
        self._space.count()
        self._assets = self._records.count()

    async def _sweep_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(self.limits.sweep_every)
            try:
                await self.sweep()
            except ComfyRemoteError as error:
                _log.warning("What has expired could not be removed: %s", error)

    async def _remove_unused(self, contents: list[str]) -> None:
        self._space.added(-await in_thread(self._records.remove_unused, contents))

    def _begin(self) -> None:
        self._open = AssetRecords(self.folder, now=self._now)
        self._temporary = TemporaryFolder("upload", self.folder / _ARRIVING)

    @property
    def _records(self) -> AssetRecords:
        if self._open is None:
            raise RuntimeError("the store has not been entered")
        return self._open

    def _new_file(self) -> Path:
        """A name for a file that gets its final name later, or is removed with this process."""
        if self._temporary is None:
            raise RuntimeError("the store has not been entered")
        return Path(self._temporary.name, uuid.uuid4().hex)

    def _check_count(self) -> None:
        if self._assets >= self.limits.assets:
            raise RateLimited(
                f"There are {self._assets} files here, which is the most that are stored.",
                advice="Try again later: old ones are deleted.",
                details={"retry_after": _AGAIN_AFTER},
            )


def _move(source: Path, destination: Path) -> None:
    try:
        replace_file(source, destination)
    except OSError:
        if not source.is_file():
            raise
        copy_whole(source, destination)  # another disk
        discard(source)


def _hashed(path: Path) -> tuple[int, str, str]:
    """Size, BLAKE3 and SHA-256 of a file."""
    one, other, size = blake3(), hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        for chunk in _read(file.read):
            one.update(chunk)
            other.update(chunk)
            size += len(chunk)
    return size, one.hexdigest(), other.hexdigest()


def _read(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while chunk := read(CHUNK_SIZE):
        yield chunk
