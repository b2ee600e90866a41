"""An S3-compatible bucket (AWS, Cloudflare R2, MinIO, …): put files, sign addresses for them.

It carries what does not fit a queue: a worker's large outputs, and a client's large inputs. Others
get signed addresses, never the keys.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from ..errors import ConfigurationError, OutputError
from ..outputs import media_type_of
from ..secrets import SECRETS
from .address import base_address, is_loopback
from .bucket_address import BucketAddress, checked_prefix, read_address
from .pinned import PinnedSender

if TYPE_CHECKING:
    from botocore.client import BaseClient
    from pydantic import SecretStr

    from .guard import Guard

__all__ = ["PART_SIZE", "Bucket", "BucketSettings"]

PART_SIZE = 16 * 1024 * 1024
_PARTS_AT_ONCE = 4
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSettings(BucketAddress):
    """Where a bucket is, and the keys for it."""

    access_key_id: str
    secret_access_key: SecretStr

    @classmethod
    def of(
        cls,
        address: str,
        access_key_id: str,
        secret_access_key: SecretStr,
        *,
        bucket: str = "",
        region: str = "",
        prefix: str = "",
        otherwise: str = "",
        name: str = "BUCKET_ENDPOINT_URL",
    ) -> BucketSettings:
        """Read a bucket's address: ``https://BUCKET.s3.REGION.amazonaws.com``, or
        ``https://HOST/BUCKET``, each with a prefix behind it or not, or ``https://HOST`` with the
        bucket's name beside it.

        Args:
            prefix: Of keys, after that of the address.
            otherwise: The bucket where neither address nor ``bucket`` names one.
            name: Of the setting, for errors.

        Raises:
            ConfigurationError: It is no address, not https, names no bucket, or leads to something
                that takes no files.
        """
        try:
            url = base_address(address.strip().rstrip("/"))
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{name} cannot be used. {error.message}", advice=error.advice
            ) from None
        if url.scheme != "https" and not is_loopback(url.host):
            raise ConfigurationError(
                f"{name} is not an https address.",
                advice="Only storage on this machine may be plain http.",
            )
        read = read_address(url, name, bucket=bucket, region=region, otherwise=otherwise)
        prefixes = (read.prefix, checked_prefix(prefix, "BUCKET_PREFIX"))
        return cls(
            read.endpoint,
            read.bucket,
            read.region,
            "/".join(filter(None, prefixes)),
            read.virtual,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
        )

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str] = os.environ, *, address: str = ""
    ) -> BucketSettings | None:
        """Read ``BUCKET_ENDPOINT_URL``, ``BUCKET_ACCESS_KEY_ID``, ``BUCKET_SECRET_ACCESS_KEY``,
        ``BUCKET_PREFIX``, and, where the address does not say them, ``BUCKET_NAME`` and
        ``BUCKET_REGION``.

        Returns:
            ``None`` where there is no address.

        Raises:
            ConfigurationError: Part of it is missing or wrong.
        """
        from pydantic import SecretStr

        address = address or environ.get("BUCKET_ENDPOINT_URL", "").strip()
        if not address:
            return None
        keys = ("BUCKET_ACCESS_KEY_ID", "BUCKET_SECRET_ACCESS_KEY")
        access, secret = (environ.get(name, "").strip() for name in keys)
        if not access or not secret:
            raise ConfigurationError(
                f"A bucket is named, but {' and '.join(keys)} are not both set.",
                advice="Set both, or unset BUCKET_ENDPOINT_URL.",
            )
        SECRETS.add(keys[1], secret)
        return cls.of(
            address,
            access,
            SecretStr(secret),
            bucket=environ.get("BUCKET_NAME", "").strip(),
            region=environ.get("BUCKET_REGION", "").strip(),
            prefix=environ.get("BUCKET_PREFIX", ""),
        )


class Bucket:
    """One bucket. Its client is made with the first call, which takes a moment.

    Files are named below the prefix of its settings.

    Args:
        guard: Where its address may lead, if somebody else named it.
    """

    def __init__(self, settings: BucketSettings, guard: Guard | None = None) -> None:
        self._settings = settings
        self._guard = guard
        self._lock = threading.Lock()
        self._made: _S3 | None = None

    @property
    def host(self) -> str:
        """``HOST``, or ``HOST:PORT`` if it is not the usual one."""
        return self._settings.endpoint.authority

    async def put(
        self, path: Path, name: str, on_sent: Callable[[int], object] | None = None
    ) -> None:
        """Upload a file, in parts if it is large: four times 16 MiB of memory at most.

        Cancelled, it stops, and leaves nothing.

        Args:
            on_sent: Called with the number of bytes that are there, as they go.

        Raises:
            OutputError: The bucket did not take it; says why.
            ConfigurationError: boto3 is not installed.
        """
        stopped = threading.Event()
        loop, there = asyncio.get_running_loop(), 0

        def count(size: int) -> None:
            nonlocal there
            there += size
            if on_sent is not None:
                on_sent(there)

        def more(size: int) -> None:  # in boto3's threads
            if stopped.is_set():
                raise _Stopped
            loop.call_soon_threadsafe(count, size)

        work = asyncio.ensure_future(
            asyncio.to_thread(self._call, "take the file", lambda s3: s3.put(path, name, more))
        )
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            stopped.set()
            await asyncio.wait({work})
            if not work.cancelled() and work.exception() is None:  # it was too late to stop it
                await self.delete(name)
            raise

    async def delete(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            OutputError: The bucket refused.
        """
        await asyncio.to_thread(self._call, "delete the file", lambda s3: s3.delete(name))

    async def sign(self, method: Literal["GET", "DELETE"], name: str, seconds: int) -> str:
        """An address that lets anybody do this one thing, for so long (7 days at most)."""
        return await asyncio.to_thread(
            self._call, "sign an address", lambda s3: s3.sign(method, name, seconds)
        )

    def _call(self, what: str, work: Callable[[_S3], _T]) -> _T:
        try:
            # A slow import, which few need.
            from boto3.exceptions import Boto3Error
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise ConfigurationError(
                "A bucket cannot be used: boto3 is not installed.",
                advice="Install it with `pip install boto3`.",
            ) from error
        try:
            return work(self._client())
        except (BotoCoreError, Boto3Error, ClientError) as error:
            raise self._refused(what, error) from error

    def _client(self) -> _S3:
        with self._lock:  # boto3's sessions are not made for several threads
            if self._made is None:
                try:
                    self._made = _S3(self._settings, self._guard)
                except ValueError as error:  # boto3 takes fewer addresses than there are
                    raise ConfigurationError(
                        f"A bucket's address cannot be used: {error}.",
                        advice="Its host may have letters, digits, hyphens and dots.",
                    ) from error
            return self._made

    def _refused(self, what: str, error: BaseException) -> OutputError:
        code, message = _code_and_message(error)
        match code:
            case "NoSuchBucket":
                advice = "Create it, or check its name in BUCKET_ENDPOINT_URL or BUCKET_NAME."
            case "SignatureDoesNotMatch" | "InvalidAccessKeyId" | "AccessDenied" | "403":
                advice = (
                    "Check BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY, and that this key "
                    "may read, write and delete there."
                )
            case _:
                advice = "Check BUCKET_ENDPOINT_URL, and that the service can be reached."
        settings = self._settings
        return OutputError(
            f"The bucket {settings.bucket} at {settings.endpoint.host} did not {what}: {message}.",
            advice=advice,
            details={"code": code},
        )


class _S3:
    """boto3's client, and what we ask of it. Blocking."""

    def __init__(self, settings: BucketSettings, guard: Guard | None) -> None:
        import boto3.session
        from boto3.s3.transfer import TransferConfig
        from botocore.config import Config
        from s3transfer.utils import signal_not_transferring, signal_transferring

        self._settings = settings
        self._client = boto3.session.Session().client(
            "s3",
            endpoint_url=str(settings.endpoint).rstrip("/"),
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=settings.secret_access_key.get_secret_value(),
            region_name=settings.region,
            config=Config(
                signature_version="s3v4",
                connect_timeout=15,
                read_timeout=120,
                retries={"max_attempts": 4, "mode": "standard"},
                s3={"addressing_style": "virtual" if settings.virtual else "path"},
                # Not all services know the checksums that newer boto3s add by themselves.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        self._client.meta.events.register_first("request-created.s3", signal_not_transferring)
        self._client.meta.events.register_last("request-created.s3", signal_transferring)
        if guard is not None:
            sender = PinnedSender(guard, "The bucket's address")
            self._client.meta.events.register("before-send.s3", sender)
        self._transfer = TransferConfig(
            multipart_threshold=PART_SIZE,
            multipart_chunksize=PART_SIZE,
            max_concurrency=_PARTS_AT_ONCE,
        )

    @property
    def client(self) -> BaseClient:
        """boto3's own."""
        return self._client

    def put(self, path: Path, name: str, on_sent: Callable[[int], None]) -> None:
        """Upload. What is called with the bytes of each step may raise `_Stopped`."""
        self._client.upload_file(
            str(path),
            self._settings.bucket,
            self._settings.key(name),
            ExtraArgs={"ContentType": media_type_of(path.name if "." in path.name else name)},
            Callback=on_sent,
            Config=self._transfer,
        )

    def delete(self, name: str) -> None:
        """Remove an object."""
        self._client.delete_object(Bucket=self._settings.bucket, Key=self._settings.key(name))

    def sign(self, method: str, name: str, seconds: int) -> str:
        """A presigned URL."""
        operation = {"GET": "get_object", "DELETE": "delete_object"}[method]
        params = {"Bucket": self._settings.bucket, "Key": self._settings.key(name)}
        return str(self._client.generate_presigned_url(operation, Params=params, ExpiresIn=seconds))


class _Stopped(Exception):
    """The upload is not wanted any more."""


def _code_and_message(error: BaseException) -> tuple[str, str]:
    # An upload's error wraps what the service said, with the file's path before it.
    said = error.__context__ if type(error).__name__ == "S3UploadFailedError" else error
    said = said or error
    response = getattr(said, "response", None) or getattr(error, "response", None)
    detail = response.get("Error", {}) if isinstance(response, dict) else {}
    code = str(detail.get("Code", "") or type(said).__name__)
    message = str(detail.get("Message") or detail.get("Code") or said).rstrip(".")
    return code, f"{code}: {message}" if detail.get("Code") and code not in message else message
