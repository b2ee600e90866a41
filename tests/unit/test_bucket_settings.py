"""Addresses of buckets, as the services write them."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from comfy_remote.errors import ConfigurationError
from comfy_remote.net.bucket import BucketSettings

KEYS = {"BUCKET_ACCESS_KEY_ID": "id", "BUCKET_SECRET_ACCESS_KEY": "planted-secret"}
R2 = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("address", "endpoint", "bucket", "region"),
    [
        (
            "https://pics.s3.eu-central-1.amazonaws.com",
            "https://s3.eu-central-1.amazonaws.com/",
            "pics",
            "eu-central-1",
        ),
        (
            "https://s3.eu-west-3.amazonaws.com/pics/",
            "https://s3.eu-west-3.amazonaws.com/",
            "pics",
            "eu-west-3",
        ),
        ("https://my.pics.s3.amazonaws.com", "https://s3.amazonaws.com/", "my.pics", "us-east-1"),
        (
            f"https://{R2}.r2.cloudflarestorage.com/pics",
            f"https://{R2}.r2.cloudflarestorage.com/",
            "pics",
            "auto",
        ),
        (
            f"https://pics.{R2}.r2.cloudflarestorage.com",
            f"https://{R2}.r2.cloudflarestorage.com/",
            "pics",
            "auto",
        ),
        (
            "https://pics.nyc3.digitaloceanspaces.com",
            "https://nyc3.digitaloceanspaces.com/",
            "pics",
            "nyc3",
        ),
        (
            "https://s3api-eu-ro-1.runpod.io/vol1",
            "https://s3api-eu-ro-1.runpod.io/",
            "vol1",
            "eu-ro-1",
        ),
        ("http://127.0.0.1:8333/pics", "http://127.0.0.1:8333/", "pics", "us-east-1"),
    ],
)
def test_addresses(address: str, endpoint: str, bucket: str, region: str) -> None:
    found = BucketSettings.from_environ({"BUCKET_ENDPOINT_URL": address, **KEYS})
    assert found is not None
    assert (f"{found.endpoint}/", found.bucket, found.region) == (endpoint, bucket, region)
    assert "planted-secret" not in repr(found)


def test_name_and_region_beside_the_address() -> None:
    environ = {
        "BUCKET_ENDPOINT_URL": "https://minio.example:9000",
        "BUCKET_NAME": "pics",
        "BUCKET_REGION": "here",
        **KEYS,
    }
    found = BucketSettings.from_environ(environ)
    assert found is not None
    assert (found.bucket, found.region, found.endpoint.port) == ("pics", "here", 9000)


def test_none_where_none_is_set() -> None:
    assert BucketSettings.from_environ(KEYS) is None


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"BUCKET_ENDPOINT_URL": "https://minio.example", **KEYS}, "BUCKET_NAME"),
        ({"BUCKET_ENDPOINT_URL": "http://minio.example/pics", **KEYS}, "https"),
        ({"BUCKET_ENDPOINT_URL": "minio", **KEYS}, "BUCKET_ENDPOINT_URL"),
        ({"BUCKET_ENDPOINT_URL": "https://m.example/p"}, "BUCKET_ACCESS_KEY_ID"),
    ],
)
def test_half_a_bucket_is_refused(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        BucketSettings.from_environ(environ)
    assert says in str(caught.value)
    assert "planted-secret" not in str(caught.value)


def test_the_name_of_the_setting_is_told() -> None:
    with pytest.raises(ConfigurationError, match=r"s3Config\.endpointUrl"):
        BucketSettings.of("ftp://x/y", "id", SecretStr("s"), name="s3Config.endpointUrl")
