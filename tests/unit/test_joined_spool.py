"""The results that a joined worker stores until its gateway has them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from comfy_remote.errors import ConfigurationError, LocalStorageError
from comfy_remote.media.receive import Received
from comfy_remote.worker.joined.spool import Spool, SpoolLimits

ROOMY = SpoolLimits(free=0)


class Clock:
    """Seconds that go by when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(folder: Path, limits: SpoolLimits = ROOMY, clock: Clock | None = None) -> Spool:
    spool = Spool(folder, limits, monotonic=clock or Clock())
    spool.open("desk.token")
    return spool


def made(folder: Path, content: bytes) -> Received:
    path = folder / "made"
    path.write_bytes(content)
    return Received(path, len(content), hashlib.sha256(content).hexdigest())


def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    file = made(tmp_path, b"pixels")
    spool = opened(tmp_path / "spool")
    home, boot = spool.home, spool.boot()
    spool.add_file("desk", "a-1", 2, file)
    spool.add("desk", "a-1", 2, b'{"output":1}')
    spool.close()
    again = opened(tmp_path / "spool")
    (found,) = again.waiting()
    assert (found.worker, found.job, found.attempt) == ("desk", "a-1", 2)
    assert again.result("desk", "a-1", 2) == b'{"output":1}'
    assert [path.read_bytes() for path in again.files("desk", "a-1", 2)] == [b"pixels"]
    assert again.used == len(b"pixels") + len(b'{"output":1}')
    assert again.home == home
    assert again.boot() != boot
    assert again.boot().startswith(f"{home}.")
    again.remove("desk", "a-1", 2)
    assert (again.waiting(), again.used) == ([], 0)
    again.close()
    assert opened(tmp_path / "spool").waiting() == []


def test_outputs_of_a_job_that_did_not_end_go_at_the_next_start(tmp_path: Path) -> None:
    file = made(tmp_path, b"pixels")
    spool = opened(tmp_path / "spool")
    spool.add_file("desk", "a-1", 1, file)
    spool.close()
    again = opened(tmp_path / "spool")
    assert (again.waiting(), again.used) == ([], 0)
    assert not list((tmp_path / "spool").rglob(file.sha256))


def test_two_processes_cannot_have_one_folder(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    program = (
        "import sys; from pathlib import Path\n"
        "from comfy_remote.worker.joined.spool import Spool\n"
        "Spool(Path(sys.argv[1])).open('desk.token')"
    )
    second = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True
    )
    assert "Another worker of this name runs on this machine" in second.stderr
    spool.close()
    third = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True)
    assert third.returncode == 0


def test_results_are_given_up_by_the_time_that_workers_were_up(tmp_path: Path) -> None:
    clock = Clock()
    limits = SpoolLimits(free=0, retention=100.0)
    spool = opened(tmp_path, limits, clock)
    spool.add("desk", "a", 1, b"{}")
    clock.now += 60
    assert spool.give_up_old() == []
    spool.close()
    # A week passes during which nothing runs.
    for path in tmp_path.rglob("result.json"):
        assert path.stat().st_mtime < 1e6  # of the clock above, not of the system
    clock = Clock()
    spool = opened(tmp_path, limits, clock)
    assert spool.give_up_old() == []
    clock.now += 39
    assert spool.give_up_old() == []
    clock.now += 2
    assert [one.job for one in spool.give_up_old()] == ["a"]
    assert spool.waiting() == []


def test_a_full_spool_says_so_and_takes_no_file(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool", SpoolLimits(size=10, free=0))
    assert spool.lack_of_room() == ""
    with pytest.raises(LocalStorageError, match="does not fit"):
        spool.add_file("desk", "a", 1, made(tmp_path, b"x" * 11))
    spool.add("desk", "a", 1, b"x" * 11)  # a result is never refused
    assert "may hold 10 B" in spool.lack_of_room()
    spool.remove("desk", "a", 1)
    assert spool.lack_of_room() == ""


def test_so_many_results_are_room_enough(tmp_path: Path) -> None:
    spool = opened(tmp_path, SpoolLimits(results=2, free=0))
    spool.add("desk", "a", 1, b"{}")
    assert spool.lack_of_room() == ""
    spool.add("desk", "b", 1, b"{}")
    assert "2 results wait" in spool.lack_of_room()
    spool.remove("desk", "a", 1)
    assert spool.lack_of_room() == ""


def test_what_is_reserved_on_the_disk_stays_free(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool", SpoolLimits(free=2**60))
    assert "are reserved" in spool.lack_of_room()
    with pytest.raises(LocalStorageError, match="is full"):
        spool.add_file("desk", "a", 1, made(tmp_path, b"x"))


def test_results_are_not_offered_to_another_gateway(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.add("desk", "a", 1, b"{}")
    spool.close()
    with pytest.raises(ConfigurationError, match="another token"):
        Spool(tmp_path, ROOMY).open("desk.of-another-gateway")
    again = opened(tmp_path)
    again.remove("desk", "a", 1)
    again.close()
    Spool(tmp_path, ROOMY).open("desk.of-another-gateway")


@pytest.mark.parametrize("name", ["clock", "home", "owner"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"nan", b"-1e400", b"x" * 10_000])
def test_a_damaged_note_is_no_obstacle(tmp_path: Path, name: str, content: bytes) -> None:
    opened(tmp_path).close()
    (tmp_path / name).write_bytes(content)
    spool = opened(tmp_path)
    spool.add("desk", "a", 1, b"{}")
    assert spool.clock() >= 0
    assert spool.give_up_old() == []
    assert len(spool.home) == 32
