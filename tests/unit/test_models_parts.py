"""A large model comes in parts at once, and is what it would be in one stream, whatever its server
does.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from model_server import File, ModelServer, safetensors, sha256
from models_kit import endpoints, ensure, files_in, settings_for

from comfy_remote.errors import ModelUnavailable
from comfy_remote.worker.models.library import ModelLibrary
from comfy_remote.worker.models.parts import PartLimits

PART = 100_000
LIMITS = PartLimits(size=PART, at_once=4, in_all=6)
# No two parts of it are alike.
MODEL = safetensors(1_000_000, fill=random.Random(1).randbytes(1_000_000))
OTHER = safetensors(1_000_000, fill=random.Random(2).randbytes(1_000_000))
WHOLE = {"loras/a.safetensors": MODEL}

pytestmark = pytest.mark.usefixtures("quick_retries")


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


def library(root: Path, server: ModelServer, **changes: object) -> ModelLibrary:
    return ModelLibrary(settings_for(root, server, **changes), part_limits=LIMITS)


def line(server: ModelServer, more: str = "") -> str:
    return f"lora {server.url}/a.safetensors {more}"


def ranges(server: ModelServer, path: str = "/a.safetensors") -> list[tuple[int, int | None]]:
    """What was asked for; without an end where all the rest was."""
    asked = [one for one in server.asked if one.path == path and not one.probe]
    wanted = [one.headers.get("Range", "bytes=0-").removeprefix("bytes=") for one in asked]
    pairs = [text.partition("-") for text in wanted]
    return [(int(first), int(last) if last else None) for first, _, last in pairs]


async def test_parts_are_fetched_at_once_each_once(server: ModelServer, tmp_path: Path) -> None:
    running, most = 0, 0
    as_many_as_may = asyncio.Event()

    async def count(request: web.Request) -> None:
        nonlocal running, most
        if request.headers.get("Range") != "bytes=0-0":
            running += 1
            most = max(most, running)
            if running == LIMITS.at_once:
                as_many_as_may.set()
            await as_many_as_may.wait()
            await asyncio.sleep(0.02)
            running -= 1

    server.files["/a.safetensors"] = File(MODEL, on_request=count)
    said: list[str] = []
    await ensure(library(tmp_path, server), line(server), said)
    assert files_in(tmp_path) == WHOLE
    assert most == LIMITS.at_once
    expected = [(at, min(at + PART, len(MODEL)) - 1) for at in range(0, len(MODEL), PART)]
    assert sorted(ranges(server)) == expected
    assert any("1.0 MB/1.0 MB" in words for words in said)


async def test_a_small_model_comes_in_one_stream(server: ModelServer, tmp_path: Path) -> None:
    small = safetensors(2 * PART)
    server.files["/a.safetensors"] = File(small)
    await ensure(library(tmp_path, server), line(server))
    assert ranges(server) == [(0, None)]


@pytest.mark.parametrize(
    "file",
    [
        File(MODEL, ranges=False),
        File(MODEL, etag=""),  # nothing would tell one version's part from another's
        File(MODEL, sized=False, ranges=False, etag=""),
    ],
    ids=["no ranges", "no version", "no size"],
)
async def test_a_server_that_cannot_do_it_is_asked_for_one_stream(
    server: ModelServer, tmp_path: Path, file: File
) -> None:
    server.files["/a.safetensors"] = file
    await ensure(library(tmp_path, server), line(server))
    assert files_in(tmp_path) == WHOLE
    assert ranges(server) == [(0, None)]


async def test_a_part_whose_connection_breaks_is_continued_alone(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = File(MODEL, cuts=[60_000, 50_000])
    await ensure(library(tmp_path, server), line(server))
    assert files_in(tmp_path) == WHOLE
    asked = sum((last or 0) - first + 1 for first, last in ranges(server))
    assert None not in [last for _, last in ranges(server)]
    assert len(MODEL) < asked < len(MODEL) + 2 * PART


def other_range(_request: web.Request, start: int, end: int) -> web.Response:
    """The part before the one that was asked for, and it says so."""
    return answer(max(0, start - PART), max(PART, end - PART))


def whole_as_part(_request: web.Request, start: int, end: int) -> web.Response:
    """More than was asked for."""
    return answer(start, len(MODEL), f"bytes {start}-{end - 1}/{len(MODEL)}")


def nothing(_request: web.Request, start: int, end: int) -> web.Response:
    """Not one byte of what it says it sends."""
    return answer(start, start, f"bytes {start}-{end - 1}/{len(MODEL)}")


def wrong_bytes(_request: web.Request, start: int, end: int) -> web.Response:
    """Always the file's beginning, whatever it says."""
    return answer(0, end - start, f"bytes {start}-{end - 1}/{len(MODEL)}")


def no_part(_request: web.Request, start: int, end: int) -> web.Response:
    """The whole file, with 200, though it sent a part when it was probed."""
    del start, end
    return web.Response(body=MODEL, headers={"ETag": '"one"'})


def refused(_request: web.Request, start: int, end: int) -> web.Response:
    """As a server that lets one connection in."""
    del start, end
    return web.Response(status=403)


def busy(_request: web.Request, start: int, end: int) -> web.Response:
    """As a server that counts requests."""
    del start, end
    return web.Response(status=429, headers={"Retry-After": "0"})


def answer(start: int, end: int, says: str = "") -> web.Response:
    return web.Response(
        status=206,
        body=MODEL[start:end],
        headers={
            "ETag": '"one"',
            "Content-Range": says or f"bytes {start}-{end - 1}/{len(MODEL)}",
        },
    )


Lie = Callable[[web.Request, int, int], web.Response]


@pytest.mark.parametrize("after", [0, 350_000], ids=["from the start", "in the middle"])
@pytest.mark.parametrize(
    "lie", [other_range, whole_as_part, nothing, wrong_bytes, no_part, refused, busy]
)
async def test_a_server_that_lies_about_parts_still_gives_the_model(
    server: ModelServer, tmp_path: Path, lie: Lie, after: int
) -> None:
    async def lies(request: web.Request) -> web.StreamResponse | None:
        first, _, last = request.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not last or last == "0" or int(first) < after:
            return None
        return lie(request, int(first), int(last) + 1)

    server.files["/a.safetensors"] = File(MODEL, on_request=lies)
    await ensure(library(tmp_path, server), line(server, f"sha256={sha256(MODEL)}"))
    assert files_in(tmp_path) == WHOLE


async def test_parts_of_which_nothing_says_the_version_are_not_mixed(
    server: ModelServer, tmp_path: Path
) -> None:
    """A server whose parts have no tag, and whose file changes: no hash would show it."""

    async def changes(request: web.Request) -> web.StreamResponse | None:
        first, _, last = request.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if not last or last == "0":
            return None
        content = MODEL if len(server.asked) < 6 else OTHER
        end = int(last) + 1
        return web.Response(
            status=206,
            body=content[int(first) : end],
            headers={"Content-Range": f"bytes {first}-{last}/{len(content)}"},
        )

    server.files["/a.safetensors"] = File(OTHER, on_request=changes)
    await ensure(library(tmp_path, server), line(server))
    assert files_in(tmp_path) == {"loras/a.safetensors": OTHER}


async def test_a_model_that_is_wrong_in_one_stream_as_well_is_refused(
    server: ModelServer, tmp_path: Path
) -> None:
    server.files["/a.safetensors"] = File(OTHER)
    with pytest.raises(ModelUnavailable, match="its SHA-256 is"):
        await ensure(library(tmp_path, server), line(server, f"sha256={sha256(MODEL)}"))
    assert files_in(tmp_path) == {}
    assert ranges(server)[-1] == (0, None)


async def test_a_file_that_changes_in_between_is_the_new_one_whole(
    server: ModelServer, tmp_path: Path
) -> None:
    file = server.files["/a.safetensors"] = File(MODEL)

    async def change(request: web.Request) -> None:
        if len(server.asked) == 6:
            file.content, file.etag = OTHER, '"two"'

    file.on_request = change
    await ensure(library(tmp_path, server), line(server))
    assert files_in(tmp_path) == {"loras/a.safetensors": OTHER}


async def test_parts_are_asked_of_the_storage_and_of_the_site_when_its_address_expires(
    server: ModelServer, tmp_path: Path
) -> None:
    served = 0

    async def expire(request: web.Request) -> web.StreamResponse | None:
        nonlocal served
        assert "Authorization" not in request.headers
        served += request.headers.get("Range") != "bytes=0-0"
        return web.Response(status=403) if served == 6 else None

    server.files["/storage"] = File(MODEL, on_request=expire)
    path = "/org/repo/resolve/main/a.safetensors"
    server.redirects[path] = (
        f"{server.url.replace('127.0.0.1', 'localhost')}/storage",
        {"X-Linked-Size": str(len(MODEL)), "X-Linked-Etag": f'"{sha256(MODEL)}"'},
    )
    port = server.host.partition(":")[2]
    hosts = frozenset({server.host, f"localhost:{port}"})
    models = library(tmp_path, server, **{**endpoints(server), "hosts": hosts})
    await ensure(models, f"lora {server.url}/org/repo/blob/main/a.safetensors")
    assert files_in(tmp_path) == WHOLE
    at_site = [one for one in server.asked if one.path == path and not one.probe]
    assert len(at_site) < len(ranges(server, "/storage"))
    assert all(one.headers["Authorization"] for one in at_site)


_FETCH = """
import asyncio, sys
from pathlib import Path
from comfy_remote.wire.repo_list import parse_repo_list
from comfy_remote.worker.models.library import ModelLibrary
from comfy_remote.worker.models.parts import PartLimits
from comfy_remote.worker.models.settings import ModelSettings

root, host = Path(sys.argv[1]), sys.argv[2]
settings = ModelSettings(folder=root, volume=root / "none", hosts=frozenset({host}))
library = ModelLibrary(settings, part_limits=PartLimits(size=100_000, at_once=4, in_all=6))
lines = parse_repo_list(f"lora http://{host}/a.safetensors")
asyncio.run(library.ensure(lines, lambda _: None))
"""


async def test_what_a_killed_worker_had_is_continued(server: ModelServer, tmp_path: Path) -> None:
    file = server.files["/a.safetensors"] = File(MODEL, slow=0.2)
    killed = subprocess.Popen([sys.executable, "-c", _FETCH, str(tmp_path), server.host])
    deadline = time.monotonic() + 60
    here = 0
    try:
        while here < PART:
            assert killed.poll() is None
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
            found = [*(tmp_path / "loras").glob(".comfy-remote-*.part")]
            here = found[0].stat().st_size if found else 0
    finally:
        killed.kill()
        killed.wait()
    here = found[0].stat().st_size
    assert here < len(MODEL)
    file.slow = 0.0
    await server.forget_asked()
    await ensure(library(tmp_path, server), line(server))
    assert files_in(tmp_path) == WHOLE
    assert min(ranges(server))[0] == here
    assert sum((last or 0) - first + 1 for first, last in ranges(server)) == len(MODEL) - here
