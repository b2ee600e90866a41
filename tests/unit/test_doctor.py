"""The doctor: what it looks at, what it says when that is wrong, and how the command ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fake_comfyui import FakeComfyUI
from fake_target import FakeTarget
from owner import configure
from scripted_server import Answer, ScriptedServer

from comfy_remote.config.folders import home
from comfy_remote.jobs.doctor import Finding, examine

KEY = "planted-doctor-key-77"
STATS = {"system": {"comfyui_version": "0.33.0"}, "devices": [{"name": "cuda:0 RTX 4090"}]}
NODES = {
    "EmptyImage": {"input": {"required": {}}, "output": ["IMAGE"]},
    "SaveImage": {"input": {"required": {"images": ["IMAGE"]}}, "output_node": True, "output": []},
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("RUNPOD_API_KEY", "RUNPOD_ENDPOINT_BASE_URL", "RUNPOD_API_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


async def findings(
    on: str | None = None, workflow: Path | None = None, **environment: str
) -> dict[str, Finding]:
    """By what was looked at; of several, the last."""
    environment = {"PATH": "", "COMFY_REMOTE_HOME": str(home()), **environment}
    found = [f async for f in examine(on, workflow, environment=environment)]
    assert KEY not in json.dumps([one.to_json() for one in found])
    return {one.check: one for one in found}


def comfyui(server: FakeComfyUI, stats: object = STATS) -> FakeComfyUI:
    server.on("GET /system_stats", Answer(stats))
    server.on("GET /object_info", Answer(NODES))
    for name, node in NODES.items():
        server.on(f"GET /object_info/{name}", Answer({name: node}))
    return server


def workflow(folder: Path, class_type: str = "EmptyImage") -> Path:
    path = folder / "w.json"
    prompt = {
        "1": {"class_type": class_type, "inputs": {}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
    }
    prompt["2"]["_meta"] = {"title": "${PROMPT} ${IMAGE_ID}"}
    path.write_text(json.dumps(prompt))
    return path


async def test_a_comfyui_that_is_well(tmp_path: Path) -> None:
    async with FakeComfyUI() as server:
        found = await findings(comfyui(server).url, workflow(tmp_path))
    assert {one.check: one.status for one in found.values()} == dict.fromkeys(
        [
            *("installation", "record", "configuration", "target", "connection", "comfyui"),
            *("device", "latency", "socket", "queue", "workflow"),
        ],
        "ok",
    )
    assert found["device"].message == "cuda:0 RTX 4090."
    assert 0 < found["latency"].details["seconds"] < 1


async def test_a_comfyui_that_is_old_slow_of_mind_and_without_a_socket() -> None:
    old = {"system": {"comfyui_version": "0.3.10"}, "devices": [{"name": "cpu"}]}
    async with FakeComfyUI() as server:
        comfyui(server, old).on("GET /ws", Answer("no", 403))
        server.start("a")
        server.wait_in_queue("b")
        found = await findings(server.url)
    statuses = {one.check for one in found.values() if one.status == "warning"}
    assert statuses == {"comfyui", "device", "socket"}
    assert "1 running, 1 waiting" in found["queue"].message


async def test_a_node_that_is_missing(tmp_path: Path) -> None:
    async with FakeComfyUI() as server:
        server.on("GET /object_info/Rare", Answer({}))
        found = await findings(comfyui(server).url, workflow(tmp_path, "Rare"))
    assert found["workflow"].status == "problem"
    assert "Rare" in found["workflow"].message
    assert found["workflow"].exit_status == 4


@pytest.mark.usefixtures("quick_retries")
async def test_a_workflow_that_is_not_there_is_told_first(tmp_path: Path) -> None:
    found = [
        one async for one in examine("http://127.0.0.1:9", tmp_path / "no.json", environment={})
    ]
    problems = [one.check for one in found if one.status == "problem"]
    assert problems == ["workflow", "connection"]
    assert [one.check for one in found].index("workflow") < 2


async def test_the_default_target_is_marked_where_it_stands() -> None:
    async with FakeComfyUI() as server:
        url = comfyui(server).url
        named = f'[targets.a]\ntarget = "{url}"\n[targets.b]\ntarget = "{url}"\n'
        configure(home(), f'default = "b"\n{named}')
        found = await findings("a")
    assert found["configuration"].message.startswith("Targets: a, b (default); from ")


async def test_the_memory_of_its_gpu() -> None:
    gpu = {"name": "cuda:0 RTX 4090", "vram_total": 25_393_692_672, "vram_free": 1_200_000_000}
    async with FakeComfyUI() as server:
        found = await findings(comfyui(server, {**STATS, "devices": [gpu]}).url)
    assert found["device"].message == "cuda:0 RTX 4090, 25.4 GB of memory, 1.2 GB free."
    assert found["device"].details["memory_free"] == 1_200_000_000


@pytest.mark.usefixtures("quick_retries")
async def test_nobody_there() -> None:
    found = await findings("http://127.0.0.1:9")
    assert found["connection"].status == "problem"
    assert found["connection"].exit_status == 3
    assert "latency" not in found


async def test_a_token_that_only_sync_needs() -> None:
    async with FakeComfyUI() as server:
        url = comfyui(server).url
        configure(home(), f'[targets.box]\ntarget = "{url}"\nsync_token_env = "BOX_SYNC_TOKEN"\n')
        found = await findings("box")
        assert found["key"].status == "warning"
        assert "jobs run without it, but sync brings nothing there" in found["key"].message
        assert found["connection"].status == "ok"
        assert (await findings("box", BOX_SYNC_TOKEN=KEY))["key"].status == "ok"


async def test_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    health = {"jobs": {"inProgress": 0, "inQueue": 3}, "workers": {"idle": 0, "running": 0}}
    async with ScriptedServer() as server:
        monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", f"{server.url}/v2")
        server.on("GET /v2/abc/health", Answer(health))
        keyed = {"RUNPOD_API_KEY": KEY, "RUNPOD_ENDPOINT_BASE_URL": f"{server.url}/v2"}
        found = await findings("runpod:abc", **keyed)
        assert found["key"].message == "RUNPOD_API_KEY is set."
        assert found["workers"].status == "warning"
        assert "No worker is up" in found["workers"].message
        unknown = await findings("runpod:other", **keyed)
        assert "no endpoint 'other'" in unknown["connection"].message


async def test_an_app_on_modal(tmp_path: Path) -> None:
    health = {"jobs": {"inProgress": 0, "inQueue": 3}, "workers": {"idle": 0, "running": 0}}
    async with ScriptedServer() as server:
        configure(
            tmp_path / "home", f'[targets.x]\ntarget = "modal:abc"\nbase_url = "{server.url}"\n'
        )
        server.on("GET /v2/abc/health", Answer(health))
        found = await findings("x")
        assert found["workers"].status == "warning"
        assert "modal.com/apps" in found["workers"].advice
        assert "RunPod" not in found["workers"].advice


async def test_an_endpoint_without_a_key() -> None:
    found = await findings("runpod:abc")
    assert found["key"].status == "problem"
    assert "API Keys" in found["key"].advice
    assert found["key"].exit_status == 2
    assert [one.check for one in found.values() if one.status == "problem"] == ["key"]


@pytest.mark.parametrize(
    ("pod", "status", "says"),
    [
        ({"id": "abc123xyz90", "status": "RUNNING", "ports": ["8188/http"]}, "ok", "runs"),
        ({"id": "abc123xyz90", "status": "EXITED"}, "problem", "not running"),
        ({"id": "abc123xyz90", "status": "RUNNING", "ports": ["22/tcp"]}, "problem", "8188"),
        ({"id": "someoneelse", "status": "RUNNING"}, "warning", "does not list"),
    ],
)
@pytest.mark.parametrize("address", ["pod:abc123xyz90", "abc123xyz90-8188.proxy.runpod.net"])
async def test_a_pod(
    pod: dict, status: str, says: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only RunPod is asked here, not the pod.
    monkeypatch.setattr("comfy_remote.jobs.doctor.open_target", lambda *_, **__: FakeTarget())
    async with ScriptedServer() as server:
        server.on("GET /v2/pods", Answer({"pods": [pod]}))
        found = await findings(address, RUNPOD_API_KEY=KEY, RUNPOD_API_BASE_URL=server.url)
    assert found["pod"].status == status
    assert says in found["pod"].message


async def test_a_configuration_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "comfy-remote.toml").write_text("[targets.x]\napi_key = 1\n")
    found = await findings()
    assert found["configuration"].status == "problem"
    assert "target" not in found


@pytest.mark.usefixtures("quick_retries")
def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from comfy_remote.cli.main import main

    def ended(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["comfy-remote", "doctor", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), capsys.readouterr().out

    status, out = ended("--on", "127.0.0.1:9")
    assert status == 3
    assert "PROBLEM  connection" in out
    status, out = ended("--on", "nonsense", "--json")
    assert status == 2
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[-1]["check"] == "target"
    assert lines[-1]["status"] == "problem"


async def test_a_damaged_store_of_trust_is_reported(tmp_path: Path) -> None:
    assert "trust" not in await findings("sandbox")
    (tmp_path / "home" / "trust.sqlite3").write_bytes(b"not a database" * 100)
    found = (await findings("sandbox"))["trust"]
    assert found.status == "warning"
    assert "trust.sqlite3 cannot be used" in found.message


async def test_what_an_hour_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfy_remote.jobs.doctor.open_target", lambda *_, **__: FakeTarget())
    endpoint = {"id": "abc", "gpu": {"pools": ["ADA_24"]}, "workers": {"min": 1, "max": 3}}
    gpu = {"id": "NVIDIA GeForce RTX 4090", "pool": "ADA_24", "price": {"serverless": 1.1}}
    async with ScriptedServer() as server:
        keys = {"RUNPOD_API_KEY": KEY, "RUNPOD_API_BASE_URL": server.url}
        server.on("GET /v2/catalog/gpus", Answer({"gpus": [gpu]}))
        unknown = (await findings("runpod:abc", **keys))["price"]
        server.on("GET /v2/serverless/abc", Answer({"detail": "no"}, 403))
        refused = (await findings("runpod:abc", **keys))["price"]
        server.on("GET /v2/serverless/abc", Answer(endpoint))
        known = (await findings("runpod:abc", **keys))["price"]
        assert "price" not in await findings("sandbox", **keys)
        assert "price" not in await findings("route:runpod:abc,sandbox", **keys)
    assert (unknown.status, refused.status, known.status) == ("skipped", "skipped", "ok")
    assert "does not say what it costs" in unknown.message
    assert "price_per_hour" in unknown.advice
    assert "refused the key" in refused.message
    assert known.message.startswith("$1.10 an hour (RunPod's list of prices, 20")
    assert known.message.endswith(" Its active workers cost $1.10 an hour, used or not.")
