"""Assets over HTTP: what the document of the API says, and what hostile senders try."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from blake3 import blake3
from comfy_sdk import AsyncComfy, Comfy
from helpers import until
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from comfy_remote.api.asset_routes import asset_routes
from comfy_remote.api.assets import AssetLimits, AssetStore
from comfy_remote.api.content import byte_range, safe_headers
from comfy_remote.api.server import api_application, guard
from comfy_remote.wire.comfy_api import API_PATH, Asset, OutputType

CONTENT = bytes(range(256)) * 40
HASH = f"blake3:{blake3(CONTENT).hexdigest()}"
LIMITS = AssetLimits(file_bytes=2**20, pause=60.0)


class Front:
    """A store behind its routes."""

    def __init__(self, store: AssetStore) -> None:
        self.store = store
        self.base = ""
        self.session: aiohttp.ClientSession

    async def upload(
        self, content: bytes = CONTENT, *, key: str | None = None, **fields: str
    ) -> tuple[int, dict[str, Any]]:
        form = aiohttp.FormData()
        fields = {"content_type": "image/png", "file_path": "photo.png", **fields}
        for name, value in fields.items():
            form.add_field(name, value)
        form.add_field("file", content, filename="photo.png")
        headers = {} if key is None else {"Idempotency-Key": key}
        async with self.session.post(f"{self.base}/assets", data=form, headers=headers) as answer:
            return answer.status, await answer.json()

    async def post(self, body: bytes, boundary: str = "b") -> tuple[int, dict[str, Any]]:
        """A form as it stands."""
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        async with self.session.post(f"{self.base}/assets", data=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def from_hash(self, **wanted: object) -> tuple[int, dict[str, Any]]:
        async with self.session.post(f"{self.base}/assets/from-hash", json=wanted) as answer:
            return answer.status, await answer.json()

    async def by_hash(self, hash_: str) -> int:
        async with self.session.head(f"{self.base}/assets/by-hash/{hash_}") as answer:
            return answer.status

    def blobs(self) -> list[bytes]:
        return sorted(one.read_bytes() for one in self.store.folder.glob("blobs/*/*"))

    def arriving(self) -> list[Path]:
        return [
            one
            for one in self.store.folder.glob("arriving/*/*")
            if not one.name.startswith(".lock")
        ]


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with AssetStore(tmp_path / "front", LIMITS) as store:
        made = Front(store)
        app = web.Application()
        app.add_subapp(API_PATH, api_application(asset_routes(store), [guard(None)]))
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            made.base, made.session = str(server.make_url(API_PATH)), session
            yield made


def form(*parts: tuple[str, bytes], end: bytes = b"--b--\r\n") -> bytes:
    """A form as clients send it."""
    return (
        b"".join(
            b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
            % (name.encode(), b'; filename="x"' if name == "file" else b"", content)
            for name, content in parts
        )
        + end
    )


PARTS = (("content_type", b"image/png"), ("file_path", b"a.png"), ("file", CONTENT[:300]))


def code(answer: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    status, body = answer
    return status, body["error"]["code"]


async def test_an_upload_is_answered_as_the_document_says(front: Front) -> None:
    before = datetime.now(timezone.utc)
    status, body = await front.upload(tags="input", expected_hash=HASH, expires_in="3600")
    assert status == 201
    asset = Asset.model_validate(body)
    assert (asset.hash, asset.size_bytes, asset.content_type) == (HASH, len(CONTENT), "image/png")
    assert (asset.file_path, asset.created_new, asset.job_id) == ("photo.png", True, None)
    assert asset.url == f"{front.base}/assets/{asset.id}/content"
    assert asset.expires_at is not None
    assert before + timedelta(hours=1) <= asset.expires_at <= before + timedelta(hours=1, minutes=5)
    assert asset.url_expires_at == asset.expires_at
    status, body = await front.upload(file_path="other.png")
    other = Asset.model_validate(body)
    assert (status, other.created_new) == (200, False)
    assert other.id != asset.id
    async with front.session.get(f"{front.base}/assets/{asset.id}") as answer:
        assert Asset.model_validate(await answer.json()) == asset.model_copy(
            update={"created_new": None}
        )
    async with front.session.get(asset.url) as answer:
        assert (answer.status, await answer.read()) == (200, CONTENT)


@pytest.mark.parametrize("first", range(len(PARTS)))
async def test_the_parts_come_in_any_order(front: Front, first: int) -> None:
    turned = (*PARTS[first:], *PARTS[:first], ("tags", b"a"), ("tags", b"b"), ("unknown", b"?"))
    status, body = await front.post(form(*turned))
    assert (status, body["size_bytes"]) == (201, 300)


@pytest.mark.parametrize("missing", ["file", "content_type", "file_path"])
async def test_a_form_that_lacks_something_says_what(front: Front, missing: str) -> None:
    answer = await front.post(form(*(part for part in PARTS if part[0] != missing)))
    assert code(answer) == (422, "invalid_request")
    assert answer[1]["error"]["details"] == {"field": missing}
    assert front.blobs() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("expires_in", "59"),
        ("expires_in", "604801"),
        ("expires_in", "-60"),
        ("expires_in", "1e3"),
        ("expires_in", "٦٠٠"),
        ("expires_in", "9" * 5000),
        ("expected_hash", "blake3:abc"),
        ("expected_hash", "0" * 64),
        ("content_type", ""),
        ("content_type", "png"),
        ("content_type", "text/html\r\nX-Evil: 1"),
        ("content_type", "a/" + "b" * 300),
        ("file_path", ""),
        ("file_path", "x" * 10_000),
        ("file_path", "models/checkpoints/x.safetensors"),
        ("file_path", "/Models\\loras\\x.safetensors"),
    ],
)
async def test_a_value_that_is_not_possible_is_refused(front: Front, name: str, value: str) -> None:
    for order in (slice(None), slice(None, None, -1)):
        parts = {**dict(PARTS), name: value.encode()}
        answer = await front.post(form(*list(parts.items())[order]))
        assert code(answer) == (422, "invalid_request")
        assert answer[1]["error"]["details"] == {"field": name}
    assert front.blobs() == [] and front.arriving() == []


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("C:\\x.png", "C_/x.png"),
        ("input/photo.png", "photo.png"),
        ("models", "models"),
        ("a\x00b", "a_b"),
        ("NUL", "_NUL"),
    ],
)
async def test_a_name_is_made_safe(front: Front, sent: str, stored: str) -> None:
    status, body = await front.upload(file_path=sent)
    assert (status, body["file_path"]) == (201, stored)
    assert front.blobs() == [CONTENT]


async def test_a_part_that_comes_twice_is_refused(front: Front) -> None:
    for name in ("file", "content_type"):
        answer = await front.post(form(*PARTS, (name, b"image/webp")))
        assert code(answer) == (422, "invalid_request")
    many = [("tags", b"x")] * 300
    assert code(await front.post(form(*many, *PARTS))) == (422, "invalid_request")
    large = ("tags", b"x" * 300_000)
    assert code(await front.post(form(large, *PARTS))) == (413, "payload_too_large")
    assert front.blobs() == [] and front.arriving() == []


@pytest.mark.filterwarnings("ignore::aiohttp.multipart.BadContentDispositionHeader")
async def test_a_form_that_is_cut_anywhere_adds_nothing(front: Front) -> None:
    whole = form(*PARTS[:2], ("file", b"\r\n--\r\n-b\r\r\n--"), end=b"--b--")
    for length in range(len(whole)):
        assert code(await front.post(whole[:length])) == (422, "invalid_request"), whole[:length]
    assert front.blobs() == [] and front.arriving() == []
    assert (await front.post(whole))[0] == 201


async def test_a_connection_that_is_cut_anywhere_leaves_nothing(front: Front) -> None:
    url = URL(front.base)
    body = form(*PARTS)
    head = (
        f"POST {url.path}/assets HTTP/1.1\r\nHost: {url.authority}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    for length in range(0, len(body), 7):
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(head + body[:length])
        await writer.drain()
        writer.close()
    assert (await front.upload())[0] == 201
    await until(lambda: front.arriving() == [])
    assert front.blobs() == [CONTENT]


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", "text/plain"])
async def test_what_is_no_form_is_refused(front: Front, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    url = f"{front.base}/assets"
    async with front.session.post(url, data=b"{}", headers=headers) as answer:
        assert code((answer.status, await answer.json())) == (422, "invalid_request")


async def test_a_file_over_the_limit_is_refused(front: Front) -> None:
    largest = bytes(LIMITS.file_bytes)
    assert (await front.upload(largest))[0] == 201
    assert code(await front.upload(largest + b"x")) == (413, "payload_too_large")
    announced = await front.upload(bytes(2 * LIMITS.file_bytes))
    assert code(announced) == (413, "payload_too_large")
    assert front.blobs() == [largest]


async def test_no_room_is_a_429_that_says_when_to_try_again(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_FREE_SPACE", "1000TB")
    data = aiohttp.FormData({"content_type": "a/b", "file_path": "a"})
    data.add_field("file", CONTENT, filename="a")
    async with front.session.post(f"{front.base}/assets", data=data) as answer:
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "60"
        assert (await answer.json())["error"]["code"] == "queue_full"
    assert front.blobs() == []


async def test_an_upload_that_stands_still_is_refused(tmp_path: Path) -> None:
    async with AssetStore(tmp_path / "slow", AssetLimits(pause=0.2)) as store:
        app = web.Application()
        app.add_subapp(API_PATH, api_application(asset_routes(store), [guard(None)]))

        async def dripping() -> AsyncIterator[bytes]:
            yield form(*PARTS)[:200]
            await asyncio.Event().wait()

        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            url = server.make_url(f"{API_PATH}/assets")
            async with session.post(url, data=dripping(), headers=headers) as answer:
                assert answer.status == 422
                assert "too slowly" in (await answer.json())["error"]["message"]
        assert list(store.folder.glob("blobs/*/*")) == []


async def test_another_hash_is_a_409(front: Front) -> None:
    answer = await front.upload(expected_hash="blake3:" + "0" * 64, key="key")
    assert code(answer) == (409, "hash_mismatch")
    assert front.blobs() == []
    assert await front.by_hash(HASH) == 404
    assert (await front.upload(expected_hash=HASH, key="key"))[0] == 201


async def test_a_key_is_good_for_one_upload(front: Front) -> None:
    key = str(uuid.uuid4())
    assert (await front.upload(key=key))[0] == 201
    assert code(await front.upload(b"another", key=key)) == (422, "idempotency_key_reuse")
    assert front.blobs() == [CONTENT]
    for bad in ("x" * 256, "a\tb"):
        assert code(await front.upload(key=bad)) == (422, "invalid_request")


async def test_a_key_is_good_for_one_of_two_at_a_time(front: Front) -> None:
    answers = await asyncio.gather(*(front.upload(key="the same") for _ in range(8)))
    assert sorted(status for status, _ in answers) == [201] + [422] * 7
    assert len([body for _, body in answers if "id" in body]) == 1


async def test_a_hash_finds_what_is_here(front: Front) -> None:
    assert await front.by_hash(HASH) == 404
    assert code(await front.from_hash(hash=HASH)) == (404, "blob_not_found")
    _, uploaded = await front.upload()
    assert await front.by_hash(HASH) == 200
    assert await front.by_hash(HASH.replace(":", "%3A")) == 200
    for malformed in ("x", "blake3:", HASH[:-1], HASH + "0", HASH.replace("blake3", "sha256")):
        assert await front.by_hash(malformed) == 404
    status, same = await front.from_hash(hash=HASH, file_path="photo.png", tags=["input"])
    assert (status, same["id"], same["created_new"]) == (200, uploaded["id"], False)
    status, other = await front.from_hash(hash=HASH, file_path="other.png", expires_in=60)
    assert (status, other["created_new"]) == (201, False)
    assert other["id"] != uploaded["id"]


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"hash": 5},
        {"hash": HASH, "expires_in": 59},
        {"hash": HASH, "expires_in": 604801},
        {"hash": HASH, "expires_in": "soon"},
        {"hash": HASH, "file_path": "models/x/y"},
        {"hash": HASH, "file_path": 7},
    ],
)
async def test_a_request_by_hash_that_is_not_possible(
    front: Front, wanted: dict[str, object]
) -> None:
    await front.upload()
    assert code(await front.from_hash(**wanted)) == (422, "invalid_request")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 10_000])
async def test_what_is_no_json_is_refused(front: Front, body: bytes) -> None:
    async with front.session.post(f"{front.base}/assets/from-hash", data=body) as answer:
        status = answer.status
        assert status in (413, 422)
        assert (await answer.json())["error"]["code"] in ("invalid_request", "payload_too_large")


@pytest.mark.parametrize("name", ["x", "%FF", "%00", "%ED%A0%80", "..%2F..%2Fx", "a" * 5000])
async def test_an_id_that_is_none_finds_nothing(front: Front, name: str) -> None:
    url = URL(f"{front.base}/assets/{name}", encoded=True)
    for address in (url, url / "content"):
        async with front.session.get(address) as answer:
            assert code((answer.status, await answer.json())) == (404, "not_found")
    async with front.session.delete(url) as answer:
        assert answer.status == 404
    assert await front.by_hash(name) == 404
    status, _ = await front.from_hash(hash="blake3:\ud800", file_path="\ud800")
    assert status in (404, 422)


async def test_an_asset_is_deleted_once(front: Front) -> None:
    _, first = await front.upload()
    _, second = await front.upload()
    url = f"{front.base}/assets/{first['id']}"
    for expected in (204, 404):
        async with front.session.delete(url) as answer:
            assert answer.status == expected
    for gone in (url, f"{url}/content"):
        async with front.session.get(gone) as answer:
            assert code((answer.status, await answer.json())) == (404, "not_found")
    async with front.session.get(second["url"]) as answer:
        assert await answer.read() == CONTENT


async def test_an_asset_that_a_job_needs_is_a_409(front: Front) -> None:
    _, asset = await front.upload()
    soon = datetime.now(timezone.utc) + timedelta(hours=1)
    await front.store.add_job("job", expires=soon, uses=[asset["id"]])
    async with front.session.delete(f"{front.base}/assets/{asset['id']}") as answer:
        assert code((answer.status, await answer.json())) == (409, "asset_in_use")
    await front.store.forget_job("job")
    async with front.session.delete(f"{front.base}/assets/{asset['id']}") as answer:
        assert answer.status == 204


async def test_an_output_is_an_asset_with_its_job(front: Front, tmp_path: Path) -> None:
    soon = datetime.now(timezone.utc) + timedelta(hours=1)
    await front.store.add_job("job", expires=soon)
    (tmp_path / "made").write_bytes(b"made")
    output = await front.store.add_output(
        tmp_path / "made",
        job_id="job",
        position=0,
        node_id="9",
        name="sub/ComfyUI_00001_.png",
        kind=OutputType.IMAGE,
        content_type="image/png",
    )
    async with front.session.get(f"{front.base}/assets/{output.id}") as answer:
        asset = Asset.model_validate(await answer.json())
    assert (asset.job_id, asset.expires_at) == ("job", soon)
    async with front.session.get(asset.url) as answer:
        assert await answer.read() == b"made"
        assert answer.content_disposition is not None
        assert answer.content_disposition.filename == "ComfyUI_00001_.png"


@pytest.mark.parametrize(
    ("asked", "status", "start", "stop"),
    [
        ("bytes=0-0", 206, 0, 1),
        ("bytes=10-", 206, 10, 10240),
        ("bytes=-5", 206, 10235, 10240),
        ("bytes=10239-99999", 206, 10239, 10240),
        ("bytes=-99999", 206, 0, 10240),
        ("bytes=10240-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=5-2", 200, 0, 10240),
        ("bytes=0-1,3-4", 200, 0, 10240),
        ("bytes=-", 200, 0, 10240),
        ("lines=0-1", 200, 0, 10240),
        ("bytes=a-b", 200, 0, 10240),
        ("bytes=0-" + "9" * 5000, 200, 0, 10240),
    ],
)
async def test_a_range_of_the_bytes(
    front: Front, asked: str, status: int, start: int, stop: int
) -> None:
    _, asset = await front.upload()
    async with front.session.get(asset["url"], headers={"Range": asked}) as answer:
        assert answer.status == status
        if status == 416:
            assert answer.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
            assert (await answer.json())["error"]["code"] == "range_not_satisfiable"
            return
        assert await answer.read() == CONTENT[start:stop]
        assert answer.headers["Accept-Ranges"] == "bytes"
        if status == 206:
            whole = f"bytes {start}-{stop - 1}/{len(CONTENT)}"
            assert answer.headers["Content-Range"] == whole


@given(
    first=st.none() | st.integers(0, 40),
    last=st.none() | st.integers(0, 40),
    size=st.integers(0, 30),
)
def test_a_byte_range_is_what_it_says(first: int | None, last: int | None, size: int) -> None:
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    content = bytes(range(size))
    found = byte_range(header, size)
    backwards = first is not None and last is not None and last < first
    if backwards or (first is None and last is None):
        assert found is None
    elif first is None:
        expected = content[-last:] if last else b""
        assert found is not None and content[found.start : found.stop] == expected
    else:
        expected = content[first:] if last is None else content[first : last + 1]
        assert found is not None and content[found.start : found.stop] == expected


@given(st.text(max_size=40), st.integers(0, 100))
def test_no_header_breaks_a_range(header: str, size: int) -> None:
    found = byte_range(header, size)
    assert found is None or 0 <= found.start <= found.stop <= size


async def test_what_a_browser_has_is_not_sent_again(front: Front) -> None:
    _, asset = await front.upload()
    async with front.session.get(asset["url"]) as answer:
        tag = answer.headers["ETag"]
    async with front.session.get(asset["url"], headers={"If-None-Match": tag}) as answer:
        assert (answer.status, await answer.read()) == (304, b"")
    headers = {"Range": "bytes=0-9", "If-Range": tag}
    async with front.session.get(asset["url"], headers=headers) as answer:
        assert (answer.status, await answer.read()) == (206, CONTENT[:10])


async def test_head_says_what_get_would(front: Front) -> None:
    _, asset = await front.upload()
    for headers in ({}, {"Range": "bytes=5-"}):
        async with front.session.head(asset["url"], headers=headers) as answer:
            assert answer.status == 200
            assert answer.content_length == len(CONTENT)
            assert await answer.read() == b""
    async with front.session.get(f"{front.base}/assets/by-hash/{HASH}") as answer:
        assert answer.status == 405


async def test_an_empty_file_is_a_file(front: Front) -> None:
    status, asset = await front.upload(b"")
    assert (status, asset["size_bytes"]) == (201, 0)
    async with front.session.get(asset["url"]) as answer:
        assert (answer.status, await answer.read()) == (200, b"")


@pytest.mark.parametrize(
    ("sent", "served", "disposition"),
    [
        ("image/png", "image/png", "inline"),
        ("video/mp4; codecs=avc1", "video/mp4", "inline"),
        ("text/plain;charset=utf-8", "text/plain", "inline"),
        ("text/html", "application/octet-stream", "attachment"),
        ("TEXT/HTML", "application/octet-stream", "attachment"),
        ("image/svg+xml", "application/octet-stream", "attachment"),
        ("Image/SVG", "application/octet-stream", "attachment"),
        ("application/xhtml+xml", "application/octet-stream", "attachment"),
        ("text/javascript", "application/octet-stream", "attachment"),
        ("application/pdf", "application/octet-stream", "attachment"),
        ("multipart/x-mixed-replace", "application/octet-stream", "attachment"),
    ],
)
async def test_no_file_runs_in_a_browser(
    front: Front, sent: str, served: str, disposition: str
) -> None:
    _, asset = await front.upload(b"<script>", content_type=sent, file_path='a"b\r\n;é.html')
    assert asset["content_type"] == sent
    async with front.session.get(asset["url"]) as answer:
        assert answer.content_type == served
        said = answer.headers["Content-Disposition"]
        assert said.startswith(f'{disposition}; filename="a_b____.html"; filename*=')
        assert answer.content_disposition is not None
        assert answer.content_disposition.filename == "a_b__;é.html"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in answer.headers["Content-Security-Policy"]


@given(st.text(), st.text())
def test_headers_of_a_file_have_no_other_in_them(content_type: str, name: str) -> None:
    for value in safe_headers(content_type, name).values():
        assert value.isascii() and value.isprintable()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 9)])
async def test_an_asset_whose_bytes_are_gone_is_a_404(
    front: Front, damage: Callable[[Path], None]
) -> None:
    _, asset = await front.upload()
    for path in front.store.folder.glob("blobs/*/*"):
        damage(path)
    async with front.session.get(asset["url"]) as answer:
        assert code((answer.status, await answer.json())) == (404, "not_found")
    assert await front.by_hash(HASH) == 404
    assert (await front.upload())[0] == 201
    async with front.session.get(asset["url"]) as answer:
        assert await answer.read() == CONTENT


async def test_curls_own_form(front: Front, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("skipped: no curl")
    (tmp_path / "photo.png").write_bytes(CONTENT)
    process = await asyncio.create_subprocess_exec(
        "curl",
        "--silent",
        "--fail",
        *("--form", f"file=@{tmp_path / 'photo.png'}"),
        *("--form", "content_type=image/png"),
        *("--form", "file_path=photo.png"),
        *("--form", "expires_in=600"),
        f"{front.base}/assets",
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert Asset.model_validate(json.loads(said)).hash == HASH


async def test_the_official_sdk_uploads(
    front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_BASE_URL", front.base.removesuffix(API_PATH))
    path = tmp_path / "photo.png"
    path.write_bytes(CONTENT)

    def sync() -> str:
        with Comfy(api_key="any key") as client:
            asset = client.assets.from_file(path)
            asset.commit()
            assert asset.created_new
            again = client.assets.from_bytes(CONTENT, filename="photo.png")
            assert again.commit() == asset.id  # by its hash
            assert again.created_new is False
            found = client.assets.get(asset.id or "")
            assert (found.hash, found.file_path) == (HASH, "photo.png")
            url = found.get_download_url()
            other = client.assets.from_bytes(b"other", filename="../../b.png")
            other_id = other.commit()
            client.assets.delete(other_id)
            return url.url

    url = await _in_own_thread(sync)
    async with front.session.get(url) as answer:
        assert await answer.read() == CONTENT
    async with AsyncComfy(api_key="any key") as client:
        asset = client.assets.from_file(path)
        await asset.commit()
        assert asset.hash == HASH
    assert front.blobs() == [CONTENT]


def _in_own_thread(work: Any) -> Awaitable[Any]:
    """So that it holds up no thread that the store needs."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised in the test
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, result)

    threading.Thread(target=run, daemon=True).start()
    return done
