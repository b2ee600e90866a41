"""Jobs about node packs at a worker, and the engine that starts with what they have brought."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from nodes_kit import PackServer, environ, pack, pack_server, small_comfyui

from comfy_remote.errors import ConfigurationError
from comfy_remote.wire.runpod import error_from_runpod
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.node_actions import nodes_of
from comfy_remote.worker.nodes.requirements import find_uv
from comfy_remote.worker.nodes.settings import NodeSettings
from comfy_remote.worker.runpod_entry import settings_for
from comfy_remote.worker.settings import WorkerSettings


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PackServer]:
    with pack_server(tmp_path / "origin") as packs:
        yield packs


async def silent(_snapshot: dict[str, Any]) -> None:
    """Takes what a worker says of its progress."""


def error_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The error of a job that failed."""
    return error_from_runpod(answer["error"]).to_json()


class Worker:
    """A handler with a small ComfyUI, on a volume that others may share."""

    def __init__(self, server: PackServer, folder: Path, name: str, engine: str = "") -> None:
        comfyui = engine or str(small_comfyui(folder / f"ComfyUI-{name}"))
        variables = environ(COMFYUI_PYTHON=sys.executable)
        settings = WorkerSettings(
            folder=folder / name, worker=name, nodes=server.settings(folder / "volume" / "nodes")
        )
        self.engine = Engine.named(comfyui, variables, nodes=nodes_of(settings, variables))
        self.handler = JobHandler(self.engine, settings, environ=variables)

    async def ask(self, **payload: Any) -> dict[str, Any]:
        return await self.handler("job", {"format": "comfy-remote/1", **payload}, silent)

    async def install(self, server: PackServer, name: str, commit: str, *classes: str) -> Any:
        wanted = {"source": server.address(name), "version": commit, "classes": [*classes]}
        return await self.ask(action="install_nodes", packs=[wanted])

    async def packs(self) -> tuple[list[str], str | None]:
        """Names of its packs, and the set that its engine runs with."""
        said = await self.ask(action="describe")
        return said["packs"], said.get("node_set")

    async def close(self) -> None:
        await self.handler.close()
        self.engine.stop()


@pytest.fixture
async def workers(server: PackServer, tmp_path: Path) -> AsyncIterator[list[Worker]]:
    if find_uv() is None:
        pytest.skip("skipped: no uv")
    both = [Worker(server, tmp_path, name) for name in ("one", "other")]
    yield both
    for worker in both:
        await worker.close()


async def test_a_job_brings_a_pack_and_every_worker_of_the_volume_has_it(
    server: PackServer, workers: list[Worker]
) -> None:
    one, other = workers
    first, second = server.repository("Things", pack("Old"), pack("New"))
    before = await one.ask(action="describe")
    assert {*before["takes_nodes"]} == {"git", "registry"}
    assert before["packs"] == []
    await other.handler.ready()
    done = await one.install(server, "Things", first, "Old")
    assert (done["installed"], done["packs"][0]["commit"]) == (["Things"], first)
    assert await one.packs() == (["Things"], done["set"])
    # The engine of the other one started before, and a job finds it with the new set.
    old_engine = other.engine.pid
    assert await other.packs() == (["Things"], done["set"])
    assert other.engine.pid != old_engine
    said = await other.ask(action="describe")
    (described,) = said["installed"]["packs"]
    assert (described["name"], described["commit"]) == ("Things", first)
    assert described["content"] is not None
    assert (await other.ask(action="nodes"))["set"] == done["set"]
    # The next job of a worker restarts nothing while nothing has changed.
    new_engine = other.engine.pid
    await other.handler.ready()
    assert other.engine.pid == new_engine
    newer = await other.install(server, "Things", second, "New")
    assert newer["packs"][0]["commit"] == second
    back = await one.ask(action="rollback_nodes")
    assert back["set"] == done["set"]
    await other.handler.ready()
    assert await other.packs() == (["Things"], done["set"])


async def test_a_failure_is_the_jobs_and_the_engine_runs_on(
    server: PackServer, workers: list[Worker]
) -> None:
    one, _ = workers
    (good,) = server.repository("Good", pack("Good"))
    done = await one.install(server, "Good", good)
    pid = one.engine.pid
    (bad,) = server.repository("Bad", pack("Bad", "raise OSError('no such card')"))
    failed = await one.install(server, "Bad", bad)
    assert error_of(failed)["code"] == "nodes_unavailable"
    assert error_of(failed)["details"]["pack"] == "Bad"
    assert error_of(failed)["details"]["step"] == "import"
    assert one.engine.pid == pid, "the engine was not touched"
    assert await one.packs() == (["Good"], done["set"])


async def test_a_pack_with_which_only_the_trial_starts_is_taken_back(
    server: PackServer, workers: list[Worker]
) -> None:
    one, other = workers
    (good,) = server.repository("Good", pack("Good"))
    done = await one.install(server, "Good", good)
    top = "import os, sys\nif 'trial' not in str(sys.argv): os._exit(9)"
    (bad,) = server.repository("Bad", pack("Bad", top))
    failed = await one.install(server, "Bad", bad)
    assert error_of(failed)["details"]["step"] == "start"
    assert "but not as this worker starts it" in error_of(failed)["message"]
    for worker in (one, other):
        await worker.handler.ready()
        assert await worker.packs() == (["Good"], done["set"])


async def test_an_engine_that_cannot_start_with_the_set_of_another_worker_has_the_one_before(
    server: PackServer, workers: list[Worker]
) -> None:
    one, other = workers
    (good,) = server.repository("Good", pack("Good"))
    done = await one.install(server, "Good", good)
    top = "import os, sys\nif 'ComfyUI-other' in str(sys.argv): os._exit(9)"
    (bad,) = server.repository("Bad", pack("Bad", top))
    newer = await one.install(server, "Bad", bad)
    assert await one.packs() == (["Bad", "Good"], newer["set"])
    await other.handler.ready()
    assert await other.packs() == (["Good"], done["set"])


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"packs": []}, "name at least one"),
        ({"packs": [{"source": "https://h.example/o/n", "version": "main"}]}, "all 40 digits"),
        ({"packs": [{"source": "words", "version": "latest"}]}, "not a version or all 40"),
        ({"packs": [{"source": "git@h.example:o/n", "version": "a" * 40}]}, "give an id of"),
        ({"packs": [{"source": "https://me:pw@h.example/n", "version": "a" * 40}]}, "give an id"),
        ({"packs": [{"source": "https://h.example/..", "version": "a" * 40}]}, "name of a folder"),
        ({"packs": [{"source": "nul.x", "version": "1.0"}]}, "name of a folder"),
        ({"packs": [{"source": "__pycache__", "version": "1.0"}]}, "name of a folder"),
        ({"packs": [{"source": "words.", "version": "1.0"}]}, "name of a folder"),
        ({"packs": [{"source": "words.DISABLED", "version": "1.0"}]}, "name of a folder"),
        ({"packs": [{"source": "a", "version": "1.0"}, {"source": "A", "version": "1.0"}]}, "two"),
    ],
)
async def test_only_exact_packs_can_be_asked_for(
    server: PackServer, workers: list[Worker], payload: dict[str, Any], words: str
) -> None:
    failed = await workers[0].ask(action="install_nodes", **payload)
    assert error_of(failed)["code"] == "workflow_invalid"
    assert words in error_of(failed)["message"]


async def test_the_sandbox_and_a_comfyui_of_somebody_else_say_why_they_take_none(
    server: PackServer, tmp_path: Path
) -> None:
    sandbox = Worker(server, tmp_path, "sandbox", "sandbox")
    url = await sandbox.engine.ready()
    attached = Worker(server, tmp_path, "attached", url)
    try:
        for worker, words in ((sandbox, "its engine is the sandbox"), (attached, "somebody else")):
            said = await worker.ask(action="describe")
            assert said["takes_nodes"] == []
            assert words in said["no_nodes"]
            failed = await worker.install(server, "Things", "a" * 40)
            assert error_of(failed)["code"] == "configuration"
            assert words in error_of(failed)["message"]
            assert words in (await worker.ask(action="nodes"))["notes"][0]
    finally:
        await attached.close()
        await sandbox.close()


async def test_a_worker_without_uv_and_one_without_git_say_so(
    server: PackServer, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = shutil.which
    without_git = lambda name, *more: None if name == "git" else found(name, *more)  # noqa: E731
    monkeypatch.setattr("comfy_remote.worker.nodes.fetching.shutil.which", without_git)
    assert (await workers[0].ask(action="describe"))["takes_nodes"] == ["registry"]
    monkeypatch.setattr("comfy_remote.worker.node_actions.find_uv", lambda: None)
    said = await workers[0].ask(action="describe")
    assert said["takes_nodes"] == []
    assert "pip install uv" in said["no_nodes"]


def test_what_the_owner_has_set(tmp_path: Path) -> None:
    said = NodeSettings.from_environ(tmp_path, {})
    assert (said.allow, said.folder) == (False, tmp_path / "nodes")
    assert said.registry == "https://api.comfy.org"
    named = {
        "ALLOW_NODE_INSTALL": "true",
        "COMFY_REMOTE_NODES_DIR": str(tmp_path / "n"),
        "COMFY_REMOTE_NODE_REGISTRY": "http://127.0.0.1:4000/",
        "COMFY_REMOTE_NODE_HOSTS": "git.lan:3000",
    }
    said = NodeSettings.from_environ(tmp_path, named)
    assert (said.allow, said.folder) == (True, tmp_path / "n")
    assert said.registry == "http://127.0.0.1:4000"
    assert said.guard.names("git.lan", 3000)
    for name, value in (
        ("ALLOW_NODE_INSTALL", "perhaps"),
        ("COMFY_REMOTE_NODE_REGISTRY", "http://registry.example"),
        ("COMFY_REMOTE_NODE_HOSTS", "http://git.lan"),
    ):
        with pytest.raises(ConfigurationError, match=name):
            NodeSettings.from_environ(tmp_path, {name: value})


@pytest.mark.parametrize("argument", ["--rp_serve_api", "--rp_serve"])
def test_an_api_without_a_login_installs_no_packs(tmp_path: Path, argument: str) -> None:
    environ = {"ALLOW_NODE_INSTALL": "true", "COMFY_REMOTE_WORKER_DIR": str(tmp_path)}
    by_queue = settings_for(["--rp_log_level", "DEBUG"], environ).nodes
    assert by_queue is not None
    assert by_queue.allow
    nodes = settings_for([argument, "--rp_api_host=0.0.0.0"], environ).nodes
    assert nodes is not None
    assert not nodes.allow
    assert "it has no login" in nodes.why_not


def test_packs_that_search_paths_lead_to_are_found(tmp_path: Path) -> None:
    from comfy_remote.worker.nodes.program import node_folders

    comfyui = tmp_path / "ComfyUI"
    for folder in (comfyui / "custom_nodes", tmp_path / "a" / "nodes", tmp_path / "b"):
        folder.mkdir(parents=True)
    (tmp_path / "a" / "paths.yaml").write_text("one:\n  custom_nodes: nodes\ntwo:\n")
    os.environ.pop("NOT_SET", None)
    (tmp_path / "more.yaml").write_text(
        f"x:\n  base_path: {tmp_path}\n  custom_nodes: |\n    b\n    gone\n  loras: l\n"
    )
    (tmp_path / "bad.yaml").write_text("[")
    files = [str(tmp_path / one) for one in ("a/paths.yaml", "bad.yaml", "none.yaml")]
    arguments = ["--extra-model-paths-config", *files, "--cpu"]
    arguments.append(f"--extra-model-paths-config={tmp_path}/more.yaml")
    assert node_folders(comfyui, arguments) == [
        comfyui / "custom_nodes",
        tmp_path / "a" / "nodes",
        tmp_path / "b",
    ]
    # Started as `python ComfyUI/main.py`.
    short = ["--extra-model-paths-config", "a/paths.yaml", "--base-directory", "ComfyUI"]
    assert node_folders(comfyui, short, tmp_path) == [
        comfyui / "custom_nodes",
        tmp_path / "a" / "nodes",
    ]
