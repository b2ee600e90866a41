"""Node packs through an endpoint: client → gateway → the RunPod SDK's worker, or one beside it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from nodes_kit import PackServer, environ, needs_uv, pack, pack_server, small_comfyui, small_python
from pydantic import SecretStr

from comfy_remote.errors import NodesUnavailable
from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.targets.nodes import install_packs, list_packs, roll_back_packs
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.wire.nodes import PackWanted
from comfy_remote.worker.engines import Engines
from comfy_remote.worker.settings import WorkerSettings

TOKEN = SecretStr("a-token-for-this-test")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PackServer]:
    needs_uv()
    with pack_server(tmp_path / "origin") as packs:
        yield packs


@pytest.fixture(params=["sdk", "local"])
async def target(
    request: pytest.FixtureRequest, server: PackServer, tmp_path: Path
) -> AsyncIterator[RunPodTarget]:
    comfyui = small_comfyui(tmp_path / "ComfyUI")
    variables = environ(
        COMFYUI_PYTHON=str(small_python(tmp_path / "python")),
        COMFYUI_DIR=str(comfyui),
        COMFY_REMOTE_VOLUME=str(tmp_path / "volume"),
        ALLOW_NODE_INSTALL="true",
        COMFY_REMOTE_NODE_REGISTRY=server.url,
        COMFY_REMOTE_NODE_HOSTS=server.host,
    )
    (tmp_path / "volume").mkdir()
    limits = GatewayLimits(poll_wait=5.0)
    with ExitStack() as engines:
        async with GatewayServer(endpoint_id="ep", token=TOKEN, limits=limits) as gateway:
            if request.param == "sdk":
                pytest.importorskip("runpod")
                entry = [sys.executable, "-m", "comfy_remote.worker.runpod_entry"]
                gateway.add_sdk_worker(entry, environment=variables)
            else:
                folder = tmp_path / "engines"
                chosen = await Engines.choose(folder=folder, environ=variables)
                for one in engines.enter_context(chosen):
                    handler = one.handler(WorkerSettings.from_environ(variables))
                    gateway.add_local_worker(handler, worker_id=one.id)
            assert await gateway.wait_until_ready(110.0)
            base_url = gateway.endpoint_url.rpartition("/")[0]
            async with RunPodTarget("ep", TOKEN, base_url=base_url) as target:
                yield target


async def test_packs_come_to_an_endpoint(server: PackServer, target: RunPodTarget) -> None:
    before = await target.describe()
    assert before.takes_nodes == {"git", "registry"}
    assert before.no_nodes == ""
    assert before.nodes == {}
    (commit,) = server.repository("Things", pack("Thing"))
    wanted = PackWanted(source=server.address("Things"), version=commit, classes=("Thing",))
    said = list[str]()
    done = await install_packs(target, [wanted], said.append)
    assert done.installed == ["Things"]
    after = await target.describe()
    assert after.nodes is not None
    assert set(after.nodes) == {"Thing"}
    assert after.installed is not None
    assert [(one.name, one.commit) for one in after.installed.packs] == [("Things", commit)]
    assert (await list_packs(target)).set == done.set
    (bad,) = server.repository("Bad", pack("Bad", "raise OSError('no such card')"))
    with pytest.raises(NodesUnavailable, match="no such card") as raised:
        await install_packs(
            target, [PackWanted(source=server.address("Bad"), version=bad)], said.append
        )
    assert raised.value.details["pack"] == "Bad"
    assert (await list_packs(target)).set == done.set
    assert (await roll_back_packs(target, said.append)).packs == []
    nothing = await target.describe()
    assert nothing.nodes == {}
