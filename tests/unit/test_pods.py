"""Finding the pod: addresses, RunPod's REST API played by a server of ours, a runpodctl of ours."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import JsonValue
from scripted_server import Answer, ScriptedServer

from comfy_remote.cli.advice import for_terminal
from comfy_remote.errors import AuthenticationError, ConfigurationError, TargetError
from comfy_remote.schedule.bill import Running
from comfy_remote.targets.kinds import kind_of
from comfy_remote.targets.pod import chosen_pod_address, find_pod
from comfy_remote.targets.runpod.pods import Pod, account_pods

KEY = "planted-key-51d7e08b42"
# As in RunPod's documentation of GET /v2/pods, shortened.
RUNNING = {
    "id": "7h9k2m4n6pxx",
    "name": "training",
    "image": "comfyui:latest",
    "ports": ["8888/http", "8188/http", "22/tcp"],
    "env": {"MODEL_NAME": "llama-3"},
    "status": "RUNNING",
    "gpu": {"id": "NVIDIA GeForce RTX 4090", "count": 1, "vcpuCount": 16, "memory": 64},
    "cost": 0.44,
    "runtime": {
        "uptime": 3600,
        "ports": [{"private": 22, "public": 34446, "type": "tcp", "ip": "195.26.233.3"}],
    },
}
SECOND = {**RUNNING, "id": "second000000", "name": "", "gpu": {"id": "NVIDIA L40S", "count": 2}}
STOPPED = {**RUNNING, "id": "stopped00000", "name": "old", "status": "EXITED", "cost": 0.0}
STOPPED["runtime"] = None


def environment(server: ScriptedServer) -> dict[str, str]:
    return {"RUNPOD_API_KEY": KEY, "RUNPOD_API_BASE_URL": server.url, "PATH": ""}


async def test_the_one_that_runs() -> None:
    async with ScriptedServer() as server:
        server.on("GET /v2/pods", Answer({"pods": [STOPPED, RUNNING]}))
        pod = await find_pod(environment(server))
        assert pod.url == "https://7h9k2m4n6pxx-8188.proxy.runpod.net"
        assert str(pod) == "7h9k2m4n6pxx (training, RTX 4090, $0.44 an hour)"
        assert server.asked[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_several_run() -> None:
    questions = []

    def second(question: str, options: Sequence[str]) -> int:
        questions.append((question, options))
        return 1

    async with ScriptedServer() as server:
        server.on("GET /v2/pods", Answer({"pods": [RUNNING, SECOND]}))
        assert (await find_pod(environment(server), second)).id == "second000000"
        assert questions[0][1][1] == "second000000 (2 x L40S, $0.44 an hour)"
        for nobody in (None, lambda *_: None):
            with pytest.raises(ConfigurationError) as caught:
                await find_pod(environment(server), nobody)
            assert "7h9k2m4n6pxx (training" in caught.value.message
            assert "second000000" in caught.value.message
            assert "--on pod:7h9k2m4n6pxx" in for_terminal(caught.value.advice)


async def test_pods_that_cost_money_now() -> None:
    kind = kind_of("pod:auto")
    assert kind is not None
    old = {**RUNNING, "id": "p2", "name": "", "startedAt": "yesterday", "cost": 0.0}
    async with ScriptedServer() as server:
        started = {**RUNNING, "startedAt": "2026-03-13T20:00:00Z"}
        server.on("GET /v2/pods", Answer({"pods": [STOPPED, started, old]}))
        one, other = await kind.running(environment(server)) or ()
        assert await kind.running({"PATH": ""}) is None, "no key: nobody is asked"
    assert one == Running("pod:7h9k2m4n6pxx", "training, RTX 4090", 0.44, 1773432000.0)
    assert one.cost(1773432000.0 + 7200) == pytest.approx(0.88)
    assert (other.per_hour, other.since, other.cost(2e9)) == (None, None, None)


@pytest.mark.parametrize(
    ("pods", "says"),
    [
        ([], "No pod of the account runs."),
        ([STOPPED], "No pod of the account runs: stopped00000 (old, RTX 4090, exited)."),
        ([{**RUNNING, "ports": ["22/tcp"]}], "No running pod exposes port 8188"),
    ],
)
async def test_none_runs(pods: list[dict[str, JsonValue]], says: str) -> None:
    async with ScriptedServer() as server:
        server.on("GET /v2/pods", Answer({"pods": pods}))
        with pytest.raises(ConfigurationError) as caught:
            await find_pod(environment(server))
    assert says in caught.value.message
    for way in ("RunPod's console", "--pod-url", "RUNPOD_POD_URL", "RUNPOD_API_KEY", "runpodctl"):
        assert way in for_terminal(caught.value.advice)


async def test_the_key_is_refused() -> None:
    async with ScriptedServer() as server:
        problem = {"title": "Unauthorized", "status": 401, "detail": "missing bearer token"}
        server.on("GET /v2/pods", Answer(problem, 401))
        with pytest.raises(AuthenticationError, match="RUNPOD_API_KEY") as caught:
            await find_pod(environment(server))
    assert KEY not in str(caught.value) + repr(caught.value.details)


async def test_there_is_no_such_list() -> None:
    async with ScriptedServer() as server:
        server.on("GET /v2/pods", Answer({"title": "Not Found"}, 404))
        with pytest.raises(TargetError, match="HTTP 404") as caught:
            await find_pod(environment(server))
    assert "endpoint" not in caught.value.advice
    assert "RUNPOD_API_BASE_URL" in caught.value.advice
    assert "--pod-url" in for_terminal(caught.value.advice)


@pytest.mark.parametrize("answer", [{"pods": [{"name": "no id"}]}, {"message": "v1"}, [RUNNING]])
async def test_an_answer_of_another_shape(answer: JsonValue) -> None:
    async with ScriptedServer() as server:
        server.on("GET /v2/pods", Answer(answer))
        with pytest.raises(TargetError, match="not understood"):
            await account_pods(environment(server))


async def test_the_key_does_not_travel_in_the_clear() -> None:
    with pytest.raises(ConfigurationError, match="in the clear"):
        await account_pods(
            {"RUNPOD_API_KEY": KEY, "RUNPOD_API_BASE_URL": "http://api.example.org", "PATH": ""}
        )


@pytest.mark.parametrize(
    ("pod", "url"),
    [
        (Pod("abc"), "https://abc-8188.proxy.runpod.net"),
        (Pod("abc", ports=("3000/http", "8188/http")), "https://abc-8188.proxy.runpod.net"),
        (Pod("abc", ports=("3000/http", "22/tcp")), "https://abc-3000.proxy.runpod.net"),
        (Pod("abc", ports=("8188/tcp",), direct={8188: "203.0.113.9:40123"}), None),
        (Pod("abc", ports=("3000/http", "3001/http")), None),
        (Pod("abc", ports=()), None),
    ],
)
def test_where_its_comfyui_is(pod: Pod, url: str | None) -> None:
    assert pod.url == (url or (pod.direct and "http://203.0.113.9:40123") or None)


def test_the_ways_in_order() -> None:
    named = {"RUNPOD_POD_URL": "https://abc-8188.proxy.runpod.net/"}
    assert chosen_pod_address("http://x:1", (), named) == "http://x:1"
    assert chosen_pod_address(None, (), named) == "https://abc-8188.proxy.runpod.net/"
    assert chosen_pod_address(None, (), {}) == "pod:auto"
    assert chosen_pod_address("xedezhzb9la3ye", (), {}) == "pod:xedezhzb9la3ye"
    assert chosen_pod_address("workstation", ["workstation"], {}) == "workstation"
    # What is nearly a name, or an ordinary word, is not taken for an id: it is told instead.
    assert chosen_pod_address("worksttion", [], {}) == "worksttion"
    assert chosen_pod_address("workstation22", ["workstation2"], {}) == "workstation22"
    assert chosen_pod_address("pod:worksttion", [], {}) == "pod:worksttion"
    assert chosen_pod_address(None, (), {"RUNPOD_POD_URL": "xedezhzb9la3ye"}).startswith("pod:")


# runpodctl, where there is no key


def runpodctl(folder: Path, script: str) -> dict[str, str]:
    """A program of that name on the PATH; the environment to use."""
    (folder / "fake.py").write_text(f"import json, sys\n{script}\n")
    call = f'"{sys.executable}" "{folder / "fake.py"}"'
    if os.name == "nt":
        (folder / "runpodctl.bat").write_text(f"@{call} %*\n")
    else:
        program = folder / "runpodctl"
        program.write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "RUNPOD_API_KEY": ""}


# As podListOutput in runpodctl's source has it.
LISTED = {
    "id": "7h9k2m4n6pxx",
    "name": "training",
    "desiredStatus": "RUNNING",
    "runtimeStatus": "running",
    "imageName": "comfyui:latest",
    "gpuId": "NVIDIA GeForce RTX 4090",
    "gpuCount": 1,
    "volumeInGb": 20,
    "costPerHr": 0.44,
}


async def test_runpodctl_lists_it(tmp_path: Path) -> None:
    script = (
        "assert sys.argv[1:] == ['pod', 'list', '--output', 'json'], sys.argv\n"
        f"print({json.dumps([LISTED])!r})"
    )
    pod = await find_pod(runpodctl(tmp_path, script))
    assert pod.url == "https://7h9k2m4n6pxx-8188.proxy.runpod.net"
    assert str(pod) == "7h9k2m4n6pxx (training, RTX 4090, $0.44 an hour)"


# As version 1 pads its columns: with spaces, and a tab after each.
TABLE = [
    ("ID", "NAME", "GPU", "IMAGE NAME", "STATUS"),
    ("7h9k2m4n6pxx", "my  pod, two", "2 RTX 4090", "comfyui:latest", "RUNNING"),
    ("0aaaabbbbcccc", "", "0 unknown", "ubuntu", "EXITED"),
]


@pytest.mark.parametrize("between", ["\t", "  "])
async def test_an_old_runpodctl_prints_a_table(tmp_path: Path, between: str) -> None:
    names = TABLE if between == "\t" else [[c.replace("  ", " ") or "-" for c in r] for r in TABLE]
    lines = [between.join(cell.ljust(16) for cell in row) for row in names]
    script = (
        "if sys.argv[1:] != ['get', 'pod']:\n"
        '    sys.exit(\'Error: unknown command "pod" for "runpodctl"\')\n'
        f"print({chr(10).join(lines)!r})"
    )
    environment = runpodctl(tmp_path, script)
    pod = await find_pod(environment)
    name = "my  pod, two" if between == "\t" else "my pod, two"
    assert str(pod) == f"7h9k2m4n6pxx ({name}, 2 x RTX 4090)"
    assert [one.running for one in await account_pods(environment)] == [True, False]


async def test_runpodctl_lists_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No pod of the account runs"):
        await find_pod(runpodctl(tmp_path, "print('null')"))


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("sys.exit('api key not found')", r"status 1\): api key not found"),
        ("print('ID  NAME')", "not understood"),
        (
            "sys.exit('unknown command') if 'list' in sys.argv else print('NAME  ID  STATUS\\nx')",
            "not understood",
        ),
    ],
)
async def test_runpodctl_fails(tmp_path: Path, script: str, says: str) -> None:
    with pytest.raises(TargetError, match=says) as caught:
        await find_pod(runpodctl(tmp_path, script))
    assert "--pod-url" in for_terminal(caught.value.advice)


async def test_neither_key_nor_runpodctl(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no way to look for one") as caught:
        await find_pod({"PATH": str(tmp_path)})
    assert "RUNPOD_POD_URL" in for_terminal(caught.value.advice)
