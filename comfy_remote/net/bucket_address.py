"""What the address of an S3-compatible bucket says: service, bucket, region and prefix.

Services write it in two ways: ``https://HOST/BUCKET/PREFIX`` (path style) and
``https://BUCKET.HOST/PREFIX`` (virtual-host style). Facts are from the services' own documentation:
AWS's "Amazon S3 endpoints" and "Transfer Acceleration", Cloudflare's "R2 S3 API", DigitalOcean's
"Spaces endpoints", Backblaze's "S3-compatible API", RunPod's "S3-compatible API".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from yarl import URL

from ..errors import ConfigurationError

__all__ = ["BucketAddress", "checked_prefix", "read_address"]

_AWS = r"amazonaws\.(?:com(?:\.cn)?|eu)"
_REGION_NAME = r"[a-z]{2,4}(?:-[a-z]+)+-[0-9]+"
# Hosts of services that take BUCKET.HOST as well as HOST/BUCKET, and the region in them.
_SERVICES = [
    re.compile(pattern)
    for pattern in (
        rf"s3(?:-fips)?(?:\.dualstack)?[.-](?P<region>{_REGION_NAME})\.{_AWS}",
        rf"s3\.{_AWS}",
        r"(?P<region>[a-z]{3}[0-9])\.digitaloceanspaces\.com",
        r"s3\.(?P<region>[a-z0-9-]+)\.backblazeb2\.com",
        r"s3(?:\.(?P<region>[a-z0-9-]+))?\.wasabisys\.com",
        r"s3\.(?P<region>[a-z0-9-]+)\.scw\.cloud",
        r"s3\.(?P<region>[a-z0-9-]+)\.io\.cloud\.ovh\.(?:net|us)",
        r"(?P<region>[a-z]{2}-[a-z]+-[0-9]+)\.linodeobjects\.com",
        r"(?P<region>[a-z]{3}[0-9])\.vultrobjects\.com",
        r"(?P<region>[a-z]{3}[0-9])\.your-objectstorage\.com",
        r"[0-9a-f]{32}(?:\.(?:eu|fedramp))?\.r2\.cloudflarestorage\.com",
        r"storage\.googleapis\.com",
    )
]
# These know BUCKET.HOST only.
_ACCELERATED = re.compile(r"s3-accelerate(?:\.dualstack)?\.amazonaws\.com")
_VIRTUAL_ONLY = [
    _ACCELERATED,
    re.compile(r"oss-(?P<region>[a-z0-9-]+)\.aliyuncs\.com"),
    re.compile(r"cos\.(?P<region>[a-z0-9-]+)\.myqcloud\.com"),
]
_ANY_REGION = ("r2.cloudflarestorage.com", "storage.googleapis.com")
# Services whose S3 API is below a path.
_API_PATHS = {".supabase.co": "/storage/v1/s3", ".storage.supabase.co": "/storage/v1/s3"}
_BUCKET = r"(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])"

# Addresses that people copy, and that files cannot be stored at: why, and what to write.
_REFUSED: list[tuple[re.Pattern[str], str, str]] = [
    (
        re.compile(r"s3api-[a-z0-9-]+\.runpod\.io"),
        "is the S3 API of RunPod's network volumes, which cannot sign addresses: nobody could "
        "fetch what is stored there",
        "Attach the volume to the endpoint instead: outputs that are too large for an answer are "
        "then stored on it, and models are read from it. Or use a bucket of another service.",
    ),
    (
        re.compile(rf"(?:{_BUCKET}\.)?(?P<region>[a-z]{{3}}[0-9])\.cdn\.digitaloceanspaces\.com"),
        "is the address of a CDN, which takes no files",
        "Write the bucket's own: https://{region}.digitaloceanspaces.com/{bucket}.",
    ),
    (
        re.compile(r".+\.r2\.dev"),
        "is a bucket's public address, which takes no files",
        "Write that of R2's S3 API: https://ACCOUNT_ID.r2.cloudflarestorage.com/BUCKET.",
    ),
    (
        re.compile(r".+\.(?:cloudfront\.net|b-cdn\.net|fastly\.net|azureedge\.net)"),
        "is the address of a CDN, which takes no files",
        "Write the bucket's own: https://s3.REGION.amazonaws.com/BUCKET.",
    ),
    (
        re.compile(r"f[0-9]{3}\.backblazeb2\.com|.+\.b2api\.com|api[0-9]*\.backblazeb2\.com"),
        "is an address of Backblaze's own API, not of its S3 API",
        "Write https://s3.REGION.backblazeb2.com/BUCKET; the bucket's page shows it as Endpoint.",
    ),
    (
        re.compile(rf"(?:{_BUCKET}\.)?s3-website[.-](?P<region>[a-z0-9-]+)\.{_AWS}"),
        "is the address of a website, which takes no files",
        "Write https://s3.{region}.amazonaws.com/{bucket}.",
    ),
    (
        re.compile(rf".+\.(?:s3-accesspoint|s3express|s3-object-lambda)[.-].*{_AWS}"),
        "is an access point or a directory bucket, which this program cannot use",
        "Write the address of an ordinary bucket: https://s3.REGION.amazonaws.com/BUCKET.",
    ),
    (
        re.compile(r"(?:.+\.)?console\.aws\.amazon\.com|dash\.cloudflare\.com"),
        "is a page of a console",
        "Write the bucket's own: https://s3.REGION.amazonaws.com/BUCKET, or for R2 "
        "https://ACCOUNT_ID.r2.cloudflarestorage.com/BUCKET.",
    ),
    (
        re.compile(r".+\.blob\.core\.windows\.net"),
        "is Azure's storage, which has no S3 API",
        "Use a bucket of a service that has one (AWS, Cloudflare R2, Backblaze, …).",
    ),
]


@dataclass(frozen=True, slots=True)
class BucketAddress:
    """Where a bucket is.

    Attributes:
        endpoint: Of the service, without the bucket.
        region: ``auto`` where any will do; ``us-east-1`` where the address has none.
        prefix: What the keys of all files begin with, without ``/`` at its ends; may be empty.
        virtual: Whether the service wants the bucket in its host.
    """

    endpoint: URL
    bucket: str
    region: str
    prefix: str = ""
    virtual: bool = False

    @property
    def host_and_port(self) -> str:
        """``HOST:PORT`` of the service, as allow-lists of hosts have it."""
        return f"{self.endpoint.raw_host}:{self.endpoint.port}"

    def key(self, name: str) -> str:
        """The key of a file: its name in the bucket, below the prefix."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def name_at(self, url: URL) -> str | None:
        """The name, below the prefix, that an address of this service leads to, in either style.

        ``""`` if it leads elsewhere there; ``None`` for an address of another service.
        """
        path = unquote(url.raw_path).removeprefix(self.endpoint.path.rstrip("/")).lstrip("/")
        if url.origin() == self.endpoint.origin():
            bucket, _, path = path.partition("/")
            if bucket != self.bucket:
                return ""
        elif url.origin() != self._with_bucket_in_host.origin():
            return None
        if not self.prefix:
            return path
        return path.removeprefix(f"{self.prefix}/") if path.startswith(f"{self.prefix}/") else ""

    @property
    def _with_bucket_in_host(self) -> URL:
        return self.endpoint.with_host(f"{self.bucket}.{self.endpoint.host}")


def read_address(
    url: URL, name: str, *, bucket: str = "", region: str = "", otherwise: str = ""
) -> BucketAddress:
    """Read a bucket's address, of either style.

    Args:
        url: ``https``, without a query.
        name: Of the setting, for errors.
        bucket: The bucket's name, if it is set beside the address.
        region: The region, if it is set beside the address.
        otherwise: The bucket where neither names one.

    Raises:
        ConfigurationError: It names no bucket, two of them, or something that takes no files.
    """
    host = (url.host or "").lower()
    _refuse_other(host, url, name, bucket)
    service, in_host, found_region, virtual = _split(host, bucket)
    base, path = _api_path(service, url.path)
    if in_host is not None:
        if bucket and bucket != in_host:
            raise _two_buckets(name, in_host, bucket)
        bucket, prefix = in_host, path
    else:
        first, _, rest = path.partition("/")
        if not bucket:
            bucket, prefix = first or otherwise, rest
        elif first in ("", bucket):
            prefix = rest
        else:
            raise _two_buckets(name, first, bucket)
    if not bucket:
        raise ConfigurationError(
            f"{name} does not say which bucket.",
            advice="Write its name after the address (https://HOST/BUCKET), or set "
            f"{'R2_BUCKET' if name.startswith('R2_') else 'BUCKET_NAME'}.",
        )
    if _ACCELERATED.fullmatch(service) and not region:
        raise ConfigurationError(
            f"{name} is an address of Transfer Acceleration, which does not say the bucket's "
            "region.",
            advice="Set BUCKET_REGION, or write https://s3.REGION.amazonaws.com/BUCKET.",
        )
    if not region:
        region = "auto" if service.endswith(_ANY_REGION) else found_region or "us-east-1"
    endpoint = URL.build(scheme=url.scheme, host=service, port=url.explicit_port, path=base)
    return BucketAddress(endpoint, bucket, region, checked_prefix(prefix, name), virtual)


def checked_prefix(text: str, name: str) -> str:
    """A prefix of keys without ``/`` at its ends.

    Raises:
        ConfigurationError: It has parts that a service or a browser would change.
    """
    prefix = text.strip().strip("/")
    if prefix and not all(
        part not in ("", ".", "..") and part.isprintable() for part in prefix.split("/")
    ):
        raise ConfigurationError(
            f"{name} has a prefix that no key can begin with: {prefix!r}.",
            advice="Write folders with one / between them, like renders/2026.",
        )
    return prefix


def _split(host: str, bucket: str) -> tuple[str, str | None, str, bool]:
    """The service's host, the bucket in front of it, its region, and whether the bucket has to
    stand there.
    """
    for virtual, services in ((False, _SERVICES), (True, _VIRTUAL_ONLY)):
        for service in services:
            match = re.fullmatch(rf"(?:{_BUCKET}\.)?(?P<service>{service.pattern})", host)
            if match is not None:
                region = match.groupdict().get("region") or ""
                return match["service"], match["bucket"], region, virtual
    if bucket and host.startswith(f"{bucket}."):
        return host.removeprefix(f"{bucket}."), bucket, "", False
    return host, None, "", False


def _api_path(host: str, path: str) -> tuple[str, str]:
    """The path of the service's API, and what comes after it."""
    for ending, base in _API_PATHS.items():
        if host.endswith(ending) and (path == base or path.startswith(f"{base}/")):
            return base, path.removeprefix(base).strip("/")
    return "", path.strip("/")


def _two_buckets(name: str, one: str, other: str) -> ConfigurationError:
    beside = "bucketName" if name.startswith("s3Config") else "BUCKET_NAME"
    beside = "R2_BUCKET" if name.startswith("R2_") else beside
    return ConfigurationError(
        f"{name} names the bucket {one!r}, and {beside} is {other!r}.",
        advice=f"Write https://HOST/{other}/{one} if {one} is a folder in the bucket {other}; else "
        f"unset {beside}.",
    )


def _refuse_other(host: str, url: URL, name: str, bucket: str) -> None:
    for pattern, why, advice in _REFUSED:
        if (match := pattern.fullmatch(host)) is None:
            continue
        found = {key: value for key, value in match.groupdict().items() if value}
        named = found.get("bucket") or bucket or url.path.strip("/").partition("/")[0]
        raise ConfigurationError(
            f"{name} cannot be used: {host} {why}.",
            advice=advice.format(bucket=named or "BUCKET", region=found.get("region") or "REGION"),
        )
