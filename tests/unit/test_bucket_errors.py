"""What an S3 service refuses, in words."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr
from yarl import URL

from comfy_remote.errors import ConfigurationError, OutputError, TargetError, WorkflowInvalid
from comfy_remote.net.bucket import Bucket, BucketSettings
from comfy_remote.net.guard import Guard
from comfy_remote.wire.request import S3Config
from comfy_remote.worker.settings import WorkerSettings
from comfy_remote.worker.storage import bucket_guard, check_address, settings_of

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
            URL(str(server.make_url("/")).rstrip("/")),
            "pics",
            "auto",
            access_key_id="id",
            secret_access_key=SecretStr(SECRET),
        )
        with pytest.raises(OutputError) as caught:
            await Bucket(made).put(path, "job/a.png")
    assert f"{code}: Said by the service." in caught.value.message
    assert advice in caught.value.advice
    assert SECRET not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


async def test_a_host_that_boto3_does_not_take_is_an_error_of_ours() -> None:
    bucket = Bucket(
        BucketSettings(
            URL("https://my_storage:9000"),
            "pics",
            "here",
            access_key_id="id",
            secret_access_key=SecretStr(SECRET),
        )
    )
    with pytest.raises(ConfigurationError, match="my_storage"):
        await bucket.delete("a")


# --- a bucket that a request names --------------------------------------------------------


async def put(endpoint: str, guard: Guard, path: Path) -> None:
    made = BucketSettings(
        URL(endpoint), "pics", "auto", access_key_id="id", secret_access_key=SecretStr(SECRET)
    )
    await Bucket(made, guard).put(path, "job/a.png")


async def test_boto3_connects_only_to_an_address_that_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str | None, bytes]] = []

    async def take(request: web.Request) -> web.Response:
        asked.append((request.method, request.headers.get("Host"), await request.read()))
        return web.Response(headers={"ETag": '"x"'})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", take)
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    looked_up: list[str] = []
    real = socket.getaddrinfo

    def lookup(host: str, *args: Any, **kwargs: Any) -> Any:
        looked_up.append(host)
        return real("127.0.0.1" if host.endswith(".example") else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    async with TestServer(app) as server:
        with pytest.raises(TargetError, match=r"private network: rebound\.example"):
            await put(f"http://rebound.example:{server.port}", HTTP, path)
        with pytest.raises(TargetError, match=r"private network: 127\.0\.0\.1"):
            await put(f"http://127.0.0.1:{server.port}", HTTP, path)
        assert asked == []
        named = f"storage.example:{server.port}"
        await put(f"http://{named}", Guard(frozenset({named})), path)
    # Signed for the name, and sent to the address.
    assert asked == [("PUT", named, b"content")]


class _Http(Guard):
    """Public addresses by plain http, too: the tests have no certificate."""

    def check(self, url: str | URL, what: str, *, plain_http: bool = False) -> URL:
        return super().check(url, what, plain_http=True)


HTTP = _Http()


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/b", "https://10.0.0.1/b", "https://2130706433/b", "http://x/b"]
)
def test_a_requests_bucket_is_public_https(url: str) -> None:
    config = S3Config(accessId="a", accessSecret=SecretStr("s"), endpointUrl=url)
    with pytest.raises((WorkflowInvalid, ConfigurationError), match=r"s3Config\.endpointUrl"):
        settings_of(config, bucket_guard(WorkerSettings()))


async def test_a_requests_bucket_in_a_private_network_is_refused_before_anything_runs() -> None:
    config = S3Config(
        accessId="a", accessSecret=SecretStr("s"), endpointUrl="https://localhost.localdomain/b"
    )
    guard = bucket_guard(WorkerSettings())
    settings = settings_of(config, guard)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *a, **k: [(2, 1, 6, "", ("10.0.0.1", 443))])
        with pytest.raises(WorkflowInvalid, match="private network") as caught:
            await check_address(settings, guard)
    assert "COMFY_REMOTE_BUCKET_HOSTS" in caught.value.advice
