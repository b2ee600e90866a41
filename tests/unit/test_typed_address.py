"""An address without ``comfy:``: a ComfyUI, or a Comfy API that turns out to be there."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fake_comfy_api import NO_JOB, PROMPT, FakeComfyApi, refusal
from scripted_server import Answer, ScriptedServer

import comfy_remote
from comfy_remote.config.folders import home
from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.errors import AuthenticationError, TargetNotFound
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.node_pack.target_pool import TargetPool
from comfy_remote.node_pack.trusted_targets import confirm
from comfy_remote.ready.locking import LockPlan, lock_workflows
from comfy_remote.targets.base import RunRequest
from comfy_remote.targets.comfy_api.target import ComfyApiTarget
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.opening import open_target
from comfy_remote.targets.typed_address.memory import AddressMemory
from comfy_remote.workflow.load import parse_workflow

STATS = "GET /system_stats"
UNKNOWN = refusal(404, "not_found")
SYSTEM = Answer({"system": {"comfyui_version": "0.33.0"}, "devices": []})


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test's server may get the same port."""
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path))


@pytest.fixture
async def api() -> AsyncIterator[FakeComfyApi]:
    async with FakeComfyApi() as server:
        yield server


@pytest.fixture
async def comfyui() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.on(STATS, SYSTEM)
        server.on("GET /queue", Answer({"queue_running": [], "queue_pending": []}))
        yield server


def remembered(url: str) -> str | None:
    return AddressMemory(home(), url).read()


async def test_a_comfy_api_is_found_out_used_and_remembered(api: FakeComfyApi) -> None:
    async with Client(api.url, on_interrupt=None) as client:
        assert isinstance(client.target, ComfyApiTarget)
        assert client.target.name == api.url
        assert (await client.target.health()).ready == 1
    assert remembered(api.url) == "comfy"
    asked = len(api.asked)
    async with Client(api.url, on_interrupt=None) as client:
        assert isinstance(client.target, ComfyApiTarget)
        assert len(api.asked) == asked


async def test_a_comfyui_is_asked_once(comfyui: ScriptedServer) -> None:
    for _ in range(2):
        async with Client(comfyui.url, on_interrupt=None) as client:
            assert isinstance(client.target, ComfyUITarget)
            await client.target.health()
    assert comfyui.count(NO_JOB) == 1
    assert remembered(comfyui.url) == "comfyui"


async def test_a_comfyui_that_has_both_is_a_comfyui(comfyui: ScriptedServer) -> None:
    comfyui.on(NO_JOB, UNKNOWN)
    async with open_target(comfyui.url, Configuration(None, {})) as target:
        assert isinstance(target, ComfyUITarget)
    assert remembered(comfyui.url) == "comfyui"


async def test_what_has_changed_is_found_out_by_the_404_that_it_costs(api: FakeComfyApi) -> None:
    AddressMemory(home(), api.url).write("comfyui")
    with pytest.raises(TargetNotFound) as failed:
        async with Client(api.url, on_interrupt=None) as client:
            await client.target.health()
    assert f"comfy:{api.url}" in failed.value.advice and "run it again" in failed.value.advice
    async with Client(api.url, on_interrupt=None) as client:
        assert isinstance(client.target, ComfyApiTarget)
    # And the other way round.
    api.on(NO_JOB, Answer(b"404: Not Found", 404))
    api.on("POST /api/v2/jobs", Answer(b"404: Not Found", 404))
    with pytest.raises(TargetNotFound, match="has no such address") as failed:
        async with Client(api.url, on_interrupt=None) as client:
            await client.target.submit(RunRequest("job", PROMPT))
    assert failed.value.advice == f"{api.url} is a ComfyUI by now: run it again."
    async with Client(api.url, on_interrupt=None) as client:
        assert isinstance(client.target, ComfyUITarget)


async def test_below_a_path_and_behind_a_token(
    api: FakeComfyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key that the settings name for the address is the API's, too."""
    api.on(NO_JOB.replace("/api", "/mount/api"), refusal(401, "unauthorized"))
    settings = TargetSettings(f"{api.url}/mount", key_env="LAB_TOKEN")
    configuration = Configuration(None, {"lab": settings})
    environment = {**os.environ, "LAB_TOKEN": "planted-lab-token"}
    async with open_target("lab", configuration, environment) as target:
        assert isinstance(target, ComfyApiTarget)
        assert target.name == "lab"
        with pytest.raises(AuthenticationError):
            await target.health()
    assert {asked.headers.get("Authorization") for asked in api.asked} == {
        "Bearer planted-lab-token"
    }


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"<html>log in", 401),
        Answer(b"Bad Gateway", 502),
        Answer({"error": {"code": "internal", "message": "no"}}, 500),
        Answer({"detail": "x"}, 200),
    ],
)
async def test_an_answer_that_says_nothing_is_not_remembered(
    comfyui: ScriptedServer, answer: Answer
) -> None:
    comfyui.on(NO_JOB, answer)
    async with open_target(comfyui.url, Configuration(None, {})) as target:
        assert isinstance(target, ComfyUITarget)
    assert remembered(comfyui.url) is None


async def test_nothing_is_remembered_of_an_address_without_a_server() -> None:
    async with ScriptedServer() as server:
        url = server.url
    async with open_target(url, Configuration(None, {})) as target:
        assert isinstance(target, ComfyUITarget)
    assert remembered(url) is None


def test_the_memory_is_bounded_and_forgives_damage(tmp_path: Path) -> None:
    for number in range(502):
        AddressMemory(tmp_path, f"http://host{number}:8188").write("comfyui")
    files = [*(tmp_path / "addresses").iterdir()]
    assert len(files) == 500
    memory = AddressMemory(tmp_path, "http://host501:8188")
    assert memory.read() == "comfyui"
    [path] = [one for one in files if b"//host501:" in one.read_bytes()]
    for damaged in (b"", b"[]", b"{", json.dumps({"url": "http://other", "speaks": "comfy"})):
        path.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
        assert memory.read() is None
    memory.write("comfy")
    os.utime(path, (1.0, 1.0))
    assert memory.read() is None


async def test_a_page_that_stays_open_goes_on_with_what_is_there(
    api: FakeComfyApi, tmp_path: Path
) -> None:
    AddressMemory(home(), api.url).write("comfyui")
    confirm(api.url)
    with Record(tmp_path) as record:
        pool = TargetPool(record)
        before = await pool.client(api.url)
        assert isinstance(before.target, ComfyUITarget)
        with pytest.raises(TargetNotFound, match="has no such address") as failed:
            await before.target.health()
        assert (
            failed.value.advice
            == f"{api.url} is a Comfy API (comfy:{api.url}) by now: run it again."
        )
        after = await pool.client(api.url)
        assert isinstance(after.target, ComfyApiTarget)
        assert (await after.target.health()).ready == 1
        assert await pool.client(api.url) is after
        # And back.
        api.on(NO_JOB, Answer(b"404: Not Found", 404))
        with pytest.raises(TargetNotFound) as failed:
            await after.target.health()
        assert failed.value.advice == f"{api.url} is a ComfyUI by now: run it again."
        assert isinstance((await pool.client(api.url)).target, ComfyUITarget)
        await pool.close()


async def test_what_was_opened_in_its_place_is_closed_with_it(api: FakeComfyApi) -> None:
    """`doctor` and `check` open a target so; its errors came out as a RuntimeError."""
    gone = Answer(b"404: Not Found", 404)
    with pytest.raises(TargetNotFound):
        async with open_target(api.url, Configuration(None, {})) as target:
            assert isinstance(target, ComfyApiTarget)
            api.on(NO_JOB, gone)
            await target.health()
    with pytest.raises(RuntimeError, match="outside"):
        await target.health()


async def test_who_opens_a_target_goes_on_with_what_that_gives(api: FakeComfyApi) -> None:
    plan = LockPlan(on=api.url, offline=True)
    made = await lock_workflows([parse_workflow(PROMPT)], ["x.json"], plan, say=lambda _: None)
    assert made.where == api.url
    forgotten = []
    for path in Path(comfy_remote.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for item in node.items if isinstance(node, ast.AsyncWith) else ():
                opened = ast.unparse(item.context_expr).rpartition(".")[2]
                if opened == "target" and item.optional_vars is None:
                    forgotten.append(f"{path.name}:{item.context_expr.lineno}")
    assert forgotten == []
