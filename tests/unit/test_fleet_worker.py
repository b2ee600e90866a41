"""What a fleet's worker has on its machine, and when it ends by itself."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from comfy_remote.errors import ConfigurationError
from comfy_remote.fleet.membership import Membership
from comfy_remote.fleet.slot import MOST_SLOTS, take_slot
from comfy_remote.wire.joined import WORKER_NAME


def test_each_worker_of_a_machine_has_a_slot_and_the_next_takes_it_over(tmp_path: Path) -> None:
    first = take_slot(tmp_path, "fleet", host="attic.lan")
    second = take_slot(tmp_path, "fleet", host="attic.lan")
    assert (first.number, second.number) == (1, 2)
    assert first.name.startswith("fleet.attic-")
    assert first.name.endswith("-1")
    assert first.spool != second.spool
    first.release()
    again = take_slot(tmp_path, "fleet", host="attic.lan")
    assert (again.name, again.spool) == (first.name, first.spool)


def test_a_slot_where_results_wait_comes_first(tmp_path: Path) -> None:
    slots = [take_slot(tmp_path, "fleet", host="attic") for _ in range(3)]
    (slots[2].spool / "results" / slots[2].name / "job.1").mkdir(parents=True)
    for one in slots:
        one.release()
    again = [take_slot(tmp_path, "fleet", host="attic") for _ in range(2)]
    assert [one.number for one in again] == [3, 1]


def test_a_slot_whose_worker_was_killed_comes_before_all(tmp_path: Path) -> None:
    slots = [take_slot(tmp_path, "fleet", host="attic") for _ in range(3)]
    (slots[0].spool / "results" / slots[0].name / "job.1").mkdir(parents=True)
    slots[0].release()
    slots[1].lock.close()  # as the system does when the process is killed
    again = [take_slot(tmp_path, "fleet", host="attic") for _ in range(3)]
    assert [one.number for one in again] == [2, 1, 4]


@pytest.mark.parametrize(
    "host", ["", "...", "Ünïcode host with a very long name", "a" * 300, "10.0.0.7"]
)
def test_a_name_is_one_that_a_gateway_takes(tmp_path: Path, host: str) -> None:
    assert WORKER_NAME.fullmatch(take_slot(tmp_path, "f" * 48, host=host or "-").name)


def test_machines_with_one_host_name_have_other_worker_names(tmp_path: Path) -> None:
    names = {take_slot(tmp_path / str(n), "fleet", host="box").name[:-2] for n in range(20)}
    assert len(names) > 15


def test_a_machine_has_no_more_slots_than_it_may(tmp_path: Path) -> None:
    slots = [take_slot(tmp_path, "fleet") for _ in range(MOST_SLOTS)]
    assert len({one.name for one in slots}) == MOST_SLOTS
    with pytest.raises(ConfigurationError, match="run on this machine"):
        take_slot(tmp_path, "fleet")


def test_the_ports_of_two_slots_are_never_the_same(tmp_path: Path) -> None:
    slots = [take_slot(tmp_path, "fleet") for _ in range(4)]
    ports = [{one.free_port() for _ in range(20)} for one in slots]
    assert sum(map(len, ports)) == len(set().union(*ports))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", slots[1].free_port()))
        assert all(slots[1].free_port() != taken.getsockname()[1] for _ in range(100))


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _watched(answers: list[bool | Exception]) -> tuple[Membership, _Clock, threading.Event]:
    """A membership whose clock goes on by 10 s with each answer."""
    clock, ended = _Clock(), threading.Event()
    left = list(answers)

    def is_member() -> bool:
        clock.now += 10
        answer = left.pop(0) if left else answers[-1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = Membership(is_member, patience=30, every=0.01, end=ended.set, monotonic=clock)
    return watch, clock, ended


@pytest.mark.parametrize("away", [False, OSError("no answer")])
def test_a_worker_whose_machine_is_out_of_the_cluster_ends(away: bool | Exception) -> None:
    watch, clock, ended = _watched([True, True, away])
    watch.start()
    assert ended.wait(20)
    assert clock.now >= 50  # two answers of 10 s, then more than the patience
    watch.stop()


def test_a_question_that_hangs_is_no_membership() -> None:
    clock, ended, hangs = _Clock(), threading.Event(), threading.Event()

    def is_member() -> bool:
        clock.now += 31
        hangs.wait(60)
        return True

    watch = Membership(is_member, patience=30, every=0.01, end=ended.set, monotonic=clock)
    watch.start()
    assert ended.wait(20)
    hangs.set()
    watch.stop()


def test_a_member_works_on() -> None:
    asked = threading.Event()
    count = 0

    def is_member() -> bool:
        nonlocal count
        count += 1
        if count > 20:
            asked.set()
        return True

    ended = threading.Event()
    watch = Membership(is_member, patience=30, every=0.001, end=ended.set)
    watch.start()
    assert asked.wait(20)
    assert not ended.is_set()
    watch.stop()
