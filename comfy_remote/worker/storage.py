"""A bucket as the place for outputs that do not fit the result."""

from __future__ import annotations

from urllib.parse import quote

from ..media.files import safe_relative_path
from ..targets.bucket import Bucket, BucketSettings
from ..targets.download import Downloaded
from ..wire.request import S3Config
from .store import StoredFile

__all__ = ["BucketStore", "settings_of"]

# The longest that a signature may live. A client of ours deletes what it has fetched at once.
_VALID_SECONDS = 7 * 24 * 3600


class BucketStore:
    """``{job id}/{SHA-256's beginning}/{filename}``, given out by signed addresses.

    Args:
        settings: The bucket.
    """

    public = True

    def __init__(self, settings: BucketSettings) -> None:
        self._bucket = Bucket(settings)

    async def put(self, job_id: str, filename: str, file: Downloaded) -> StoredFile:
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


def settings_of(config: S3Config) -> BucketSettings:
    """The bucket of a request's ``s3Config``.

    Raises:
        ConfigurationError: Its address cannot be used.
    """
    return BucketSettings.of(
        config.endpoint_url,
        config.access_id,
        config.access_secret,
        bucket=config.bucket_name,
        name="s3Config.endpointUrl",
    )
