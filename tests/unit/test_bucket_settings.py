"""Addresses of buckets, as the services write them."""

from __future__ import annotations

import pytest
from pydantic import SecretStr
from yarl import URL

from comfy_remote.errors import ConfigurationError
from comfy_remote.net.bucket import Bucket, BucketSettings

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
            "https://pics.s3.dualstack.us-west-2.amazonaws.com",
            "https://s3.dualstack.us-west-2.amazonaws.com/",
            "pics",
            "us-west-2",
        ),
        (
            "https://s3-us-west-2.amazonaws.com/pics",
            "https://s3-us-west-2.amazonaws.com/",
            "pics",
            "us-west-2",
        ),
        (
            "https://pics.s3.us-gov-east-1.amazonaws.com",
            "https://s3.us-gov-east-1.amazonaws.com/",
            "pics",
            "us-gov-east-1",
        ),
        (
            "https://pics.s3.cn-north-1.amazonaws.com.cn",
            "https://s3.cn-north-1.amazonaws.com.cn/",
            "pics",
            "cn-north-1",
        ),
        ("https://pics.s3.wasabisys.com", "https://s3.wasabisys.com/", "pics", "us-east-1"),
        (
            "https://pics.s3.eusc-de-east-1.amazonaws.eu",
            "https://s3.eusc-de-east-1.amazonaws.eu/",
            "pics",
            "eusc-de-east-1",
        ),
        (
            "https://pics.us-ord-10.linodeobjects.com",
            "https://us-ord-10.linodeobjects.com/",
            "pics",
            "us-ord-10",
        ),
        (
            "https://pics.storage.googleapis.com",
            "https://storage.googleapis.com/",
            "pics",
            "auto",
        ),
        (
            "https://pics.fsn1.your-objectstorage.com",
            "https://fsn1.your-objectstorage.com/",
            "pics",
            "fsn1",
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


@pytest.mark.parametrize(
    ("environ", "bucket", "key"),
    [
        ({"BUCKET_ENDPOINT_URL": "https://m.example/pics/a/b/"}, "pics", "a/b/x.png"),
        ({"BUCKET_ENDPOINT_URL": "https://pics.s3.eu-west-1.amazonaws.com/a"}, "pics", "a/x.png"),
        (
            {"BUCKET_ENDPOINT_URL": "https://m.example/pics", "BUCKET_PREFIX": "/a/"},
            "pics",
            "a/x.png",
        ),
        (
            {"BUCKET_ENDPOINT_URL": "https://m.example/pics/a", "BUCKET_PREFIX": "b"},
            "pics",
            "a/b/x.png",
        ),
        (
            {"BUCKET_ENDPOINT_URL": "https://m.example/pics/a", "BUCKET_NAME": "pics"},
            "pics",
            "a/x.png",
        ),
        (
            {"BUCKET_ENDPOINT_URL": "https://pics.m.example/a", "BUCKET_NAME": "pics"},
            "pics",
            "a/x.png",
        ),
        (
            {
                "BUCKET_ENDPOINT_URL": "https://ref.supabase.co/storage/v1/s3",
                "BUCKET_NAME": "pics",
            },
            "pics",
            "x.png",
        ),
    ],
)
def test_a_prefix_is_kept(environ: dict[str, str], bucket: str, key: str) -> None:
    found = BucketSettings.from_environ({**environ, **KEYS})
    assert found is not None
    assert (found.bucket, found.key("x.png")) == (bucket, key)


def test_the_bucket_stands_in_the_host_where_the_service_wants_it_there() -> None:
    environ = {
        "BUCKET_ENDPOINT_URL": "https://pics.s3-accelerate.amazonaws.com",
        "BUCKET_REGION": "eu-west-1",
        **KEYS,
    }
    found = BucketSettings.from_environ(environ)
    assert found is not None
    assert (str(found.endpoint), found.bucket) == ("https://s3-accelerate.amazonaws.com", "pics")
    assert found.virtual


async def test_a_signed_address_has_prefix_and_style_of_its_bucket() -> None:
    pytest.importorskip("boto3")
    accelerated = BucketSettings.of(
        "https://pics.s3-accelerate.amazonaws.com/a",
        "id",
        SecretStr("s"),
        region="eu-west-1",
    )
    signed = await Bucket(accelerated).sign("GET", "x.png", 60)
    assert signed.startswith("https://pics.s3-accelerate.amazonaws.com/a/x.png?")
    ordinary = BucketSettings.of("https://m.example/pics/a", "id", SecretStr("s"))
    signed = await Bucket(ordinary).sign("GET", "x.png", 60)
    assert signed.startswith("https://m.example/pics/a/x.png?")


@pytest.mark.parametrize(
    ("address", "says", "fix"),
    [
        (
            "https://pics.nyc3.cdn.digitaloceanspaces.com",
            "CDN",
            "https://nyc3.digitaloceanspaces.com/pics",
        ),
        ("https://pub-0123.r2.dev", "public address", "r2.cloudflarestorage.com"),
        ("https://d111.cloudfront.net/pics", "CDN", "https://s3.REGION.amazonaws.com/BUCKET"),
        ("https://f005.backblazeb2.com/file/pics", "Backblaze's own", "s3.REGION.backblazeb2.com"),
        (
            "https://pics.s3-website-us-east-1.amazonaws.com",
            "website",
            "https://s3.us-east-1.amazonaws.com/pics",
        ),
        ("https://s3api-eu-ro-1.runpod.io/vol1", "cannot sign addresses", "Attach the volume"),
        ("https://pics.s3-accelerate.amazonaws.com", "Transfer Acceleration", "BUCKET_REGION"),
        ("https://ap-123.s3-accesspoint.eu-west-1.amazonaws.com", "access point", "ordinary"),
        ("https://pics.blob.core.windows.net/x", "no S3 API", "AWS"),
        ("https://m.example/pics/a//b", "prefix", "one /"),
    ],
)
def test_an_address_that_takes_no_files_is_refused_with_the_fix(
    address: str, says: str, fix: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        BucketSettings.of(address, "id", SecretStr("s"))
    assert says in caught.value.message
    assert fix in caught.value.advice


def test_two_names_of_a_bucket_are_refused() -> None:
    environ = {"BUCKET_ENDPOINT_URL": "https://m.example/a", "BUCKET_NAME": "pics", **KEYS}
    with pytest.raises(ConfigurationError, match="names the bucket 'a'") as caught:
        BucketSettings.from_environ(environ)
    assert "https://HOST/pics/a" in caught.value.advice


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://m.example/pics/a/lora/x%20y.safetensors", "lora/x y.safetensors"),
        ("https://pics.m.example/a/lora/x.safetensors", "lora/x.safetensors"),
        ("https://m.example/pics/b/x.safetensors", ""),
        ("https://m.example/other/a/x.safetensors", ""),
        ("https://other.example/pics/a/x.safetensors", None),
    ],
)
def test_an_address_in_the_bucket_is_known_in_either_style(address: str, name: str | None) -> None:
    bucket = BucketSettings.of("https://m.example/pics/a", "id", SecretStr("s"))
    assert bucket.name_at(URL(address)) == name


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
