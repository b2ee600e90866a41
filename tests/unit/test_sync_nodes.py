"""A sync of node packs to a gateway whose worker installs them: planned, carried out, refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from helpers import git
from nodes_kit import PackServer, environ, needs_uv, pack, pack_server, small_comfyui
from sync_kit import LIMITS, TOKEN, sources

from comfy_remote.errors import NodesUnavailable
from comfy_remote.gateway import GatewayServer
from comfy_remote.ready.lock import Lock, LockedPack
from comfy_remote.ready.sync.carrying import Ended, carry_out
from comfy_remote.ready.sync.planning import plan_sync
from comfy_remote.ready.sync.steps import SyncPlan, Way
from comfy_remote.targets.nodes import list_packs
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.node_actions import nodes_of
from comfy_remote.worker.settings import WorkerSettings


@dataclass
class There:
    """Somebody's gateway, and the folder of its ComfyUI."""

    gateway: GatewayServer
    comfyui: Path
    home: Path

    def target(self) -> RunPodTarget:
        return RunPodTarget("ep", TOKEN, base_url=self.gateway.url)

    async def plan(self, lock: Lock) -> SyncPlan:
        async with self.target() as target:
            return await plan_sync(lock, target, sources(self.home))

    async def sync(self, lock: Lock) -> list[Ended]:
        async with self.target() as target:
            plan = await plan_sync(lock, target, sources(self.home))
            return await carry_out(plan, target, sources(self.home), lambda _: None, lambda _: None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PackServer]:
    with pack_server(tmp_path / "origin") as packs:
        yield packs


@pytest.fixture
async def there(server: PackServer, tmp_path: Path) -> AsyncIterator[There]:
    needs_uv()
    comfyui = small_comfyui(tmp_path / "ComfyUI")
    variables = environ(COMFYUI_PYTHON=sys.executable)
    settings = WorkerSettings(
        folder=tmp_path / "worker", worker="box", nodes=server.settings(tmp_path / "nodes")
    )
    engine = Engine.named(str(comfyui), variables, nodes=nodes_of(settings, variables))
    async with GatewayServer(endpoint_id="ep", token=TOKEN, limits=replace(LIMITS)) as gateway:
        gateway.add_local_worker(JobHandler(engine, settings, environ=variables))
        yield There(gateway, comfyui, tmp_path / "mine")
    engine.stop()


def lock_of(*packs: LockedPack) -> Lock:
    return Lock(packs=packs)


async def test_packs_are_installed_and_are_there_afterwards(
    server: PackServer, there: There
) -> None:
    (commit,) = server.repository("Things", pack("Thing Other"))
    server.publish("published", "1.2.0", pack("Published"))
    lock = lock_of(
        LockedPack(url=server.address("Things"), commit=commit, classes=("Thing",)),
        LockedPack(id="published", version="1.2.0", classes=("Published",)),
    )
    ended = await there.sync(lock)
    assert [(one.how, one.error) for one in ended] == [("installed", None)] * 2
    plan = await there.plan(lock)
    assert [(one.item.standing.value, one.way) for one in plan.packs] == [("there", Way.NONE)] * 2
    assert list((there.comfyui / "custom_nodes").iterdir()) == []


async def test_another_version_replaces_only_what_a_sync_has_installed(
    server: PackServer, there: There
) -> None:
    first, second = server.repository("Things", pack("Thing"), pack("Thing New"))
    url = server.address("Things")
    await there.sync(lock_of(LockedPack(url=url, commit=first, classes=("Thing",))))
    newer = lock_of(LockedPack(url=url, commit=second, classes=("New",)))
    (step,) = (await there.plan(newer)).packs
    assert (step.way, step.why.endswith("instead")) == (Way.INSTALL, True)
    (ended,) = await there.sync(newer)
    assert ended.how == "installed"
    theirs = there.comfyui / "custom_nodes/Mine"
    mine, other = server.repository("Mine", pack("Mine"), pack("Mine"))
    subprocess.run(
        ["git", "clone", "--quiet", server.address("Mine"), str(theirs)], check=True, timeout=60
    )
    async with there.target() as target:
        await target.act({"action": "rollback_nodes"})  # and starts it with what is there now
    wanted = lock_of(LockedPack(url=server.address("Mine"), commit=mine, classes=("Mine",)))
    (step,) = (await there.plan(wanted)).packs
    assert (step.way, step.item.standing.value) == (Way.IMPOSSIBLE, "different")
    assert "it is not replaced: update Mine there" in step.why
    assert git(theirs, "rev-parse", "HEAD") == other


async def test_a_pack_that_breaks_comfyui_leaves_what_was_there(
    server: PackServer, there: There
) -> None:
    (good,) = server.repository("Good", pack("Good"))
    (bad,) = server.repository("Bad", pack("Bad", "raise OSError('no such card')"))
    assert (await there.sync(lock_of(LockedPack(url=server.address("Good"), commit=good))))[0].how
    (also,) = server.repository("Also", pack("Also"))
    ended = await there.sync(
        lock_of(
            LockedPack(url=server.address("Bad"), commit=bad, classes=("Bad",)),
            LockedPack(url=server.address("Also"), commit=also),
        )
    )
    first, second = ended
    assert isinstance(first.error, NodesUnavailable)
    assert (first.step.item.name.endswith("Bad"), first.error.details["step"]) == (True, "import")
    assert "since 127.0.0.1" in str(second.error)
    async with there.target() as target:
        assert [one.name for one in (await list_packs(target)).packs] == ["Good"]


async def test_a_pack_without_the_nodes_that_are_needed_does_not_count(
    server: PackServer, there: There
) -> None:
    (commit,) = server.repository("Things", pack("Thing"))
    lock = lock_of(
        LockedPack(url=server.address("Things"), commit=commit, classes=("Thing", "Gone"))
    )
    (ended,) = await there.sync(lock)
    assert ended.error is not None
    assert ended.error.details["step"] == "classes"
    (step,) = (await there.plan(lock)).packs
    assert step.item.standing.value == "missing"


async def test_an_owner_who_has_not_allowed_it_is_named_as_the_reason(
    server: PackServer, tmp_path: Path
) -> None:
    comfyui = small_comfyui(tmp_path / "ComfyUI")
    variables = environ(COMFYUI_PYTHON=sys.executable)
    nodes = server.settings(tmp_path / "nodes", allow=False)
    settings = WorkerSettings(folder=tmp_path / "worker", worker="box", nodes=nodes)
    engine = Engine.named(str(comfyui), variables, nodes=nodes_of(settings, variables))
    async with GatewayServer(endpoint_id="ep", token=TOKEN, limits=replace(LIMITS)) as gateway:
        gateway.add_local_worker(JobHandler(engine, settings, environ=variables))
        there = There(gateway, comfyui, tmp_path / "mine")
        (step,) = (await there.plan(lock_of(LockedPack(id="p", version="1.0.0")))).packs
    engine.stop()
    assert step.way is Way.IMPOSSIBLE
    assert "the worker's owner has not allowed it: a pack is code (ALLOW_NODE" in step.why
