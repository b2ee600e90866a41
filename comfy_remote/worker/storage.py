"""A bucket as the place for outputs that do not fit the result."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from ..errors import TargetError, WorkflowInvalid
from ..media.files import safe_relative_path
from ..media.receive import Received
from ..net.bucket import Bucket, BucketSettings
from ..net.guard import Guard, PrivateAddress
from ..wire.request import S3Config
from .settings import WorkerSettings
from .store import StoredFile

__all__ = ["BucketStore", "bucket_guard", "check_address", "settings_of"]

_SETTING = "s3Config.endpointUrl"

# The longest that a signature may live. A client of ours deletes what it has fetched at once.
_VALID_SECONDS = 7 * 24 * 3600


class BucketStore:
    """``{job id}/{SHA-256's beginning}/{filename}``, given out by signed addresses.

    Args:
        settings: The bucket.
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
