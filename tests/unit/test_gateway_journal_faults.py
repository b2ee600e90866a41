"""What the gateway's journal does when its disk, its file or its process fails."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from gateway_kit import a_job

from comfy_remote.errors import ConfigurationError, LocalStorageError, RateLimited
from comfy_remote.gateway import journal as journal_module
from comfy_remote.gateway.job import Job
from comfy_remote.gateway.journal import Journal
from comfy_remote.gateway.schema import connect
from comfy_remote.wire.runpod import RunPodState

KILLS = Path(__file__).parents[1] / "journal_kills.py"
NOBODY = 65534


def job(job_id: str = "j1", *, size: int = 10, key: str | None = None) -> Job:
    return a_job(job_id, idempotency_key=key, input=b"x" * size)


def started(one: Job) -> Job:
    one.state, one.started, one.worker_id, one.attempt = RunPodState.IN_PROGRESS, 2.0, "w", 1
    return one


async def filled(folder: Path, jobs: int = 200) -> Path:
    """The path of the closed database of a gateway."""
    journal = Journal(folder)
    journal.open()
    await asyncio.gather(*(journal.add(job(f"j{number}", size=2000)) for number in range(jobs)))
    await journal.close()
    return journal.path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the child is forked")
@pytest.mark.timeout(180)
def test_what_was_acknowledged_survives_every_kill(tmp_path: Path) -> None:
    """A process that is killed 60 times, at any moment; its successors find all of it, whole."""
    seed = random.randrange(10**6)
    ran = subprocess.run(
        [sys.executable, str(KILLS), str(tmp_path / "gateway"), "60", str(seed)],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert ran.returncode == 0, f"seed {seed}: {ran.stdout}{ran.stderr}"
    assert json.loads(ran.stdout)["ended"] > 0


async def test_a_killed_gateway_gives_its_folder_back_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from comfy_remote.gateway.journal import Journal\n"
        "Journal(Path(sys.argv[1])).open(); print('open', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"open"
        with pytest.raises(ConfigurationError, match="Another gateway is running"):
            Journal(tmp_path).open()
        process.kill()
        process.wait()
        journal = Journal(tmp_path)
        journal.open()
        await journal.close()


@pytest.mark.parametrize("damage", ["header", "middle", "truncated", "not a database"])
async def test_a_damaged_database_is_named_and_not_touched(tmp_path: Path, damage: str) -> None:
    path = await filled(tmp_path)
    whole = path.read_bytes()
    broken = {
        "header": b"\0" * 200 + whole[200:],
        "middle": whole[: len(whole) // 2] + b"\xff" * 8192 + whole[len(whole) // 2 + 8192 :],
        "truncated": whole[: len(whole) // 2],
        "not a database": b"hello " * 1000,
    }[damage]
    path.write_bytes(broken)

    with pytest.raises(LocalStorageError, match="cannot be used") as refused:
        Journal(tmp_path).open()

    assert str(path) in refused.value.message
    assert "is damaged. Restore it from a backup" in refused.value.advice
    assert path.read_bytes() == broken
    path.write_bytes(whole)  # the backup
    journal = Journal(tmp_path)
    assert len(journal.open().live) == 200
    await journal.close()


async def test_a_row_that_somebody_changed_is_named(tmp_path: Path) -> None:
    path = await filled(tmp_path, 1)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE jobs SET needs = 'nonsense'")
    connection.close()
    with pytest.raises(LocalStorageError, match="cannot be used"):
        Journal(tmp_path).open()


async def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = await filled(tmp_path, 1)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LocalStorageError, match="newer Comfy Remote"):
        Journal(tmp_path).open()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LocalStorageError, match="file"):
        Journal(tmp_path / "file" / "gateway").open()


@pytest.mark.skipif(os.name == "nt", reason="a folder's mode does not matter there")
def test_a_read_only_folder_is_named() -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from comfy_remote.errors import LocalStorageError\n"
        "from comfy_remote.gateway.journal import Journal\n"
        f"if os.geteuid() == 0: os.setuid({NOBODY})  # root may write anywhere\n"
        "try: Journal(Path(sys.argv[1])).open()\n"
        "except LocalStorageError as error: print(error)\n"
    )
    with tempfile.TemporaryDirectory() as name:  # whose parents everybody may enter
        folder = Path(name)
        folder.chmod(0o555)
        ran = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True)
        folder.chmod(0o700)
    assert f"{folder / '.lock'} cannot be locked" in ran.stdout, ran.stdout + ran.stderr
    assert "permissions" in ran.stdout


class Disk:
    """A disk with little room: the database's pages are limited."""

    def __init__(self) -> None:
        self.connections: list[sqlite3.Connection] = []

    def connect(self, path: Path) -> sqlite3.Connection:
        self.connections.append(connect(path))
        return self.connections[-1]

    def limit(self, pages: int) -> None:
        for connection in self.connections:
            connection.execute(f"PRAGMA max_page_count = {pages}")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    small = Disk()
    monkeypatch.setattr(journal_module, "connect", small.connect)
    return small


async def test_a_full_disk_refuses_new_jobs_and_loses_none(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path)
    journal.open()
    first = job("first", key="k")
    await journal.add(first)
    disk.limit(1)  # and no more than there are

    with pytest.raises(RateLimited, match="full") as refused:
        for number in range(100):
            await journal.add(job(f"big{number}", size=4000))
    assert refused.value.details["retry_after"]
    with pytest.raises(RateLimited, match="full"):
        await journal.add(job("later"))
    assert await journal.by_key("k") is not None
    first.more = b"r" * 4000
    first.state, first.finished = RunPodState.COMPLETED, 3.0
    journal.post(first)
    with pytest.raises(LocalStorageError, match="full"):
        await journal.committed()
    assert await journal.find("first") is first
    await journal.look_after()
    assert journal.problem is not None

    disk.limit(10_000)
    await journal.look_after()
    assert journal.problem is None
    await journal.committed()
    assert await journal.add(job("later")) is None
    await journal.close()
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == [
        f"The gateway's database, {journal.path}, cannot be used: database or disk is full. "
        "Check the folder's permissions and the disk's space. New jobs are refused meanwhile.",
        "The gateway's database can be written again.",
    ]

    again = Journal(tmp_path)
    live = [one.id for one in again.open().live]
    assert live[-1] == "later"
    assert f"big{number}" not in live
    found = await again.find("first")
    assert found is not None
    assert (found.state, found.more) == (RunPodState.COMPLETED, b"r" * 4000)
    await again.close()


@pytest.mark.skipif(os.name == "nt", reason="nobody can remove an open file there")
async def test_nothing_is_promised_when_the_folder_has_been_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gateway")
    journal.open()
    one = job()
    await journal.add(one)
    shutil.rmtree(tmp_path / "gateway")
    journal.post(started(one))
    with pytest.raises(LocalStorageError, match="No such file"):
        await journal.committed()
    with pytest.raises(LocalStorageError, match="No such file"):
        await journal.add(job("later"))
    await journal.close()


async def test_what_waits_to_be_written_is_bounded(tmp_path: Path) -> None:
    """Another process writes, and writes: new jobs wait, and then they are refused."""
    journal = Journal(tmp_path, waiting_limit=2**20)
    journal.open()
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    adding = [asyncio.ensure_future(journal.add(job(f"j{n}", size=4096))) for n in range(1000)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    refused = [task for task in adding if task.done()]
    assert 500 < len(refused) < 900
    assert 2**20 < journal.waiting_bytes < 2**20 + 8192
    for task in refused:
        with pytest.raises(RateLimited, match="too slow"):
            task.result()
    other.execute("ROLLBACK")
    other.close()
    answers = await asyncio.gather(*(task for task in adding if task not in refused))
    assert set(answers) == {None}
    assert journal.waiting_bytes == 0
    await journal.close()


async def test_the_log_stays_bounded_while_another_program_reads(tmp_path: Path) -> None:
    limit = 2**20
    journal = Journal(tmp_path, log_limit=limit)
    journal.open()
    log = Path(f"{journal.path}-wal")
    await journal.add(job("first"))
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM jobs").fetchall()

    with pytest.raises(RateLimited, match="long been reading"):
        for number in range(1000):
            await journal.add(job(f"j{number}", size=4096))
    assert limit < log.stat().st_size < 2 * limit
    one = started(job("first"))
    one.number = 1
    journal.post(one)
    await journal.committed()  # what was promised goes on

    other.close()
    await asyncio.sleep(1.1)  # it is tried once a second
    await journal.look_after()
    assert await journal.add(job("later")) is None
    assert log.stat().st_size < limit
    await journal.close()
