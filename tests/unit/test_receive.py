"""Files that arrive over the network: whole under their name, or not there."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from helpers import until

from comfy_remote.errors import LocalStorageError, RequestTooLarge, ValueInvalid
from comfy_remote.media.receive import file_chunks, receive_file

DATA = random.Random(7).randbytes(5 * 1024 * 1024 + 17)
SHA256 = hashlib.sha256(DATA).hexdigest()


async def arriving(data: bytes = DATA, chunk: int = 65_521) -> AsyncIterator[bytes]:
    for start in range(0, len(data), chunk):
        await asyncio.sleep(0)
        yield data[start : start + chunk]


@pytest.mark.parametrize("chunk", [997, 65_521, 10**7])
async def test_a_file_arrives_whole_private_and_hashed(tmp_path: Path, chunk: int) -> None:
    path = tmp_path / "new" / "value.safetensors"
    data = DATA[: chunk * 1000]
    received = await receive_file(arriving(data, chunk), path)
    assert (received.path, received.size) == (path, len(data))
    assert received.sha256 == hashlib.sha256(data).hexdigest()
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o077 == 0
    assert list(path.parent.iterdir()) == [path]


async def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    received = await receive_file(arriving(b""), tmp_path / "empty")
    assert (received.size, (tmp_path / "empty").read_bytes()) == (0, b"")


async def test_what_was_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "value"
    path.write_bytes(b"old")
    with pytest.raises(ValueInvalid, match="SHA-256"):
        await receive_file(arriving(DATA[:-1]), path, sha256=SHA256)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    await receive_file(arriving(), path, sha256=SHA256)
    assert path.read_bytes() == DATA


async def test_a_file_that_somebody_reads_on_windows_stays_if_it_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "value"
    await receive_file(arriving(), path)

    def refused(_source: Path, _target: Path) -> None:
        raise PermissionError(errno.EACCES, "The process cannot access the file")

    monkeypatch.setattr(os, "replace", refused)
    await receive_file(arriving(), path, sha256=SHA256)
    assert path.read_bytes() == DATA
    with pytest.raises(LocalStorageError):
        await receive_file(arriving(DATA[:-1]), path)
    assert list(tmp_path.iterdir()) == [path]


async def test_too_much_is_refused_before_it_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RequestTooLarge):
        await receive_file(arriving(), tmp_path / "value", limit=len(DATA) - 1)
    assert list(tmp_path.iterdir()) == []
    await receive_file(arriving(), tmp_path / "value", limit=len(DATA))


async def test_a_connection_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        async for chunk in arriving(DATA[: 3 * 1024 * 1024]):
            yield chunk
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await receive_file(breaking(), tmp_path / "value")
    assert list(tmp_path.iterdir()) == []


async def test_one_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield DATA
        await asyncio.sleep(60)

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(receive_file(stalling(), tmp_path / "value"), 0.2)
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_cannot_be_made_is_an_error_to_act_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LocalStorageError):
        await receive_file(arriving(), tmp_path / "file" / "value")


async def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(DATA)
    received = await receive_file(file_chunks(sent), tmp_path / "received", sha256=SHA256)
    assert received.path.read_bytes() == DATA
    (tmp_path / "empty").touch()
    assert [chunk async for chunk in file_chunks(tmp_path / "empty")] == []


async def test_an_upload_that_is_given_up_closes_its_file(tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(DATA)
    async with aclosing(file_chunks(sent)) as chunks:
        async for chunk in chunks:
            assert chunk == DATA[: 1024 * 1024]
            break
    with pytest.raises(FileNotFoundError):
        await anext(file_chunks(tmp_path / "none"))


class Slow:
    """A disk that takes its time, and knows whether somebody uses it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running = self.begun = 0
        self._to_thread = asyncio.to_thread
        monkeypatch.setattr("comfy_remote.media.receive.asyncio.to_thread", self._slowly)

    async def _slowly(self, work: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        def later() -> Any:
            self.running += 1
            self.begun += 1
            try:
                time.sleep(0.2)
                return work(*arguments, **more)
            finally:
                self.running -= 1

        return await self._to_thread(later)


async def test_a_file_is_not_closed_while_a_thread_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Slow(monkeypatch)
    task = asyncio.create_task(receive_file(arriving(), tmp_path / "value"))
    while not disk.running:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert disk.running == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_an_upload_that_waits_for_the_disk_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    path = tmp_path / "value"
    path.write_bytes(DATA)
    disk = Slow(monkeypatch)

    async def upload() -> None:
        async with aclosing(file_chunks(path)) as chunks:
            async for _ in chunks:
                pass

    task = asyncio.create_task(upload())
    await until(lambda: disk.begun == at)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if at > 1:  # opened
        assert disk.running == 0
