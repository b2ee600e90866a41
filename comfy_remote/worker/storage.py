"""Where outputs go that do not fit the result: a bucket, a gateway's store, or the worker's own
disk, from which the client takes them in parts.

A gateway's store also has the inputs that clients sent to it by themselves.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import uuid
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from pydantic import SecretStr

from ..errors import (
    ComfyRemoteError,
    OutputError,
    OutputLost,
    RateLimited,
    RequestTooLarge,
    TargetError,
    TargetNotFound,
    TargetUnreachable,
    ValueInvalid,
    WorkflowInvalid,
)
from ..media.disk_space import DiskLimits, make_room
from ..media.files import copy_whole, safe_relative_path, storage_errors
from ..media.receive import Received, file_chunks, receive_file
from ..net.bucket import Bucket, BucketSettings
from ..net.guard import Guard, PrivateAddress
from ..net.http import HttpClient, HttpLimits
from ..net.retry import Backoff, Retries
from ..wire.request import S3Config
from .settings import WorkerSettings

__all__ = [
    "BucketStore",
    "GatewayStore",
    "InputStore",
    "KeptFiles",
    "Store",
    "StoredFile",
    "bucket_guard",
    "check_address",
    "gateway_store",
    "settings_of",
]

_SETTING = "s3Config.endpointUrl"

# The longest that a signature may live. A client of ours deletes what it has fetched at once.
_VALID_SECONDS = 7 * 24 * 3600
_BACKOFF = Backoff(attempts=3)
_PATIENCE = 120.0  # seconds without a byte
_SECONDS = 3600.0
_LARGEST_INPUT = 8 * 1024**3  # as a gateway takes them
_ROOM_CHECKED_EVERY = 64 * 1024**2
_NAME = re.compile(r"[0-9a-f]{32}")


class BucketStore:
    """``{prefix}/{job id}/{SHA-256's beginning}/{filename}``, reached by signed addresses.

    Args:
        guard: Where its address may lead, if a request named it.
    """

    public = True

    def __init__(self, settings: BucketSettings, guard: Guard | None = None) -> None:
        self._bucket = Bucket(settings, guard)

    async def put(self, job_id: str, filename: str, file: Received) -> StoredFile:
        """Store a file, with addresses to GET and to DELETE it that are valid for seven days.

        Raises:
            OutputError: The bucket did not take it.
        """
        name = safe_relative_path(filename).name
        key = f"{quote(job_id, safe='')}/{file.sha256[:12]}/{name}"
        await self._bucket.put(file.path, key)
        return StoredFile(
            url=await self._bucket.sign("GET", key, _VALID_SECONDS),
            delete_url=await self._bucket.sign("DELETE", key, _VALID_SECONDS),
        )


def settings_of(config: S3Config, guard: Guard) -> BucketSettings:
    """The bucket of a request's ``s3Config``.

    Raises:
        ConfigurationError: Its address cannot be used.
        WorkflowInvalid: It may not be used.
    """
    settings = BucketSettings.of(
        config.endpoint_url,
        config.access_id,
        config.access_secret,
        bucket=config.bucket_name,
        name=_SETTING,
    )
    try:
        guard.check(settings.endpoint, _SETTING)
    except TargetError as error:
        raise WorkflowInvalid(error.message, advice=error.advice) from None
    return settings


def bucket_guard(settings: WorkerSettings) -> Guard:
    """Where the buckets that requests name may be."""
    return Guard(
        settings.bucket_hosts,
        named_http=False,
        advice="A request's bucket is at a public https address. Whoever runs the worker may name "
        "others in COMFY_REMOTE_BUCKET_HOSTS.",
    )


async def check_address(bucket: BucketSettings, guard: Guard) -> None:
    """Refuse a request's bucket whose name leads into a private network, before anything runs.

    Each connection to it is checked again: this is only to say so early.

    Raises:
        WorkflowInvalid: It does.
    """
    try:
        await asyncio.to_thread(guard.refuse_private, bucket.endpoint)
    except PrivateAddress:
        error = guard.private(bucket.endpoint.raw_host or "", _SETTING)
        raise WorkflowInvalid(error.message, advice=error.advice) from None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Where a file is now. One of ``url`` and ``kept`` is set.

    Attributes:
        url: Absolute and signed, or below the endpoint's own address.
        delete_url: A signed address to DELETE it by.
        kept: Its name on the worker; see `KeptFiles`.
    """

    url: str | None = None
    delete_url: str | None = None
    kept: str | None = None


class Store(Protocol):
    """Takes files that do not fit the result."""

    @property
    def public(self) -> bool:
        """Whether any client can fetch from there by a plain GET."""

    async def put(self, job_id: str, filename: str, file: Received) -> StoredFile:
        """Store a file.

        Raises:
            ComfyRemoteError: The store would not take it.
        """


class InputStore(Protocol):
    """Has the input files that a job names by their SHA-256 alone."""

    async def fetch(self, job_id: str, sha256: str, path: Path) -> bool:
        """Put a file at ``path``, whole and checked; whether the store has it.

        Raises:
            ComfyRemoteError: The store could not be asked, or the disk is full.
        """


class GatewayStore:
    """The files of a gateway's jobs: ``{url}/{job id}/{sha256}``, streamed in both directions.

    Args:
        key: Sent as it is in ``Authorization``.
        tls: As for `HttpClient`.
        largest: Bytes that a file may have that comes from there.
    """

    public = False

    def __init__(
        self,
        url: str,
        key: SecretStr,
        *,
        backoff: Backoff = _BACKOFF,
        tls: ssl.SSLContext | None = None,
        largest: int = _LARGEST_INPUT,
    ) -> None:
        self._backoff = backoff
        self._largest = largest
        self._client = partial(
            HttpClient,
            url,
            name="The gateway's store",
            headers={"Authorization": key},
            limits=HttpLimits(patience=_PATIENCE, backoff=backoff),
            tls=tls,
        )

    async def put(self, job_id: str, filename: str, file: Received) -> StoredFile:
        """Store a file at ``files/{job id}/{sha256}``, below the endpoint's URL.

        Raises:
            OutputError: The store would not take it, tried three times.
        """
        del filename
        name = _name(job_id, file.sha256)
        try:
            async with self._client() as http:
                await http.put(name, file.size, lambda: file_chunks(file.path))
        except ComfyRemoteError as error:
            raise OutputError(
                f"An output is too large for the result, and the store refused it: {error.message}",
                advice="Look at the gateway's log (its disk may be full), or make smaller outputs.",
                details=error.details,
            ) from error
        return StoredFile(url=f"files/{name}")

    async def fetch(self, job_id: str, sha256: str, path: Path) -> bool:
        """See `InputStore.fetch`. A connection that breaks is resumed where it broke.

        Raises:
            TargetError: The gateway could not be asked, or sends more than a file may have.
            LocalStorageError: It cannot be written, or too little of the disk would stay free.
        """
        async with self._client() as http:
            try:
                chunks = _with_room(self._arriving(http, _name(job_id, sha256)), path)
                await receive_file(chunks, path, sha256=sha256, limit=self._largest)
            except TargetNotFound:
                return False
            except RequestTooLarge as error:
                raise TargetError(
                    f"The gateway's store sends more than the {self._largest} bytes that an input "
                    "may have.",
                ) from error
            except ValueInvalid as error:
                raise TargetError(
                    f"The gateway's store has a damaged file: {error.message}",
                    advice="Run the workflow again.",
                ) from error
        return True

    async def _arriving(self, http: HttpClient, name: str) -> AsyncGenerator[bytes, None]:
        retries, arrived = Retries(self._backoff), 0
        while True:
            try:
                async with aclosing(http.stream(name, arrived)) as chunks:
                    async for chunk in chunks:
                        arrived += len(chunk)
                        retries.progressed()
                        yield chunk
                return
            except (TargetUnreachable, RateLimited) as error:
                await retries.wait_after(error)


async def _with_room(chunks: AsyncIterable[bytes], path: Path) -> AsyncGenerator[bytes, None]:
    """The chunks, as long as enough of the disk stays free: nobody has said how many will come."""
    disk, checked = DiskLimits.of(), 0
    async for chunk in chunks:
        if checked <= 0:
            await asyncio.to_thread(disk.check_room, path, _ROOM_CHECKED_EVERY)
            checked = _ROOM_CHECKED_EVERY
        checked -= len(chunk)
        yield chunk


def gateway_store(settings: WorkerSettings) -> GatewayStore | None:
    """The store of the gateway that the worker belongs to, if there is one."""
    if not settings.store_url:
        return None
    return GatewayStore(settings.store_url, settings.store_key)


def _name(job_id: str, sha256: str) -> str:
    return f"{quote(job_id, safe='')}/{sha256}"


@dataclass(frozen=True)
class KeptFiles:
    """Files under names that cannot be guessed.

    They are deleted after an hour, or earlier when there are too many; checked when the next
    one comes.

    Attributes:
        folder: On the volume, if there is one: then any worker can give them out.
        limit: Bytes of all of them together.
        seconds: How long one stays.
    """

    public = False

    folder: Path
    limit: int
    seconds: float = _SECONDS

    async def put(self, job_id: str, filename: str, file: Received) -> StoredFile:
        """Keep a copy of a file.

        Raises:
            LocalStorageError: It cannot be written, for example since the disk is full.
        """
        del job_id, filename
        name = uuid.uuid4().hex
        await asyncio.to_thread(self._keep, file, self.folder / name)
        return StoredFile(kept=name)

    def part(self, name: str, offset: int, length: int) -> tuple[bytes, int]:
        """Some bytes of a file, and its whole size. Blocking.

        Raises:
            OutputLost: It is not here.
        """
        path = self.folder / name
        if not _NAME.fullmatch(name):
            raise _not_here()
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(length), path.stat().st_size
        except FileNotFoundError:
            raise _not_here() from None

    def _keep(self, file: Received, path: Path) -> None:
        make_room(
            self.folder.glob("*"), older_than=self.seconds, limit=self.limit, needed=file.size
        )
        with storage_errors(path):
            copy_whole(file.path, path)


def _not_here() -> OutputLost:
    return OutputLost(
        "This worker no longer has that output.",
        advice="Outputs are stored for an hour, on the worker that made them or on its volume. Run "
        "the workflow again, or give the worker a bucket (BUCKET_ENDPOINT_URL).",
    )
