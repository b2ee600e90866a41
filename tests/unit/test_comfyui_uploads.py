"""Files on their way into a ComfyUI: as a stream where it takes one, else by its own upload."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from comfy_remote.errors import RequestTooLarge
from comfy_remote.media.files import sha256_of
from comfy_remote.media.remote_values import value_file_name
from comfy_remote.media.values import encode
from comfy_remote.net.http import HttpClient
from comfy_remote.sandbox.server import SandboxServer
from comfy_remote.targets.base import InputFile
from comfy_remote.targets.comfyui.uploads import Uploads
from comfy_remote.targets.upload_progress import UploadProgress


@dataclass
class PlainComfyUI:
    """A ComfyUI without our pack, that takes 1 MiB at most."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    refuses: web.Response | None = None

    async def upload(self, request: web.Request) -> web.Response:
        if self.refuses is not None:
            return self.refuses
        form = await request.post()
        image = form["image"]
        assert isinstance(image, web.FileField)
        return web.json_response({"name": image.filename, "subfolder": form.get("subfolder", "")})

    @web.middleware
    async def note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path.split('/')[1]}")
        return await handler(request)


@pytest.fixture
async def plain() -> AsyncIterator[PlainComfyUI]:
    server = PlainComfyUI()
    app = web.Application(client_max_size=2**20, middlewares=[server.note])
    app.router.add_post("/upload/image", server.upload)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


def value_file(folder: Path, content: bytes) -> InputFile:
    path = folder / "content"
    path.write_bytes(content)
    sha256 = sha256_of(path)
    return InputFile(value_file_name(sha256), path, len(content), sha256)


async def test_a_comfyui_without_the_pack_gets_files_by_its_own_upload(
    plain: PlainComfyUI, tmp_path: Path
) -> None:
    uploads = Uploads("the test")
    async with HttpClient(plain.url, name="the test") as http:
        file = value_file(tmp_path, b"value")
        assert await uploads.send(http, file) == file.name
        other = value_file(tmp_path, b"other")
        assert await uploads.send(http, other) == other.name
    assert plain.asked == ["GET remote", "POST upload", "POST upload"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names there are UTF-8 or UTF-16")
async def test_a_file_whose_own_name_is_not_utf_8_is_sent(
    plain: PlainComfyUI, tmp_path: Path
) -> None:
    path = tmp_path / os.fsdecode(b"picture\xff.png")
    path.write_bytes(b"content")
    async with HttpClient(plain.url, name="It") as http:
        file = InputFile("picture.png", path, 7, sha256_of(path))
        assert await Uploads("It").send(http, file) == "picture.png"


async def test_a_file_that_is_too_large_for_it_is_refused_with_the_way_out(
    plain: PlainComfyUI, tmp_path: Path
) -> None:
    async with HttpClient(plain.url, name="the test") as http:
        with pytest.raises(RequestTooLarge, match=r"node pack.*--max-upload-size") as caught:
            await Uploads("the test").send(http, value_file(tmp_path, bytes(3 * 2**20)))
    assert caught.value.details["size"] == 3 * 2**20


async def test_a_proxys_limit_is_not_said_to_be_comfyuis(
    plain: PlainComfyUI, tmp_path: Path
) -> None:
    """nginx takes 1 MB, unless it is told otherwise."""
    plain.refuses = web.Response(
        status=413, text="<html><h1>413 Request Entity Too Large</h1></html>"
    )
    async with HttpClient(plain.url, name="the test") as http:
        file = value_file(tmp_path, bytes(2 * 2**20))
        with pytest.raises(RequestTooLarge) as caught:
            await Uploads("the test").send(http, file)
    assert f"The file {file.name} (2.1 MB) did not get through. A proxy" in caught.value.message
    assert "client_max_body_size" in caught.value.advice
    assert "node pack" not in caught.value.advice


async def test_comfyuis_own_upload_says_how_much_is_there_too(
    plain: PlainComfyUI, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    file = value_file(tmp_path, bytes(900_000))
    progress = UploadProgress([file], lambda sent, total: told.append((sent, total)))
    async with HttpClient(plain.url, name="the test") as http:
        await Uploads("the test").send(http, file, progress)
    assert len(told) >= 4
    assert told == sorted(told)
    assert told[-1] == (900_000, 900_000)


async def test_a_large_file_is_written_into_the_input_folder_if_that_is_here(
    plain: PlainComfyUI, tmp_path: Path
) -> None:
    folder = tmp_path / "input"
    path = tmp_path / "film"
    path.write_bytes(b"film" * 5 * 2**20)
    file = InputFile("films/a.mp4", path, path.stat().st_size, sha256_of(path))
    small = value_file(tmp_path, b"small")
    uploads = Uploads("the test")
    uploads.folder = folder
    async with HttpClient(plain.url, name="the test") as http:
        for _ in range(2):
            assert await uploads.send(http, file) == "films/a.mp4"
        picture = InputFile("a.png", small.path, small.size, small.sha256)
        assert await uploads.send(http, picture) == "a.png"
        # Another file of that name stays: ours gets another one.
        (folder / "films" / "a.mp4").write_bytes(b"another")
        other = await uploads.send(http, file)
    assert other != "films/a.mp4"
    assert (folder / "films" / "a.mp4").read_bytes() == b"another"
    assert sha256_of(folder / other) == file.sha256
    assert plain.asked == ["POST upload"]


async def test_how_much_of_the_files_is_there_is_counted_over_all_of_them(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    files = [value_file(tmp_path, b"a" * 3 * 2**20)]
    (tmp_path / "more").mkdir()
    files.append(value_file(tmp_path / "more", b"b" * 100))
    progress = UploadProgress(files, lambda sent, total: told.append((sent, total)))
    async with (
        SandboxServer(directory=tmp_path / "sandbox") as server,
        HttpClient(server.url, name="the sandbox") as http,
    ):
        for file in files:
            await Uploads("the sandbox").send(http, file, progress)
    total = 3 * 2**20 + 100
    assert {of for _, of in told} == {total}
    assert [sent for sent, _ in told] == sorted(sent for sent, _ in told)
    assert (2**20, total) in told
    assert told[-1] == (total, total)


async def test_a_value_is_sent_from_memory_and_named_there(tmp_path: Path) -> None:
    value = encode(np.arange(3 * 2**20, dtype=np.float32), "*")
    async with (
        SandboxServer(directory=tmp_path) as server,
        HttpClient(server.url, name="the sandbox") as http,
    ):
        name = await Uploads("the sandbox").send_value(http, value)
        assert name == value_file_name(value.sha256())
        assert sha256_of(server.directory / "input" / name) == value.sha256()


async def test_a_value_that_is_there_is_not_sent_to_its_end() -> None:
    """Through a tunnel, say, it would take long."""
    value = encode(np.zeros(2**24, np.float32), "*")
    name = value_file_name(value.sha256())
    broken_off = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        try:
            async for _ in request.content.iter_any():
                await asyncio.sleep(0.02)
        except BaseException:
            broken_off.set()
            raise
        return web.json_response({"name": "all of it"})

    async def there(request: web.Request) -> web.Response:
        same = request.match_info["name"] == name and request.query["sha256"] in name
        return web.json_response({"there": same})

    app = web.Application()
    app.router.add_put("/remote/values", slow)
    app.router.add_get("/remote/inputs/{name:.+}", there)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with HttpClient(f"http://127.0.0.1:{runner.addresses[0][1]}", name="the test") as http:
        assert await Uploads("the test").send_value(http, value, at_once=0.01) == name
        await asyncio.wait_for(broken_off.wait(), 60)
    await runner.cleanup()


async def test_a_comfyui_that_takes_no_values_gets_a_file(plain: PlainComfyUI) -> None:
    value = encode(np.zeros(2**22, np.float32), "*")
    async with HttpClient(plain.url, name="the test") as http:
        assert await Uploads("the test").send_value(http, value) is None


async def test_a_value_file_is_sent_once_also_by_another_client(tmp_path: Path) -> None:
    async with SandboxServer(directory=tmp_path / "sandbox") as server:
        file = value_file(tmp_path, b"value" * 2**20)
        for _ in range(2):
            async with HttpClient(server.url, name="the sandbox") as http:
                uploads = Uploads("the sandbox")
                assert await uploads.send(http, file) == file.name
                assert dict(uploads.names) == {(file.name, file.sha256): file.name}
        there = server.directory / "input" / file.name
        there.write_bytes(b"damaged")
        async with HttpClient(server.url, name="the sandbox") as http:
            name = await Uploads("the sandbox").send(http, file)
        assert sha256_of(server.directory / "input" / name) == file.sha256
