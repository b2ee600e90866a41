"""An input folder that clients fill over our own route."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from comfy_remote.errors import RequestTooLarge, ValueInvalid, WorkflowInvalid
from comfy_remote.media.received_inputs import InputFolder
from comfy_remote.media.remote_values import value_file_name


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def parts(*contents: bytes) -> AsyncIterator[bytes]:
    for content in contents:
        yield content


async def send(folder: InputFolder, name: str, content: bytes) -> str:
    return await folder.receive(name, sha(content), parts(content[:2], content[2:]))


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


async def test_what_is_sent_is_there_under_its_name(tmp_path: Path) -> None:
    folder = InputFolder(tmp_path)
    assert not await folder.has("a/b.png", sha(b"picture"))
    assert await send(folder, "a/b.png", b"picture") == "a/b.png"
    assert await folder.has("a/b.png", sha(b"picture"))
    assert not await folder.has("a/b.png", sha(b"another"))
    assert files(tmp_path) == ["a/b.png"]
    if os.name != "nt":
        assert (tmp_path / "a/b.png").stat().st_mode & 0o777 == 0o600


async def test_a_value_is_named_by_what_has_arrived(tmp_path: Path) -> None:
    folder = InputFolder(tmp_path)
    name = value_file_name(sha(b"a value"))
    for _ in range(2):
        assert await folder.receive_value(parts(b"a va", b"lue")) == name
        assert files(tmp_path) == [name]
        assert time.time() - (tmp_path / name).stat().st_mtime < 60
        os.utime(tmp_path / name, (0, 0))
    assert await folder.has(name, sha(b"a value"))

    async def broken() -> AsyncIterator[bytes]:
        yield b"another"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await folder.receive_value(broken())
    assert files(tmp_path) == [name]


async def test_another_file_of_that_name_stays(tmp_path: Path) -> None:
    folder = InputFolder(tmp_path)
    await send(folder, "a.png", b"first")
    second = await send(folder, "a.png", b"second")
    assert second != "a.png"
    assert (tmp_path / "a.png").read_bytes() == b"first"
    assert (tmp_path / second).read_bytes() == b"second"
    assert await send(folder, "a.png", b"first") == "a.png"


async def test_a_damaged_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueInvalid):
        await InputFolder(tmp_path).receive("a.png", sha(b"announced"), parts(b"arrived"))
    assert files(tmp_path) == []


async def test_a_broken_connection_leaves_nothing(tmp_path: Path) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield b"begun"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await InputFolder(tmp_path).receive("a.png", sha(b"begun"), breaks())
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a\x00b", "C:/a", "a//b", "", "con"])
async def test_names_that_are_no_plain_relative_ones_are_refused(tmp_path: Path, name: str) -> None:
    folder = InputFolder(tmp_path / "input")
    with pytest.raises(WorkflowInvalid, match="cannot be the name"):
        await send(folder, name, b"content")
    with pytest.raises(WorkflowInvalid, match="cannot be the name"):
        await folder.has(name, sha(b"content"))
    assert files(tmp_path) == []


async def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    try:
        (tmp_path / "input" / "link").symlink_to(tmp_path / "secret")
    except OSError:
        pytest.skip("no links here")
    assert not await InputFolder(tmp_path / "input").has("link", sha(b"secret"))


async def test_value_files_that_nobody_uses_are_removed(tmp_path: Path) -> None:
    folder = InputFolder(tmp_path)
    old, used = value_file_name(sha(b"old")), value_file_name(sha(b"used"))
    for name, content in ((old, b"old"), (used, b"used"), ("comfy_remote/mine.txt", b"mine")):
        await send(folder, name, content)
    long_ago = time.time() - 3 * 24 * 3600
    for name in files(tmp_path):
        os.utime(tmp_path / name, (long_ago, long_ago))
    assert await folder.has(used, sha(b"used"))
    await send(folder, "new.png", b"new")
    assert files(tmp_path) == sorted([used, "comfy_remote/mine.txt", "new.png"])


async def test_a_file_that_changed_is_seen(tmp_path: Path) -> None:
    folder = InputFolder(tmp_path)
    await send(folder, "a.bin", b"one")
    assert await folder.has("a.bin", sha(b"one"))
    (tmp_path / "a.bin").write_bytes(b"other")
    assert not await folder.has("a.bin", sha(b"one"))


async def test_a_file_does_not_fill_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000 + 5))
    monkeypatch.setenv("COMFY_REMOTE_FREE_SPACE", "1000")
    folder = InputFolder(tmp_path)
    with pytest.raises(RequestTooLarge):
        await send(folder, "a.png", b"too many")
    assert files(tmp_path) == []
    assert await send(folder, "a.png", b"a few") == "a.png"
