"""What steers a fleet: broken notes, workers that cannot be made, and its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from comfy_remote.fleet.cluster import HEAD, Node, Unanswered
from comfy_remote.fleet.head import FleetHead
from comfy_remote.fleet.notes import Notes, Unmade
from comfy_remote.fleet.seen import FleetStatus
from comfy_remote.fleet.settings import FleetSettings, GatewaySettings
from comfy_remote.version import __version__


class _Cluster:
    """A cluster whose actors never answer."""

    def __init__(self, *machines: Node) -> None:
        self.machines = list(machines)
        self.left = list[str]()
        self.without = frozenset[str]()
        self.started = 0
        self.ended = list[str]()
        self.changed = threading.Condition()

    def nodes(self) -> list[Node]:
        return self.machines

    def workers(self) -> list[str]:
        return list(self.left)

    def start_worker(self, settings: FleetSettings, leaving: frozenset[str]) -> str:
        with self.changed:
            self.started += 1
            self.without = leaving
            name = f"worker-{settings.digest}-{self.started}"
            self.left.append(name)
            self.changed.notify_all()
        return name

    def unmade(self) -> dict[str, str]:
        return {}

    async def ask(self, name: str, method: str, *arguments: str, patience: float = 0) -> str:
        raise Unanswered(name)

    def end(self, name: str) -> None:
        with self.changed:
            self.ended.append(name)
            self.left = [one for one in self.left if one != name]
            self.changed.notify_all()

    def request(self, workers: int, settings: FleetSettings) -> None:
        pass

    def wait(self, holds: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(holds, 60)


@pytest.fixture
def settings(tmp_path: Path) -> FleetSettings:
    gateway = GatewaySettings(
        url="http://127.0.0.1:9", endpoint="attic", worker_token_file=tmp_path / "token"
    )
    return FleetSettings(gateway=gateway)


@contextmanager
def head(
    settings: FleetSettings, cluster: _Cluster, folder: Path, own_id: str = "a1"
) -> Iterator[FleetHead]:
    before = set(threading.enumerate())
    one = FleetHead(
        settings.model_dump_json(),
        __version__,
        cluster,
        own_id=own_id,
        folder=folder,
        monotonic=lambda: 50 * time.monotonic(),
    )
    (thread,) = (
        each for each in threading.enumerate() if each.name == "fleet head" and each not in before
    )
    try:
        yield one
    finally:
        one.go_down()
        thread.join(60)
    assert not thread.is_alive()


def seen(one: FleetHead) -> FleetStatus:
    return FleetStatus.model_validate_json(one.status())


def test_a_head_ends_by_itself_once_it_is_down(settings: FleetSettings, tmp_path: Path) -> None:
    cluster = _Cluster()
    with head(settings, cluster, tmp_path) as one:
        one.go_down()
        cluster.wait(lambda: HEAD in cluster.ended)


def test_a_head_that_is_made_again_still_goes_down(settings: FleetSettings, tmp_path: Path) -> None:
    Notes(tmp_path / "head.json", 30).go_down("a1")
    again = _Cluster()
    with head(settings, again, tmp_path):
        again.wait(lambda: HEAD in again.ended)
    another = _Cluster()
    with head(settings, another, tmp_path, own_id="a2"):  # of a new `fleet up`
        another.wait(lambda: another.started > 0)
        assert HEAD not in another.ended


@pytest.mark.parametrize("content", ["{", '{"leaving": 3}', "[]", "\x00"])
def test_notes_that_are_broken_are_written_again(
    settings: FleetSettings, tmp_path: Path, content: str
) -> None:
    (tmp_path / "head.json").write_text(content)
    cluster = _Cluster()
    with head(settings, cluster, tmp_path):
        cluster.wait(lambda: cluster.started > 0)
    assert Notes(tmp_path / "head.json", 1).away == settings.workers.away


def test_a_head_steers_on_where_it_cannot_write_and_says_so(
    settings: FleetSettings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in place of a folder")
    cluster = _Cluster()
    with head(settings, cluster, tmp_path / "file") as one:
        cluster.wait(lambda: cluster.started > 0)
        assert "head.json" in seen(one).problem


def test_a_machine_is_left_by_its_name_address_or_id(
    settings: FleetSettings, tmp_path: Path
) -> None:
    attic = Node("abcdef123456", "attic", "10.0.0.2", 1, alive=True)
    cellar = Node("abc999999999", "cellar", "10.0.0.3", 1, alive=True)
    cluster = _Cluster(attic, cellar)
    with head(settings, cluster, tmp_path) as one:
        cluster.wait(lambda: cluster.started == 1)
        while not seen(one).workers:
            time.sleep(0.01)
        assert [one.leave(name) for name in ("nowhere", "abc", "")] == ["", "", ""]
        for name in ("10.0.0.2", "abcdef", "attic"):
            assert one.leave(name) == attic.id
        # A worker that waits for a GPU would wait on for one of that machine.
        cluster.wait(lambda: cluster.started == 2 and len(cluster.ended) == 1)
        assert cluster.without == {attic.id}
        while [each.id for each in seen(one).workers] != cluster.left:
            time.sleep(0.01)
        assert one.leave("attic", "undo") == attic.id
        cluster.wait(lambda: cluster.started == 3 and len(cluster.ended) == 2)
        assert not cluster.without


def test_workers_that_cannot_be_made_are_started_less_and_less_often() -> None:
    now = 0.0
    unmade = Unmade(lambda: now)
    assert unmade.may_start()
    waits = []
    for _ in range(8):
        unmade.note({"worker-1": "10.0.0.2: ModuleNotFoundError: No module named 'comfy_remote'"})
        assert "10.0.0.2: ModuleNotFoundError" in unmade.why
        begun = now
        while not unmade.may_start():
            now += 0.5
        waits.append(now - begun)
    assert waits == sorted(waits)
    assert waits[0] < 4
    assert 60 <= waits[-1] < 62
    now += 200
    unmade.note({})
    assert (unmade.why, unmade.may_start()) == ("", True)
