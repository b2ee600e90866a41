"""Values that two ComfyUIs of one user on one machine pass by a link, and when they are sent."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from blake3 import blake3
from numpy.typing import NDArray

from comfy_remote.config.folders import shared_values
from comfy_remote.errors import RequestTooLarge, ValueInvalid
from comfy_remote.media import shared_values as module
from comfy_remote.media.received_inputs import InputFolder
from comfy_remote.media.remote_values import ContentHash, keep_value, value_file_name
from comfy_remote.media.shared_values import SharedValues
from comfy_remote.media.values import decode_value, encode
from comfy_remote.media.values.limits import ValueLimits
from comfy_remote.net.http import HttpClient
from comfy_remote.outputs import OutputSource, RemoteOutput
from comfy_remote.sandbox.server import SandboxServer
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.download import download_value

PICTURE = np.arange(48, dtype=np.float32).reshape(1, 4, 4, 3) / 48
LIMITS = ValueLimits()


@pytest.fixture(autouse=True)
def one_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[SandboxServer]:
    async with SandboxServer(directory=tmp_path / "there") as server:
        yield server


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Methods and paths of what is asked of the other side."""
    asked: list[str] = []
    once = HttpClient._once

    async def noted(self: HttpClient, method: str, path: str, *rest: object, **more: object):  # type: ignore[no-untyped-def]
        asked.append(f"{method} {path.partition('?')[0]}")
        return await once(self, method, path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(HttpClient, "_once", noted)
    return asked


def in_passing() -> list[str]:
    """The values that are in the folder, which has a file of 32 bytes to be known by, too."""
    folder = shared_values().glob("*.safetensors")
    return sorted(path.stem for path in folder if path.stat().st_size > 32)


def made_by_an_output(there: SandboxServer, content_hash: ContentHash = "blake3") -> RemoteOutput:
    """A value file as a Remote Output leaves it."""
    temp = there.directory / "temp"
    made = keep_value([PICTURE], "IMAGE", temp, content_hash=content_hash)
    where = {"filename": made.path.name, "subfolder": "comfy_remote", "type": "temp"}
    source = OutputSource(path=f"view?{urlencode(where)}")
    return RemoteOutput("1", "file", made.path.name, "comfy_remote", "temp", source=source)


def picture_in(data: bytearray | memoryview) -> NDArray[np.float32]:
    found = decode_value(data, tensors="numpy").value
    assert isinstance(found, list)
    picture = found[0]
    assert isinstance(picture, np.ndarray)
    return picture


async def test_a_value_for_a_comfyui_of_the_same_user_is_linked(
    there: SandboxServer, requests: list[str]
) -> None:
    value = encode([PICTURE], "IMAGE", as_list=True)
    name = value_file_name(f"blake3-{blake3(b''.join(value.chunks())).hexdigest()}")
    async with ComfyUITarget(there.url) as target:
        for _ in range(2):
            assert await target.put_value(value) == name
    assert (there.directory / "input" / name).read_bytes() == b"".join(value.chunks())
    assert in_passing() == []
    # Once to find out whether both have one folder.
    assert len(requests) == 3
    assert all(one.startswith("GET remote/values/blake3-") for one in requests)


@pytest.mark.parametrize("content_hash", ["blake3", "sha256"])
async def test_a_value_that_a_comfyui_of_the_same_user_made_is_mapped(
    there: SandboxServer, requests: list[str], content_hash: ContentHash
) -> None:
    output = made_by_an_output(there, content_hash)
    async with ComfyUITarget(there.url) as target:
        data = await download_value(target, output, LIMITS)
        again = await download_value(target, output, LIMITS)
    assert [one.partition("/")[0] for one in requests] == ["GET remote", *["POST remote"] * 2]
    assert in_passing() == []
    for arrived in (data, again):
        picture = picture_in(arrived)
        assert np.array_equal(picture, PICTURE)
        picture[:] = 0  # into memory of its own
    kept = there.directory / "temp" / "comfy_remote" / output.filename
    assert np.array_equal(picture_in(bytearray(kept.read_bytes())), PICTURE)


async def test_programs_with_folders_of_their_own_send_values(
    there: SandboxServer, requests: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "comfy_remote.targets.comfyui.target.shared_values", lambda: tmp_path / "another"
    )
    value = encode([PICTURE], "IMAGE", as_list=True)
    async with ComfyUITarget(there.url) as target:
        assert await target.put_value(value) == value_file_name(value.sha256())
        data = await download_value(target, made_by_an_output(there), LIMITS)
    assert np.array_equal(picture_in(data), PICTURE)
    assert requests.count("PUT remote/values") == 1
    assert not [one for one in requests if one.startswith("POST")]
    assert [path.stat().st_size for path in (tmp_path / "another").glob("*.safetensors")] == [32]


async def test_a_disk_without_links_sends_values(
    there: SandboxServer, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_source: Path, _destination: Path) -> None:
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(module, "link_file", cannot)
    value = encode([PICTURE], "IMAGE", as_list=True)
    async with ComfyUITarget(there.url) as target:
        assert await target.put_value(value) == value_file_name(value.sha256())
        data = await download_value(target, made_by_an_output(there), LIMITS)
    assert np.array_equal(picture_in(data), PICTURE)
    assert requests.count("PUT remote/values") == 1


async def test_a_folder_that_cannot_be_used_sends_values(
    there: SandboxServer, tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("a file")
    value = encode([PICTURE], "IMAGE", as_list=True)
    async with ComfyUITarget(there.url) as target:
        assert await target.put_value(value) == value_file_name(value.sha256())


async def test_a_full_disk_is_refused_by_the_other_side_as_always(
    there: SandboxServer, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_FREE_SPACE", "1000TB")
    async with ComfyUITarget(there.url) as target:
        with pytest.raises(RequestTooLarge):
            await target.put_value(encode([PICTURE], "IMAGE", as_list=True))
    assert requests[-1] == "PUT remote/values"
    assert in_passing() == []


async def test_a_value_that_has_gone_is_sent(
    there: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedValues, "take", lambda _self, _sha256: None)
    output = made_by_an_output(there)
    async with ComfyUITarget(there.url) as target:
        data = await download_value(target, output, LIMITS)
    assert np.array_equal(picture_in(data), PICTURE)


async def test_a_mapped_value_has_the_same_limit(there: SandboxServer) -> None:
    async with ComfyUITarget(there.url) as target:
        with pytest.raises(ValueInvalid, match="has more than 100 B"):
            await download_value(target, made_by_an_output(there), ValueLimits(bytes=100))


async def test_only_value_files_come_out_of_the_folder(tmp_path: Path) -> None:
    shared = SharedValues(tmp_path / "shared")
    stem = shared.write(encode("a text"))
    digest = stem.removeprefix("blake3-")
    (tmp_path / "shared" / "mine.safetensors").write_bytes(b"mine")
    folder = InputFolder(tmp_path / "input", shared)
    for other in ("mine", digest, f"../shared/{stem}", f"blake3-{'0' * 64}", f"{stem}/x", ""):
        assert not await folder.has_value(other)
    assert not await folder.has("a.png", digest)
    assert not await folder.has(value_file_name(stem), digest)
    assert not (tmp_path / "input").exists() or not [*(tmp_path / "input").rglob("*.*")]
    assert await folder.has_value(stem)
    assert not await InputFolder(tmp_path / "other").has_value(stem)


async def test_what_is_named_like_a_value_and_is_another_is_not_there(tmp_path: Path) -> None:
    stem = f"blake3-{blake3(b'a value').hexdigest()}"
    path = tmp_path / value_file_name(stem)
    path.parent.mkdir()
    path.write_bytes(b"another")
    assert not await InputFolder(tmp_path).has_value(stem)
    path.write_bytes(b"a value")
    assert await InputFolder(tmp_path).has_value(stem)


async def test_an_older_version_here_asks_by_sha256(tmp_path: Path) -> None:
    shared = SharedValues(tmp_path / "shared")
    sha256 = encode("a text").write_into(tmp_path / "shared").stem
    folder = InputFolder(tmp_path / "input", shared)
    assert not await folder.has(f"elsewhere/{sha256}.safetensors", sha256)
    assert not await folder.has(value_file_name(sha256), "0" * 64)
    assert await folder.has(value_file_name(sha256), sha256)
    assert not await InputFolder(tmp_path / "other").has(value_file_name(sha256), sha256)


async def test_an_older_version_there_gets_values_as_from_elsewhere(
    there: SandboxServer, requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    once = HttpClient._once

    async def older(self: HttpClient, method: str, path: str, *rest: object, **more: object):  # type: ignore[no-untyped-def]
        # It has no such route, and aiohttp says 405 since it has the POST.
        if method == "GET" and path.startswith("remote/values/"):
            path, method = "remote/values", "GET"
        return await once(self, method, path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(HttpClient, "_once", older)
    value = encode([PICTURE], "IMAGE", as_list=True)
    async with ComfyUITarget(there.url) as target:
        for _ in range(2):
            assert await target.put_value(value) == value_file_name(value.sha256())
        data = await download_value(target, made_by_an_output(there, "sha256"), LIMITS)
    assert np.array_equal(picture_in(data), PICTURE)
    assert requests.count("GET remote/values") == 1
    assert requests.count("PUT remote/values") == 2
    assert in_passing() == []


def test_only_value_files_go_into_the_folder(tmp_path: Path) -> None:
    shared = SharedValues(tmp_path / "shared")
    temp, name = tmp_path / "temp", f"blake3-{'0' * 64}"
    for folder in (tmp_path, temp, temp / "comfy_remote"):
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.safetensors").write_bytes(b"mine")
    for other in ("picture", f"../{name}", f"../../{name}", str(tmp_path / name), "0" * 64):
        assert not shared.offer(other, temp)
    assert not (tmp_path / "shared").exists() or not [*(tmp_path / "shared").iterdir()]
    assert shared.offer(name, temp)
    if os.name != "nt":
        assert (tmp_path / "shared").stat().st_mode & 0o077 == 0


def test_what_a_killed_program_left_is_removed(tmp_path: Path) -> None:
    shared = SharedValues(tmp_path)
    mark = shared.mark()
    left, used = shared.write(encode("left")), shared.write(encode("used"))
    for stem in (mark, left):
        old = time.time() - 3600
        os.utime(tmp_path / f"{stem}.safetensors", (old, old))
    assert shared.mark() == mark
    assert shared.take(left) is None
    assert shared.take(used) is not None
    assert shared.take(used) is None
    assert shared.take(mark) is not None
