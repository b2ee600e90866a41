"""One output from a real server to a file: resumed, counted, hashed, or not there at all."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from scripted_server import Answer, ScriptedServer

from comfy_remote.errors import (
    LocalStorageError,
    OutputCorrupt,
    OutputLost,
    TargetUnreachable,
    ValueInvalid,
)
from comfy_remote.media.values.limits import ValueLimits
from comfy_remote.net.retry import Backoff
from comfy_remote.outputs import OutputSource, RemoteOutput
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.download import download, download_value

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as made:
        yield made


@pytest.fixture
async def target(server: ScriptedServer) -> AsyncIterator[ComfyUITarget]:
    async with ComfyUITarget(server.url) as made:
        yield made


def _output(size: int | None = len(CONTENT), sha256: str | None = SHA256) -> RemoteOutput:
    source = OutputSource(path="x")
    return RemoteOutput("1", "file", "x.bin", size=size, sha256=sha256, source=source)


class Cutting:
    """Sends ``piece`` bytes more than were asked for last time, then cuts the connection."""

    def __init__(self, piece: int, *, ranges: bool) -> None:
        self.piece = piece
        self.ranges = ranges
        self.offsets: list[int] = []
        self.sent = 0

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        offset = request.http_range.start or 0
        self.offsets.append(offset)
        start = offset if self.ranges else 0
        self.sent = min(len(CONTENT), self.sent + self.piece)
        left = len(CONTENT) - start
        status = 206 if start else 200
        response = web.StreamResponse(status=status, headers={"Content-Length": str(left)})
        await response.prepare(request)
        await response.write(CONTENT[start : self.sent])
        if self.sent < len(CONTENT):
            assert request.transport
            request.transport.close()
        return response


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_cut_download_goes_on_where_it_broke(
    server: ScriptedServer, target: ComfyUITarget, tmp_path: Path, ranges: bool
) -> None:
    cutting = Cutting(30_000, ranges=ranges)  # cut eight times, more than the tries in a row
    server.on("GET /x", cutting)
    pieces: list[int] = []
    here = await download(target, _output(), tmp_path / "0", pieces.append)
    assert here.path.read_bytes() == CONTENT
    assert (here.size, here.sha256) == (len(CONTENT), SHA256)
    assert sum(pieces) == len(CONTENT)
    assert cutting.offsets == sorted(set(cutting.offsets))
    assert len(cutting.offsets) == 9


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_value_arrives_in_memory_and_goes_on_where_it_broke(
    server: ScriptedServer, target: ComfyUITarget, ranges: bool
) -> None:
    cutting = Cutting(30_000, ranges=ranges)
    server.on("GET /x", cutting)
    assert await download_value(target, _output(None, None), ValueLimits()) == CONTENT
    assert len(cutting.offsets) == 9


class Elsewhere(ComfyUITarget):
    local = False


async def test_a_value_from_elsewhere_is_what_its_name_says(server: ScriptedServer) -> None:
    async with Elsewhere(server.url) as target:
        server.on("GET /x", Answer(CONTENT))
        named = replace(_output(None, None), filename=f"{SHA256}.safetensors")
        assert await download_value(target, named, ValueLimits()) == CONTENT
        other = replace(named, filename=f"{'0' * 64}.safetensors")
        with pytest.raises(OutputCorrupt, match="SHA-256"):
            await download_value(target, other, ValueLimits())
        assert server.count("GET /x") == 3  # fetched again once


async def test_a_value_beyond_the_limits_is_not_read_to_its_end(
    server: ScriptedServer, target: ComfyUITarget
) -> None:
    server.on("GET /x", Answer(CONTENT))
    with pytest.raises(ValueInvalid, match=r"x\.bin has more than 1\.0 kB"):
        await download_value(target, _output(None, None), ValueLimits(bytes=1000))


async def test_a_connection_that_brings_nothing_is_given_up(
    server: ScriptedServer, target: ComfyUITarget, tmp_path: Path
) -> None:
    cutting = Cutting(0, ranges=True)
    server.on("GET /x", cutting)
    with pytest.raises(TargetUnreachable):
        await download(target, _output(), tmp_path / "0")
    assert len(cutting.offsets) == 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "sha256", "message"),
    [
        (len(CONTENT) + 1, None, "announced"),
        (len(CONTENT) - 1, None, "announced"),
        (0, None, "announced"),
        (None, "0" * 64, "SHA-256"),
    ],
)
async def test_what_differs_from_the_announcement_does_not_stay(
    server: ScriptedServer,
    target: ComfyUITarget,
    tmp_path: Path,
    size: int | None,
    sha256: str | None,
    message: str,
) -> None:
    server.on("GET /x", Answer(CONTENT))
    with pytest.raises(OutputCorrupt, match=message):
        await download(target, _output(size, sha256), tmp_path / "0")
    assert list(tmp_path.iterdir()) == []
    assert server.count("GET /x") == 2  # fetched anew once


async def test_more_than_was_announced_is_not_read_to_its_end(
    server: ScriptedServer, target: ComfyUITarget, tmp_path: Path
) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 2**16)
        except ConnectionError:
            return response

    server.on("GET /x", endless)
    with pytest.raises(OutputCorrupt, match="at least"):
        await download(target, _output(1000), tmp_path / "0")
    assert list(tmp_path.iterdir()) == []


async def test_an_output_that_is_gone_is_lost(target: ComfyUITarget, tmp_path: Path) -> None:
    with pytest.raises(OutputLost):
        await download(target, _output(), tmp_path / "0")
    assert list(tmp_path.iterdir()) == []


async def test_a_place_that_cannot_be_written(
    server: ScriptedServer, target: ComfyUITarget, tmp_path: Path
) -> None:
    server.on("GET /x", Answer(CONTENT))
    with pytest.raises(LocalStorageError):
        await download(target, _output(), tmp_path / "nowhere" / "0")


class Versioned:
    """Calls what it has by an ``ETag``, and cuts the first answer after ``piece`` bytes."""

    def __init__(self, content: bytes, tag: str | None, piece: int | None = None) -> None:
        self.content, self.tag, self.piece = content, tag, piece
        self.offsets: list[int] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        offset = request.http_range.start or 0
        self.offsets.append(offset)
        headers = {"Content-Length": str(len(self.content) - offset)}
        if self.tag is not None:
            headers["ETag"] = self.tag
        response = web.StreamResponse(status=206 if offset else 200, headers=headers)
        await response.prepare(request)
        if self.piece is None:
            await response.write(self.content[offset:])
        else:
            if not offset:
                await response.write(self.content[: self.piece])
            assert request.transport
            request.transport.close()
        return response


OTHER = bytes(reversed(CONTENT))


async def broken_off(
    server: ScriptedServer,
    target: ComfyUITarget,
    path: Path,
    tag: str | None,
    sha256: str | None = None,
) -> None:
    """A try that got the first 100,000 bytes."""
    server.on("GET /x", Versioned(CONTENT, tag, 100_000))
    with pytest.raises(TargetUnreachable):
        await download(target, _output(None, sha256), path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("tag", "sha256"), [('"one"', None), (None, SHA256)], ids=["etag", "sha256"]
)
async def test_another_try_goes_on_with_what_is_there(
    server: ScriptedServer,
    target: ComfyUITarget,
    tmp_path: Path,
    tag: str | None,
    sha256: str | None,
) -> None:
    await broken_off(server, target, tmp_path / "0", tag, sha256)
    whole = Versioned(CONTENT, tag)
    server.on("GET /x", whole)
    pieces: list[int] = []
    async with ComfyUITarget(server.url) as another_process:
        here = await download(another_process, _output(None, sha256), tmp_path / "0", pieces.append)
    assert here.path.read_bytes() == CONTENT
    assert (here.size, here.sha256) == (len(CONTENT), SHA256)
    assert whole.offsets == [100_000]
    assert sum(pieces) == len(CONTENT)
    assert list(tmp_path.iterdir()) == [here.path]


@pytest.mark.parametrize("tag", ['"two"', None])
async def test_a_part_of_another_version_is_of_no_use(
    server: ScriptedServer, target: ComfyUITarget, tmp_path: Path, tag: str | None
) -> None:
    await broken_off(server, target, tmp_path / "0", '"one"')
    whole = Versioned(OTHER, tag)
    server.on("GET /x", whole)
    pieces: list[int] = []
    here = await download(target, _output(None, None), tmp_path / "0", pieces.append)
    assert here.path.read_bytes() == OTHER
    assert whole.offsets == [100_000, 0]
    assert sum(pieces) == len(OTHER)


async def test_a_file_that_changes_while_it_is_fetched_is_begun_again(
    server: ScriptedServer, target: ComfyUITarget, tmp_path: Path
) -> None:
    server.on("GET /x", Versioned(CONTENT, '"one"', 100_000), Versioned(OTHER, '"two"'))
    here = await download(target, _output(None, None), tmp_path / "0")
    assert here.path.read_bytes() == OTHER


async def test_a_part_of_nobody_knows_what_does_not_stay(
    server: ScriptedServer, target: ComfyUITarget, tmp_path: Path
) -> None:
    for tag in (None, 'W/"weak"'):
        await broken_off(server, target, tmp_path / "0", tag)
        assert list(tmp_path.iterdir()) == []


async def test_a_part_that_turns_out_damaged_is_fetched_anew(
    server: ScriptedServer, target: ComfyUITarget, tmp_path: Path
) -> None:
    await broken_off(server, target, tmp_path / "0", None, SHA256)
    (part,) = tmp_path.glob("*.part")
    part.write_bytes(OTHER[:100_000])
    whole = Versioned(CONTENT, None)
    server.on("GET /x", whole)
    here = await download(target, _output(), tmp_path / "0")
    assert here.path.read_bytes() == CONTENT
    assert whole.offsets == [100_000, 0]


async def test_what_is_complete_is_not_asked_for_again(
    server: ScriptedServer, target: ComfyUITarget, tmp_path: Path
) -> None:
    server.on("GET /x", Answer(CONTENT))
    first = await download(target, _output(), tmp_path / "0")
    assert await download(target, _output(), tmp_path / "0") == first
    assert server.count("GET /x") == 1


async def test_a_file_that_is_just_being_written_is_whole_at_the_second_try(
    server: ScriptedServer, target: ComfyUITarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another ComfyUI with the same output folder has opened a file of this name."""

    def written_meanwhile(*_: object) -> float:
        server.on("GET /x", Answer(CONTENT))
        return 0.0

    monkeypatch.setattr(Backoff, "seconds", written_meanwhile)
    server.on("GET /x", Answer(b""))
    here = await download(target, _output(None), tmp_path / "0")
    assert here.path.read_bytes() == CONTENT
    assert server.count("GET /x") == 2


async def test_an_empty_picture_is_one_that_the_target_does_not_have(
    server: ScriptedServer, target: ComfyUITarget, tmp_path: Path
) -> None:
    server.on("GET /x", Answer(b""))
    with pytest.raises(OutputLost, match="is empty"):
        await download(target, replace(_output(None, None), filename="x.png"), tmp_path / "0")
    assert server.count("GET /x") == 2
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputCorrupt):  # the target says that there is more
        await download(target, _output(), tmp_path / "0")
