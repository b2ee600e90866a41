"""The gateway's files: whole or absent, there while a job needs them, gone afterwards."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import math
import os
import shutil
from collections import namedtuple
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest
import pytest_asyncio
from gateway_kit import Clock, a_job
from sharing import sharing_violations

from comfy_remote.errors import (
    LocalStorageError,
    OutputLost,
    RateLimited,
    RequestTooLarge,
    ValueInvalid,
)
from comfy_remote.gateway.files import FileStore
from comfy_remote.gateway.journal import Journal
from comfy_remote.gateway.limits import GatewayLimits
from comfy_remote.wire.runpod import RunPodState

HOUR = 3600.0
LIMITS = GatewayLimits(free_bytes=0)

Usage = namedtuple("Usage", "total used free")


class Gateway:
    """A journal and its files, as after a start."""

    def __init__(self, folder: Path, limits: GatewayLimits = LIMITS) -> None:
        self.clock = Clock(0.0)
        self.journal = Journal(folder, monotonic=self.clock)
        self.journal.open()
        self.files = FileStore(folder / "files", limits, self.journal)
        self.files.open()

    def there(self) -> list[str]:
        """The files on disk."""
        found = self.files.folder.glob("??/*")
        return sorted(path.name for path in found)


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    made = Gateway(tmp_path)
    yield made
    await made.journal.close()


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def arriving(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_a_content_is_stored_once_under_its_sha256(gateway: Gateway) -> None:
    first, second = await gateway.files.put(b"x" * 5000), await gateway.files.put(b"x" * 5000)

    assert first == second == sha256_of(b"x" * 5000)
    assert gateway.there() == [first]
    assert gateway.files.used == 8192
    assert gateway.files.size(first) == 5000
    assert await gateway.files.read(first) == b"x" * 5000


async def test_the_same_file_from_two_at_once_is_counted_once(gateway: Gateway) -> None:
    content = b"y" * 4096
    sha256 = sha256_of(content)

    sizes = await asyncio.gather(
        gateway.files.receive(sha256, arriving(content[:9], content[9:])),
        gateway.files.receive(sha256, arriving(content)),
        gateway.files.put(content),
    )

    assert sizes == [4096, 4096, sha256]
    assert gateway.files.used == 4096
    assert list((gateway.files.folder / "arriving").iterdir()) == []


async def test_a_damaged_file_is_refused_and_leaves_nothing(gateway: Gateway) -> None:
    with pytest.raises(ValueInvalid, match="SHA-256"):
        await gateway.files.receive(sha256_of(b"right"), arriving(b"wrong"))

    assert gateway.there() == []
    assert list((gateway.files.folder / "arriving").iterdir()) == []
    assert gateway.files.used == 0


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63])
async def test_only_a_sha256_names_a_file(gateway: Gateway, name: str) -> None:
    assert gateway.files.size(name) is None
    assert not gateway.files.stays(name)
    with pytest.raises(OutputLost):
        gateway.files.path(name)
    with pytest.raises(OutputLost):
        await gateway.files.receive(name, arriving(b"x"))


async def test_a_file_above_the_limit_is_refused_as_it_arrives(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, GatewayLimits(free_bytes=0, file_bytes=10))
    taken = []

    async def endless() -> AsyncIterator[bytes]:
        while True:
            taken.append(1)
            yield b"12345"

    with pytest.raises(RequestTooLarge):
        await gateway.files.receive("a" * 64, endless())
    assert len(taken) == 3
    assert gateway.files.used == 0
    with pytest.raises(RequestTooLarge):
        gateway.files.check_file(11)
    gateway.files.check_file(10)
    await gateway.journal.close()


async def test_a_full_store_takes_no_more(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, GatewayLimits(free_bytes=0, store_bytes=8192))
    await gateway.files.put(b"a" * 8192)
    with pytest.raises(RateLimited) as refused:
        gateway.files.check_room(1)
    assert refused.value.details["retry_after"]
    with pytest.raises(RateLimited):
        await gateway.files.receive(sha256_of(b"b"), arriving(b"b"))
    await gateway.journal.close()


async def test_what_is_in_the_database_counts(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, GatewayLimits(free_bytes=0, store_bytes=2 * 2**20))
    gateway.files.check_room(2**20)
    for number in range(50):
        await gateway.journal.add(a_job(f"j{number}", input=b"x" * 32_000))
    await gateway.files.look_after()
    with pytest.raises(RateLimited, match=r"stores 2\.1 MB at most"):
        gateway.files.check_room(2**20)
    for number in range(50):
        ended = a_job(f"j{number}", number=number + 1, state=RunPodState.COMPLETED, forgotten=1.0)
        gateway.journal.post(ended)
    await gateway.journal.committed()
    await gateway.files.look_after()
    gateway.files.check_room(2**20)
    await gateway.journal.close()


async def test_what_is_reserved_on_the_disk_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(tmp_path, GatewayLimits(free_bytes=1000))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 0, 999))
    with pytest.raises(LocalStorageError, match="full"):
        await gateway.files.receive(sha256_of(b"b"), arriving(b"b"))
    await gateway.files.look_after()
    with pytest.raises(RateLimited, match="999 B free"):
        gateway.files.check_room(0)
    assert gateway.there() == []
    await gateway.journal.close()


async def test_a_disk_without_room_is_named_and_nothing_half_stays(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LocalStorageError, match="is full"):
        await gateway.files.put(b"x" * 5000)
    with pytest.raises(LocalStorageError, match="is full"):
        await gateway.files.receive(sha256_of(b"b"), arriving(b"b"))

    assert gateway.there() == []
    assert list((gateway.files.folder / "arriving").iterdir()) == []
    assert gateway.files.used == 0


async def test_an_upload_that_no_job_names_goes_after_an_hour(gateway: Gateway) -> None:
    sha256 = sha256_of(b"b")
    await gateway.files.receive(sha256, arriving(b"b"))
    gateway.clock.now += HOUR - 1
    await gateway.files.look_after()
    assert gateway.files.size(sha256) == 1
    assert gateway.files.stays(sha256), "asked for: an hour more"

    gateway.clock.now += HOUR - 1
    await gateway.files.look_after()
    assert gateway.files.size(sha256) == 1
    gateway.clock.now += 1
    await gateway.files.look_after()
    assert gateway.files.size(sha256) is None
    assert gateway.there() == []
    assert gateway.files.used == 0


async def test_a_file_stays_while_any_job_needs_it(gateway: Gateway) -> None:
    shared = await gateway.files.put(b"shared" * 1000)
    first, second = (
        a_job("j1", input_files=frozenset({shared})),
        a_job("j2", input_files=frozenset({shared})),
    )
    await gateway.journal.add(first)
    await gateway.journal.add(second)
    gateway.clock.now += 2 * HOUR
    await gateway.files.look_after()
    assert gateway.there() == [shared]

    for ended in (first, second):
        assert gateway.there() == [shared]
        ended.state, ended.finished, ended.input_files = RunPodState.COMPLETED, 1.0, frozenset()
        gateway.journal.post(ended)
        await gateway.journal.committed()
        await gateway.files.look_after()
    assert gateway.there() == []


async def test_a_result_goes_with_its_job(gateway: Gateway) -> None:
    result = await gateway.files.put(b"r" * 5000)
    done = a_job("j1", state=RunPodState.COMPLETED, finished=0.0, result=result)
    await gateway.journal.add(done)
    gateway.clock.now += 61.0
    await gateway.files.look_after()
    assert gateway.there() == [result]

    await gateway.journal.expire(gateway.clock.now)
    await gateway.files.look_after()
    assert gateway.there() == []


@pytest.mark.parametrize("moment", range(12))
async def test_a_file_that_a_job_names_while_it_goes_is_not_lost(
    gateway: Gateway, moment: int
) -> None:
    """A job ends, and another one with the same file comes at that moment."""
    shared = sha256_of(b"s")
    await gateway.files.receive(shared, arriving(b"s"))
    first = a_job("j1", input_files=frozenset({shared}))
    await gateway.journal.add(first)
    gateway.clock.now += 2 * HOUR
    await gateway.files.look_after()
    first.state, first.finished, first.input_files = RunPodState.CANCELLED, 1.0, frozenset()
    gateway.journal.post(first)
    await gateway.journal.committed()

    removing = asyncio.ensure_future(gateway.files.look_after())
    for _ in range(moment):
        await asyncio.sleep(0)
    is_here = gateway.files.stays(shared)
    if is_here:  # else the client sends it again
        await gateway.journal.add(a_job("j2", input_files=frozenset({shared})))
    await removing
    await gateway.files.look_after()
    assert gateway.files.stays(shared) is is_here


async def test_a_start_removes_what_is_half_and_gives_an_hour_to_what_nobody_needs(
    tmp_path: Path,
) -> None:
    before = Gateway(tmp_path)
    needed, unnamed = await before.files.put(b"n" * 5000), await before.files.put(b"u" * 5000)
    await before.journal.add(a_job("j1", input_file=needed))
    await before.journal.close()
    half = before.files.folder / "arriving" / "half"
    half.write_bytes(b"half")
    (before.files.folder / needed[:2] / "not ours.txt").write_bytes(b"x")

    after = Gateway(tmp_path)
    assert not half.exists()
    assert after.files.used == 2 * 8192
    after.clock.now += HOUR - 1
    await after.files.look_after()
    assert after.files.size(unnamed) == 5000
    after.clock.now += 1
    await after.files.look_after()
    assert after.there() == sorted([needed, "not ours.txt"])
    assert after.files.used == 8192
    await after.journal.close()


async def test_an_hour_that_was_promised_outlives_a_restart(tmp_path: Path) -> None:
    """Of a file that a job needs meanwhile, the next process does not know that it was promised."""
    before = Gateway(tmp_path)
    sha256 = await before.files.put(b"x" * 5000)
    await before.journal.add(a_job("j1", state=RunPodState.COMPLETED, finished=0.0, result=sha256))
    assert before.files.stays(sha256)
    await before.journal.close()

    after = Gateway(tmp_path)
    for now, is_there in ((HOUR - 1, True), (HOUR + 1, False)):
        after.clock.now = now
        await after.journal.expire(now)
        await after.files.look_after()
        assert (after.files.size(sha256) is not None) is is_there
    await after.journal.close()


async def test_a_file_that_cannot_be_removed_now_is_removed_later(gateway: Gateway) -> None:
    """As on Windows, while somebody reads it."""
    sha256 = await gateway.files.put(b"x" * 5000)
    gateway.clock.now += HOUR
    with sharing_violations(math.inf) as seen:
        await gateway.files.look_after()
    assert gateway.files.size(sha256) == 5000
    assert gateway.files.used == 8192
    assert seen.refused.total() == 1  # without waiting for whoever reads it

    await gateway.files.look_after()
    assert gateway.there() == []
    assert gateway.files.used == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
async def test_nobody_else_on_the_machine_reads_them(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        gateway = Gateway(tmp_path / "gateway")
        await gateway.files.put(b"a result")
        await gateway.files.receive(sha256_of(b"an input"), arriving(b"an input"))
        await gateway.journal.close()
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in (tmp_path / "gateway").rglob("*")}
    modes = {path: mode for path, mode in modes.items() if not path.name.startswith(".lock")}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert (tmp_path / "gateway").stat().st_mode & 0o777 == 0o700


async def test_a_full_disk_is_said_in_the_log_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway(tmp_path, GatewayLimits(free_bytes=2**62))
    for _ in range(3):
        with pytest.raises(RateLimited, match=r"free; 4611686\.0 TB are to stay free"):
            gateway.files.check_room(1)
    assert [one.message.startswith("No job and no file") for one in caplog.records] == [True]
    await gateway.journal.close()
