"""The routes below /remote in a running server: the sandbox always, a real ComfyUI where one is."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from owner import configure
from pack import PackServer, comfyui_with_pack, sandbox_with_pack
from PIL import Image

KEY = "planted-key-of-the-routes-test"


@pytest.fixture(scope="module", params=["sandbox", "comfyui"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PackServer]:
    base = tmp_path_factory.mktemp(request.param)
    if request.param == "sandbox":
        with sandbox_with_pack(base) as running:
            yield running
        return
    # The key in the .env beside custom_nodes, as a user of ComfyUI would have it.
    (base / ".env").write_text(f"RUNPOD_API_KEY={KEY}\nRUNPOD_ENDPOINT_ID=abc\n")
    with comfyui_with_pack(base, folder_name="any name") as running:
        yield running


def ask(server: PackServer, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    kind = {} if data is None else {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}{path}", data, {**kind, **headers})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read().decode()
            status = answer.status
    except urllib.error.HTTPError as error:
        text, status = error.read().decode(), error.code
    assert KEY not in text
    return status, json.loads(text) if text.startswith(("{", "[")) else text


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_status(server: PackServer, prefix: str) -> None:
    status, body = ask(server, f"{prefix}/remote/status?client_id=nobody")
    assert status == 200
    assert body["target"] is None
    assert body["jobs"] == []
    assert "sandbox" in [target["name"] for target in body["targets"]]


def test_a_comfyui_takes_the_key_from_its_env_file(server: PackServer) -> None:
    if server.process is None:
        pytest.skip("the sandbox runs in the test's own process")
    endpoint = next(
        target
        for target in ask(server, "/remote/status")[1]["targets"]
        if target["name"] == "runpod:abc"
    )
    assert endpoint["default"]
    assert endpoint["key"] == {"variable": "RUNPOD_API_KEY", "set": True, "needed": True}
    assert server.log is not None
    assert KEY not in server.log.read_text(errors="replace")


def test_the_switch_and_what_the_target_has(server: PackServer, sandbox_url: str) -> None:
    wanted = {"client_id": "tab", "target": sandbox_url}
    assert ask(server, "/remote/switch", wanted)[0] == 403
    yes = ask(server, "/remote/addresses", {"target": sandbox_url}, Origin=server.url)
    assert yes == (200, {"confirmed": sandbox_url})
    assert ask(server, "/remote/switch", wanted) == (200, {"target": sandbox_url})
    assert ask(server, "/remote/status?client_id=tab")[1]["target"] == sandbox_url
    _, state = ask(server, f"/remote/targets/{quote(sandbox_url, safe='')}")
    assert state["error"] is None
    assert state["health"]["ready"] == 1
    status, there = ask(server, f"/remote/object_info?target={quote(sandbox_url, safe='')}")
    assert status == 200
    if server.process is None:  # both are sandboxes: there is nothing more there
        assert (there["nodes"], there["choices"]) == ({}, {})
    else:
        assert "SandboxSlow" in there["nodes"]
        assert "SaveImage" not in there["nodes"]
        assert "LoadImage" not in there["choices"]
    assert ask(server, "/remote/switch", {**wanted, "target": None}) == (200, {"target": None})
    assert ask(server, "/remote/status?client_id=tab")[1]["target"] is None


def test_errors_have_one_shape(server: PackServer) -> None:
    for path, body, expected in (
        ("/remote/switch", {"client_id": "tab", "target": "nonsense"}, (400, "configuration")),
        ("/remote/jobs/none/cancel", {}, (404, "job_not_found")),
        ("/remote/object_info?target=http://127.0.0.1:7", None, (403, "not_trusted")),
        ("/remote/save", {"images": [{"b64": "no"}]}, (400, "configuration")),
    ):
        status, answer = ask(server, path, body)
        assert (status, answer["error"]["code"]) == expected
        assert answer["error"].keys() == {"code", "message", "advice", "details"}


def test_a_hostile_page_gets_nothing_done(server: PackServer) -> None:
    image = {"images": [{"b64": base64.b64encode(picture()).decode(), "name": "evil.png"}]}
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert ask(server, "/remote/save", image, **headers)[0] == 403
        assert ask(server, "/remote/status", **headers)[0] == 403
    assert not list((server.directory / "output").rglob("evil*"))


def test_a_picture_is_saved_where_comfyui_serves_it(server: PackServer) -> None:
    image = {"b64": base64.b64encode(picture()).decode(), "name": "../from a page.png"}
    status, body = ask(server, "/remote/save", {"images": [image]})
    assert (status, body) == (200, {"saved": ["remote_results/from a page.png"]})
    path = server.directory / "output" / body["saved"][0]
    assert path.read_bytes() == picture()
    query = "filename=from%20a%20page.png&subfolder=remote_results&type=output"
    with urllib.request.urlopen(f"{server.url}/view?{query}", timeout=60) as answer:
        assert answer.read() == picture()
    assert ask(server, "/remote/save", {"images": []}) == (200, {"saved": []})


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, "PNG")
    return buffer.getvalue()


# A worker that says nothing until it is done: the public worker-comfyui.

SILENT_WORKER = """
import base64, io, sys, time
from aiohttp import web
from PIL import Image

def picture():
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()

ends, received = {}, []
seconds = float(sys.argv[1])  # of the first workflow; what comes after it is quick

def lasts(job):
    first = next((one for one in received if "workflow" in one["input"]), None)
    return seconds if job is first else 0.1

async def run(request):
    received.append(job := await request.json())
    ends[str(len(received))] = time.monotonic() + lasts(job)
    return web.json_response({"id": str(len(received)), "status": "IN_QUEUE"})

async def status(request):
    job = request.match_info["job"]
    if time.monotonic() < ends[job]:
        return web.json_response({"id": job, "status": "IN_PROGRESS"})
    images = [{"filename": "x.png", "type": "base64", "data": picture()}]
    return web.json_response({"id": job, "status": "COMPLETED", "delayTime": 10,
        "executionTime": 1000 * seconds, "output": {"images": images}})

async def last(request):
    return web.json_response(received[-1])

app = web.Application()
app.add_routes([web.post("/v2/silent/run", run), web.get("/v2/silent/status/{job}", status),
                web.get("/last", last)])

async def main():
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()

import asyncio
asyncio.run(main())
"""

PROMPT = {
    "1": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512}},
    "2": {"class_type": "KSampler", "inputs": {"latent_image": ["1", 0], "steps": 20, "seed": 1}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
    "4": {
        "class_type": "PrimitiveStringMultiline",
        "inputs": {"value": "ckpt https://example.com/a.safetensors"},
        "_meta": {"title": "repo_list"},
    },
}


@pytest.fixture
def silent_worker() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SILENT_WORKER, "7"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def test_a_run_on_a_silent_worker_is_estimated_and_its_price_told(
    tmp_path: Path, silent_worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RUNPOD_ENDPOINT_BASE_URL", raising=False)
    (tmp_path / "workflow.json").write_text(json.dumps(PROMPT))
    configure(
        tmp_path / "home",
        f'[targets.gpu]\ntarget = "runpod:silent"\nbase_url = "{silent_worker}/v2"\n'
        "price_per_hour = 1.8\n",
    )
    command = [sys.executable, "-m", "comfy_remote", "run", "workflow.json", "--on", "gpu"]
    first = subprocess.run(
        [*command, "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert first.returncode == 0, first.stderr
    events = [json.loads(line) for line in first.stdout.splitlines()]
    guesses = [event for event in events if event["event"] == "progress" and event["estimated"]]
    assert guesses
    assert "no past run" in guesses[0]["message"]
    assert {guess["node_class"] for guess in guesses} <= {"KSampler", "SaveImage"}
    assert all(guess["fraction"] < 1 for guess in guesses)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert again.returncode == 0, again.stderr
    assert "About 7.0 s and < $0.01 on gpu, from 1 run of this workflow." in again.stderr
    with urllib.request.urlopen(f"{silent_worker}/last", timeout=60) as answer:
        sent = json.load(answer)["input"]
    assert sent["repo_list"] == "ckpt https://example.com/a.safetensors"


def test_a_job_of_a_page_on_a_silent_worker_is_estimated(
    tmp_path: Path, silent_worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", f"{silent_worker}/v2")
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    with sandbox_with_pack(tmp_path) as server:
        extra = {"comfy_remote": {"target": "runpod:silent"}}
        status, answer = ask(server, "/prompt", {"prompt": PROMPT, "extra_data": extra})
        assert status == 200, answer
        estimated = False
        deadline = time.monotonic() + 40
        while jobs := ask(server, "/remote/jobs")[1]["jobs"]:
            assert time.monotonic() < deadline, jobs
            assert jobs[0]["prompt_id"] == answer["prompt_id"]
            assert (jobs[0]["target"], jobs[0]["client_id"]) == ("runpod:silent", None)
            assert jobs[0]["state"] in ("queued", "running")
            assert jobs[0]["created"] <= time.time()
            assert 0 <= jobs[0]["fraction"] <= 1
            estimated = estimated or (jobs[0]["estimated"] and "estimated" in jobs[0]["message"])
            time.sleep(0.1)
        assert estimated
        history = ask(server, f"/history/{answer['prompt_id']}")[1][answer["prompt_id"]]
        assert history["status"]["status_str"] == "success"
    with urllib.request.urlopen(f"{silent_worker}/last", timeout=60) as sent:
        assert json.load(sent)["input"]["repo_list"].startswith("ckpt ")
