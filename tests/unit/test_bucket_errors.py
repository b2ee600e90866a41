"""What an S3 service refuses, in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr
from yarl import URL

from comfy_remote.errors import ConfigurationError, OutputError
from comfy_remote.targets.bucket import Bucket, BucketSettings

pytest.importorskip("boto3")

SECRET = "planted-secret-access-key"


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (404, "NoSuchBucket", "BUCKET_NAME"),
        (403, "SignatureDoesNotMatch", "BUCKET_SECRET_ACCESS_KEY"),
        (403, "AccessDenied", "write"),
        (400, "EntityTooLarge", "BUCKET_ENDPOINT_URL"),
    ],
)
async def test_a_refusal_says_why_and_what_to_do(
    tmp_path: Path, status: int, code: str, advice: str
) -> None:
    async def refuse(request: web.Request) -> web.Response:
        await request.read()
        said = f"<Error><Code>{code}</Code><Message>Said by the service.</Message></Error>"
        return web.Response(status=status, text=said, content_type="application/xml")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    async with TestServer(app) as server:
        made = BucketSettings(
            URL(str(server.make_url("/")).rstrip("/")), "pics", "auto", "id", SecretStr(SECRET)
        )
        with pytest.raises(OutputError) as caught:
            await Bucket(made).put(path, "job/a.png")
    assert f"{code}: Said by the service." in caught.value.message
    assert advice in caught.value.advice
    assert SECRET not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


async def test_a_host_that_boto3_does_not_take_is_an_error_of_ours() -> None:
    bucket = Bucket(
        BucketSettings(URL("https://my_storage:9000"), "pics", "here", "id", SecretStr(SECRET))
    )
    with pytest.raises(ConfigurationError, match="my_storage"):
        await bucket.delete("a")
