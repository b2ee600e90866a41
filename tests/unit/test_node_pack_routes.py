"""The routes below /remote: what the page asks, and what a hostile page gets."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import stat
import time
import wave
import zipfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from helpers import until
from owner import configure, confirm
from PIL import Image

from comfy_remote.errors import error_from_json
from comfy_remote.events import JobState
from comfy_remote.jobs.record import Record
from comfy_remote.node_pack.batches import PageBatches
from comfy_remote.node_pack.bringing import Bringing
from comfy_remote.node_pack.host import FolderKind
from comfy_remote.node_pack.json_route import json_route
from comfy_remote.node_pack.lane import RemoteLane
from comfy_remote.node_pack.offload import Offload
from comfy_remote.node_pack.routes import routes
from comfy_remote.node_pack.saved_images import MAX_IMAGES
from comfy_remote.node_pack.switch import Switch
from comfy_remote.node_pack.target_pool import TargetPool
from comfy_remote.sandbox.server import SandboxServer
from comfy_remote.targets.base import RemoteRef
from comfy_remote.targets.own_command import own_command
from comfy_remote.targets.runpod.kind import RunPodKind
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.version import __version__

KEY = "rpa_planted_key_that_must_not_show"
HERE = {
    "EmptyImage": {"input": {"required": {"width": ["INT", {}]}}, "output": ["IMAGE"]},
    "ImageScale": {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "upscale_method": [["nearest-exact", "bilinear"]],
                "crop": [["disabled", "center"]],
            }
        },
        "output": ["IMAGE"],
    },
    "LoadImage": {"input": {"required": {"image": [["x.png"], {"image_upload": True}]}}},
}


@dataclass
class FakeLane(RemoteLane):
    views: list[Any] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def jobs(self) -> list[Any]:
        return self.views

    async def cancel(self, prompt_id: object) -> bool:
        self.cancelled.append(prompt_id)
        return any(view["prompt_id"] == prompt_id for view in self.views)


class FoldersOnly:
    """As much of a `Host` as the routes use."""

    several_users = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: FolderKind) -> Path:
        return self.root / kind

    def on_prompt(self, change: object) -> None:
        pass


@dataclass
class Page:
    http: TestClient[Any, Any]
    switch: Switch
    lane: FakeLane
    pool: TargetPool
    output: Path

    async def get(self, path: str, **headers: str) -> Any:
        async with self.http.get(path, headers=headers) as answer:
            return answer.status, await answer.json()

    async def post(self, path: str, body: Any, **headers: str) -> Any:
        async with self.http.post(path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("RUNPOD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    yield


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async def object_info(_request: web.Request) -> web.Response:
        return web.json_response(HERE)

    with Record(tmp_path / "home") as record:
        pool, switch, lane = TargetPool(record), Switch(), FakeLane()
        app = web.Application(client_max_size=2**20)
        app.router.add_get("/object_info", object_info)
        host: Any = FoldersOnly(tmp_path)
        offload = Offload(host, switch, pool)
        app.add_routes(
            routes(host, switch, pool, lane, offload, PageBatches(host, pool), Bringing(host, pool))
        )
        async with TestClient(TestServer(app)) as http:
            yield Page(http, switch, lane, pool, tmp_path / "output")
        await pool.close()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[str]:
    """One whose address has been confirmed."""
    async with SandboxServer() as server:
        confirm(tmp_path / "home", server.url)
        yield server.url


def view(prompt_id: str) -> dict[str, str]:
    return {"prompt_id": prompt_id, "target": "gpu"}


def png(color: str = "red", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(buffer, kind)
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_status_lists_targets_and_jobs_without_asking_anybody(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(
        tmp_path / "home",
        'default = "gpu"\n[targets.gpu]\ntarget = "runpod:abc"\n'
        '[targets.box]\ntarget = "runpod:x"\nbase_url = "http://127.0.0.1:9/v2"\n'
        '[targets.lan]\ntarget = "https://gpu.invalid"\nkey_env = "LAN_TOKEN"\n',
    )
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "mine")
    monkeypatch.setenv("LAN_TOKEN", KEY)
    page.switch.set("tab", "gpu")
    page.lane.views = [view("p1")]
    status, body = await page.get("/remote/status?client_id=tab")
    assert (status, body["version"], body["target"]) == (200, __version__, "gpu")
    assert [(t["name"], t["kind"], t["default"], t["key"]) for t in body["targets"]] == [
        ("gpu", "runpod", True, {"variable": "RUNPOD_API_KEY", "set": False, "needed": True}),
        ("box", "runpod", False, {"variable": "RUNPOD_API_KEY", "set": False, "needed": False}),
        ("lan", "comfyui", False, {"variable": "LAN_TOKEN", "set": True, "needed": True}),
        (
            *("runpod:mine", "runpod", False),
            {"variable": "RUNPOD_API_KEY", "set": False, "needed": True},
        ),
        ("sandbox", "sandbox", False, {"variable": None, "set": False, "needed": False}),
    ]
    assert body["targets"][2]["address"] == "https://gpu.invalid"
    assert [(t["type"], t["billing"]) for t in body["targets"]] == [
        ("runpod", "by run"),
        ("runpod", None),  # a gateway of the user's own
        ("comfyui", None),
        ("runpod", "by run"),
        ("sandbox", None),
    ]
    assert "describe" in body["targets"][2]["can"]
    assert body["jobs"] == [view("p1")]
    assert KEY not in json.dumps(body)
    assert (await page.get("/remote/status"))[1]["target"] is None
    assert (await page.get("/remote/jobs"))[1] == {"jobs": body["jobs"]}


@pytest.mark.parametrize(
    ("endpoint", "default"), [(None, "sandbox"), (" ", "sandbox"), ("e", "runpod:e")]
)
async def test_without_a_configuration_the_endpoint_of_the_environment_comes_first(
    page: Page, monkeypatch: pytest.MonkeyPatch, endpoint: str | None, default: str
) -> None:
    if endpoint is not None:
        monkeypatch.setenv("RUNPOD_ENDPOINT_ID", endpoint)
    targets = (await page.get("/remote/status"))[1]["targets"]
    assert [target["name"] for target in targets if target["default"]] == [default]


async def test_what_runpods_console_shows_switches_to_the_endpoint(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", "http://127.0.0.1:9/v2")
    typed = "https://api.runpod.ai/v2/abc/run?x=1"
    answer = await page.post("/remote/switch", {"client_id": "tab", "target": typed})
    assert answer == (200, {"target": "runpod:abc"})
    _, asked = await page.get(f"/remote/addresses?target={quote(typed, safe='')}")
    assert (asked["target"], asked["confirmed"]) == ("runpod:abc", True)
    assert page.switch.target_of("tab") == "runpod:abc"


async def test_files_that_lack_a_yes_are_named_with_the_command_that_says_it(
    page: Page, tmp_path: Path
) -> None:
    assert (await page.get("/remote/status"))[1]["unused"] == []
    path = configure(tmp_path, 'default = "x"\n[targets.x]\ntarget = "https://elsewhere.example"\n')
    (tmp_path / ".env").write_text("RUNPOD_API_KEY=theirs\n")
    _, body = await page.get("/remote/status")
    assert [target["name"] for target in body["targets"]] == ["sandbox"]
    assert f"comfy-remote trust {path}" in body["unused"][0]
    assert f"comfy-remote trust {tmp_path / '.env'}" in body["unused"][1]
    assert len(body["unused"]) == 2


async def test_a_broken_configuration_is_an_error_that_says_where(
    page: Page, tmp_path: Path
) -> None:
    configure(tmp_path / "home", "[targets.gpu]\napi_key = 'x'\ntarget='sandbox'\n")
    status, body = await page.get("/remote/status")
    assert (status, body["error"]["code"]) == (400, "configuration")
    assert "comfy-remote.toml" in body["error"]["message"]


async def test_the_switch_is_set_and_taken_back(page: Page, engine: str) -> None:
    body = {"client_id": "tab", "target": engine}
    assert await page.post("/remote/switch", body) == (200, {"target": engine})
    assert page.switch.target_of("tab") == engine
    assert page.switch.target_of("other") is None
    assert await page.post("/remote/switch", {**body, "target": None}) == (200, {"target": None})
    assert page.switch.target_of("tab") is None


@pytest.mark.parametrize("target", ["no such name", "runpod:abc", "", "ftp://x", 3, "x" * 501])
async def test_a_target_that_cannot_be_used_is_not_switched_to(page: Page, target: Any) -> None:
    page.switch.set("tab", "sandbox")
    status, body = await page.post("/remote/switch", {"client_id": "tab", "target": target})
    assert (status, body["error"]["code"]) == (400, "configuration")
    assert body["error"]["advice"]
    assert page.switch.target_of("tab") == "sandbox"


async def test_no_address_is_opened_that_nobody_has_confirmed(page: Page) -> None:
    asked: list[str] = []

    async def any_route(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", any_route)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        status, body = await page.post("/remote/switch", {"client_id": "tab", "target": url})
        assert (status, body["error"]["code"]) == (403, "not_trusted")
        assert body["confirm"] == {"address": url, "nodes": []}
        assert f'allowed_addresses = ["{url}"]' in body["error"]["advice"]
        assert page.switch.target_of("tab") is None
        _, body = await page.get(f"/remote/targets/{url}")
        assert (body["error"]["code"], body["health"]) == ("not_trusted", None)
        status, body = await page.get(f"/remote/object_info?target={url}")
        assert (status, body["error"]["code"]) == (403, "not_trusted")
        assert asked == []

        origin = str(page.http.make_url("")).rstrip("/")
        wanted = {"target": f"{url}/"}
        state = {"target": url, "confirmed": False, "address": url, "command": own_command()}
        assert await page.get(f"/remote/addresses?target={url}/") == (200, state)
        # A person says yes, in the page; no other page, and no program for them.
        for headers in ({}, {"Origin": "http://evil.example"}):
            status, body = await page.post("/remote/addresses", wanted, **headers)
            assert status == 403
        assert (await page.get(f"/remote/addresses?target={url}"))[1]["confirmed"] is False
        answer = await page.post("/remote/addresses", wanted, Origin=origin)
        assert answer == (200, {"confirmed": url})
        assert (await page.get(f"/remote/addresses?target={url}"))[1]["address"] is None
        status, _ = await page.post("/remote/switch", {"client_id": "tab", "target": url})
        assert (status, page.switch.target_of("tab")) == (200, url)


@pytest.mark.parametrize("target", ["sandbox", "runpod:abc", "modal:app", "pod:auto", "gpu"])
async def test_the_owners_own_targets_need_no_yes(page: Page, tmp_path: Path, target: str) -> None:
    configure(tmp_path / "home", '[targets.gpu]\ntarget = "http://192.168.1.20:8188"\n')
    _, body = await page.get(f"/remote/addresses?target={target}")
    assert (body["confirmed"], body["address"]) == (True, None)
    # Nor do their addresses by themselves.
    _, body = await page.get("/remote/addresses?target=http://192.168.1.20:8188/x")
    assert body["confirmed"] is True


async def test_no_remote_has_the_page_ask_for_a_yes() -> None:
    """Errors may have come from a target, word for word."""
    theirs = {"code": "not_trusted", "message": "x", "details": {"address": "http://evil"}}

    @json_route
    async def broken(_request: web.Request) -> Any:
        raise error_from_json(theirs)

    app = web.Application()
    app.router.add_get("/", broken)
    async with TestClient(TestServer(app)) as http, http.get("/") as answer:
        assert answer.status == 403
        assert "confirm" not in await answer.json()


async def test_a_missing_key_says_how_to_set_it(page: Page) -> None:
    _, body = await page.post("/remote/switch", {"client_id": "tab", "target": "runpod:abc"})
    assert "RUNPOD_API_KEY" in body["error"]["advice"]


async def test_switching_asks_the_target_for_its_nodes_ahead(page: Page, engine: str) -> None:
    await page.post("/remote/switch", {"client_id": "tab", "target": engine})
    await until(lambda: page.pool._entries and page.pool._entries[engine].capabilities)


async def test_a_target_that_cannot_be_reached_can_be_switched_to(
    page: Page, tmp_path: Path
) -> None:
    target = "http://127.0.0.1:9"
    confirm(tmp_path / "home", target)
    body = {"client_id": "tab", "target": target}
    assert await page.post("/remote/switch", body) == (200, {"target": target})


@pytest.mark.parametrize("quoted", [True, False])
async def test_a_target_says_how_it_is(page: Page, engine: str, quoted: bool) -> None:
    name = engine.replace("/", "%2F").replace(":", "%3A") if quoted else engine
    status, body = await page.get(f"/remote/targets/{name}")
    assert status == 200
    idle = {"ready": 1, "running": 0, "queued": 0, "starting": 0, "throttled": 0}
    assert body["health"] == idle
    assert (body["name"], body["address"], body["error"]) == (engine, engine, None)
    assert body["engine"].startswith("sandbox ")
    assert body["device"]


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("nonsense", "configuration"),
        ("runpod:abc", "configuration"),
        ("http://127.0.0.1:9", "target_unreachable"),
        ("http://127.0.0.1:8", "not_trusted"),
    ],
)
async def test_what_is_wrong_with_a_target_is_part_of_the_answer(
    page: Page, target: str, code: str, tmp_path: Path
) -> None:
    confirm(tmp_path / "home", "http://127.0.0.1:9")
    status, body = await page.get(f"/remote/targets/{target}")
    assert (status, body["health"]) == (200, None)
    assert body["error"]["code"] == code
    assert body["advice"]


async def test_an_endpoint_without_workers_says_why(page: Page, tmp_path: Path) -> None:
    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"jobs": {"inQueue": 2}, "workers": {"idle": 0, "running": 0}})

    app = web.Application()
    app.router.add_get("/v2/idle/health", health)
    async with TestServer(app) as server:
        url = str(server.make_url("/v2"))
        configure(tmp_path / "home", f'[targets.gpu]\ntarget = "runpod:idle"\nbase_url = "{url}"\n')
        _, body = await page.get("/remote/targets/gpu")
        # A gateway of one's own starts no machines.
        assert (await page.post("/remote/warm", {"target": "gpu"}))[0] == 400
    assert body["health"] == {
        "ready": 0,
        "running": 0,
        "queued": 2,
        "starting": 0,
        "throttled": 0,
    }
    assert (body["state"], body["last_start"], body["warm_up"]) == ("waking", None, None)
    assert body["known"] is False
    assert "Jobs wait until one is ready" in body["advice"]  # that address is not RunPod's
    assert (body["address"], body["error"], body["device"]) == ("runpod:idle", None, None)


async def test_workers_are_kept_until_then_and_their_idle_timeout_is_put_back(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers: dict[str, Any] = {"min": 0, "max": 3, "idleTimeout": 5}

    async def endpoint(request: web.Request) -> web.Response:
        if request.method == "PATCH":
            workers.update((await request.json())["workers"])
        return web.json_response({"id": "gpu", "workers": workers})

    async def answer(request: web.Request) -> web.Response:
        if request.path.endswith("/health"):
            return web.json_response({"workers": {"idle": 1}})
        failed = {"status": "FAILED", "error": "Missing 'workflow' parameter"}
        waits = {"status": "IN_QUEUE"}
        return web.json_response({"id": "e1", **(failed if "status" in request.path else waits)})

    app = web.Application()
    app.router.add_route("*", "/v2/serverless/gpu", endpoint)
    app.router.add_route("*", "/{path:.*}", answer)
    monkeypatch.setattr(RunPodKind, "billing", lambda *_: "by run")
    async with TestServer(app) as server:
        url = str(server.make_url("/v2"))
        monkeypatch.setenv("RUNPOD_API_BASE_URL", url.removesuffix("/v2"))
        monkeypatch.setenv("RUNPOD_API_KEY", "rpa_PLANTED0123456789")
        configure(tmp_path / "home", f'[targets.gpu]\ntarget = "runpod:gpu"\nbase_url = "{url}"\n')

        async def said() -> Any:
            return (await page.get("/remote/targets/gpu"))[1]["warm_up"]

        hold = {"target": "gpu", "seconds": 3600}
        status, body = await page.post("/remote/warm", hold)
        assert (status, body["until"] > time.time() + 3500) == (200, True)
        while workers["idleTimeout"] != 600:
            await asyncio.sleep(0.02)
        # Once more makes it longer, and starts nothing again.
        later = (await page.post("/remote/warm", {**hold, "seconds": 7200}))[1]["until"]
        assert (await said())["until"] == later > body["until"]
        assert (await page.post("/remote/warm", {"target": "gpu", "on": False}))[0] == 200
        assert (workers["idleTimeout"], (await said())["until"]) == (5, None)
        for seconds in (0, -1, 10**6, "x"):
            assert (await page.post("/remote/warm", {**hold, "seconds": seconds}))[0] == 400


async def test_a_worker_can_be_started_before_there_is_a_job(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On what is billed by run; how long it took is said the next time."""
    workers = {"idle": 0, "running": 0}
    states: list[Any] = [{"status": "IN_QUEUE"}]

    async def health(_request: web.Request) -> web.Response:
        return web.json_response({"jobs": {}, "workers": workers})

    async def run(request: web.Request) -> web.Response:
        assert (await request.json())["input"]["action"] == "describe"
        return web.json_response({"id": "e1", "status": "IN_QUEUE"})

    async def status(_request: web.Request) -> web.Response:
        return web.json_response({"id": "e1", **states[-1]})

    app = web.Application()
    app.router.add_get("/v2/gpu/health", health)
    app.router.add_post("/v2/gpu/run", run)
    app.router.add_get("/v2/gpu/status/e1", status)
    app.router.add_post("/v2/gpu/cancel/e1", status)
    monkeypatch.setattr(RunPodKind, "billing", lambda *_: "by run")
    async with TestServer(app) as server:
        url = str(server.make_url("/v2"))
        configure(
            tmp_path / "home",
            f'[targets.gpu]\ntarget = "runpod:gpu"\nbase_url = "{url}"\nprice_per_hour = 0.6\n',
        )
        client = await page.pool.client("gpu")
        assert isinstance(client.target, RunPodTarget)
        monkeypatch.setattr(client.target._descriptions, "patience", 0.1)

        async def told() -> Any:
            return (await page.get("/remote/targets/gpu"))[1]

        async def ended() -> bool:
            return (await told())["warm_up"]["seconds"] is None

        body = await told()
        at_rest = {"seconds": None, "error": None, "until": None, "can_keep": False}
        assert (body["state"], body["price_per_hour"]) == ("asleep", 0.6)
        assert body["warm_up"] == {
            "seconds": None,
            "error": None,
            "until": None,
            "can_keep": False,
        }
        assert (await page.post("/remote/warm", {"target": "gpu", "seconds": 60}))[0] == 400
        assert (await page.post("/remote/warm", {"target": "gpu"}))[0] == 200
        assert (body := await told())["state"] == "waking"
        assert body["warm_up"]["seconds"] >= 0
        # A worker of somebody else's refuses such a job: it is awake.
        workers["idle"] = 1
        states.append({"status": "FAILED", "error": "Missing 'workflow' parameter"})
        while not await ended():
            await asyncio.sleep(0.05)
        body = await told()
        assert (body["state"], body["warm_up"]["error"]) == ("ready", None)
        assert body["last_start"] > 0
        # One that did not come is said; one that is taken back is not.
        workers["idle"] = 0
        states.append({"status": "TIMED_OUT"})
        await page.post("/remote/warm", {"target": "gpu"})
        while not await ended():
            await asyncio.sleep(0.05)
        assert (await told())["warm_up"]["error"]["message"]
        states.append({"status": "IN_QUEUE"})
        await page.post("/remote/warm", {"target": "gpu"})
        await page.post("/remote/warm", {"target": "gpu", "on": False})
        body = await told()
        assert (body["state"], body["warm_up"]) == ("asleep", at_rest)


async def test_only_what_the_target_alone_has_is_listed(page: Page, engine: str) -> None:
    status, body = await page.get(f"/remote/object_info?target={engine}")
    assert (status, body["target"], body["known"]) == (200, engine, True)
    assert {"SandboxSlow", "SaveImage"} <= body["nodes"].keys()
    assert not HERE.keys() & body["nodes"].keys()
    assert body["nodes"]["SandboxSlow"]["display_name"] == "Slow (Sandbox)"
    # Of inputs that both have: other methods, but no uploaded files and nothing that is here.
    assert body["choices"].keys() == {"ImageScale"}
    assert body["choices"]["ImageScale"].keys() == {"upscale_method"}
    methods = body["choices"]["ImageScale"]["upscale_method"]
    assert "lanczos" in methods
    assert "bilinear" not in methods


@pytest.mark.usefixtures("quick_retries")
async def test_a_target_that_cannot_say_what_it_has(page: Page, tmp_path: Path) -> None:
    configure(
        tmp_path / "home",
        '[targets.gpu]\ntarget = "runpod:x"\nbase_url = "http://127.0.0.1:9/v2"\n',
    )
    status, body = await page.get("/remote/object_info?target=gpu")
    assert status == 200
    assert body == {"target": "gpu", "known": False, "nodes": {}, "choices": {}}
    status, body = await page.get("/remote/object_info")
    assert (status, body["error"]["code"]) == (400, "configuration")
    assert "?target=" in body["error"]["advice"]


async def test_a_job_is_cancelled_by_its_id(page: Page) -> None:
    page.lane.views = [view("p1")]
    assert await page.post("/remote/jobs/p1/cancel", {}) == (200, {"cancelled": "p1"})
    status, body = await page.post("/remote/jobs/p2/cancel", {})
    assert (status, body["error"]["code"]) == (404, "job_not_found")
    assert page.lane.cancelled == ["p1", "p2"]


async def test_an_estimate_of_time_and_price(page: Page, tmp_path: Path) -> None:
    configure(tmp_path / "home", '[targets.gpu]\ntarget = "runpod:x"\nprice_per_hour = 3.6\n')
    prompt = {"1": {"class_type": "KSampler", "inputs": {"steps": 20, "seed": 1}}}
    body = {"target": "gpu", "prompt": prompt}
    _, unknown = await page.post("/remote/estimate", body)
    assert (unknown["seconds"], unknown["price"], unknown["runs"]) == (None, None, 0)
    page.pool.record.add("j1", target="gpu", source="x", folder=None, prompt=prompt)  # type: ignore[arg-type]
    page.pool.record.state("j1", JobState.SUCCEEDED, run_seconds=40.0)
    prompt["1"]["inputs"] = {"steps": 10, "seed": 2}
    status, known = await page.post("/remote/estimate", body)
    assert status == 200
    assert known == {
        "target": "gpu",
        "seconds": 20.0,
        "runs": 1,
        "price_per_hour": 3.6,
        "price_source": "your settings",
        "price_at": None,
        "price": 0.02,
        "scaled": ["steps 20 → 10"],
        "billing": "by run",
        "member": None,
        "text": "About 20 s and $0.02 on gpu, from 1 run of this workflow, scaled by steps "
        "20 → 10.",
    }


async def test_the_estimate_of_a_route_is_its_member_s(page: Page, tmp_path: Path) -> None:
    configure(
        tmp_path / "home",
        '[targets.dear]\ntarget = "http://192.168.1.20:8188"\nprice_per_hour = 36\n'
        '[targets.cheap]\ntarget = "http://192.168.1.21:8188"\nprice_per_hour = 3.6\n'
        '[targets.no_key]\ntarget = "runpod:x"\nprice_per_hour = 0.1\n'
        '[targets.any]\nroute = ["no_key", "dear", "cheap"]\nprefer = "price"\n',
    )
    prompt = {"1": {"class_type": "KSampler", "inputs": {"steps": 20, "seed": 1}}}
    body = {"target": "any", "prompt": prompt}
    for name, address in (("dear", "20"), ("cheap", "21")):
        page.pool.record.add(name, target=name, source="x", folder=None, prompt=prompt)  # type: ignore[arg-type]
        ref = RemoteRef(name, name, {"url": f"http://192.168.1.{address}:8188"})
        page.pool.record.submitted(ref)
        page.pool.record.state(name, JobState.SUCCEEDED, run_seconds=40.0)
    status, known = await page.post("/remote/estimate", body)
    assert status == 200
    assert (known["target"], known["member"]) == ("any", "cheap")
    assert (known["seconds"], known["price"]) == (40.0, 0.04)


@pytest.mark.parametrize(
    "body",
    [
        {"target": "gpu", "prompt": {"1": {}}},
        {"target": "gpu", "prompt": {"nodes": [], "links": []}},
        {"target": "gpu"},
        {},
        [],
    ],
)
async def test_an_estimate_of_no_prompt(page: Page, body: Any) -> None:
    status, answer = await page.post("/remote/estimate", body)
    assert status == 400
    assert answer["error"]["code"] in ("configuration", "workflow_invalid")


POSTS = {
    "/remote/switch": {"client_id": "tab", "target": None},
    "/remote/jobs/p1/cancel": {},
    "/remote/estimate": {"target": "gpu", "prompt": {"1": {"class_type": "X", "inputs": {}}}},
    "/remote/save": {"images": []},
    "/remote/addresses": {"target": "sandbox"},
}


OTHER_PAGES: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "https://evil.example", "Host": "192.168.1.20:8188"},
    {"Origin": "null", "Host": "192.168.1.20:8188"},
    {"Origin": "http://evil.example:8188", "Host": "evil.example:8188"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
    {"Sec-Fetch-Site": "same-site", "Host": "comfy.local:8188"},
]


def _served(page: Page, method: str = "") -> list[tuple[str, str]]:
    """Method and a path of each of our routes, whichever there are by now."""
    assert page.http.app is not None
    served = {
        (route.method, re.sub(r"\{[^}]*\}", "sandbox", route.resource.canonical))
        for route in page.http.app.router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/remote/")
    }
    return sorted(one for one in served if method in ("", one[0]))


@pytest.mark.parametrize("headers", OTHER_PAGES)
async def test_a_page_of_another_site_is_refused(page: Page, headers: dict[str, str]) -> None:
    page.lane.views = [view("sandbox")]
    page.switch.set("tab", "sandbox")
    all_of_them = _served(page)
    assert len(all_of_them) > 20
    for method, path in all_of_them:
        body = POSTS.get(path, {})
        async with page.http.request(method, path, json=body, headers=headers) as answer:
            if path == "/remote/inputs/sandbox" and answer.status == 400:
                # For programs, under any name: no answer without the hash of the whole file.
                assert method in ("GET", "HEAD")
                assert headers["Host"] in headers.get("Origin", "")
                continue
            assert answer.status == 403, (method, path)
            if method != "HEAD":
                assert (await answer.json())["error"]["code"] == "authentication"
    assert page.switch.target_of("tab") == "sandbox"
    assert not page.lane.cancelled
    assert page.pool._entries == {}


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize(
    "path", ["/remote/status", "/remote/targets/gpu", "/remote/object_info?target=gpu"]
)
async def test_a_picture_in_another_page_asks_no_target(
    page: Page, tmp_path: Path, path: str
) -> None:
    """`<img src=http://192.168.1.20:8188/remote/…>`: over http, browsers say no more than this."""
    configure(tmp_path / "home", '[targets.gpu]\ntarget = "http://127.0.0.1:9"\n')
    browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)", "Host": "192.168.1.20:8188"}
    status, body = await page.get(path, **browser)
    assert (status, body["error"]["code"]) == (403, "authentication")
    assert page.pool._entries == {}
    for own in ({"Comfy-Remote-Page": "1"}, {"Sec-Fetch-Site": "same-origin"}):
        assert (await page.get(path, **browser, **own))[0] != 403
    assert (await page.get(path, Host="192.168.1.20:8188"))[0] != 403  # a program


@pytest.mark.parametrize("path", POSTS)
async def test_the_own_page_is_not_refused(page: Page, path: str) -> None:
    page.lane.views = [view("p1")]
    origin = str(page.http.make_url("")).rstrip("/")
    status, _ = await page.post(path, POSTS[path], Origin=origin)
    assert status == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_what_a_form_can_send_is_refused(page: Page, kind: str) -> None:
    page.lane.views = [view("sandbox")]
    page.switch.set("tab", "sandbox")
    origin = str(page.http.make_url("")).rstrip("/")
    for _, path in _served(page, "POST"):
        data = json.dumps(POSTS.get(path, {})).encode()
        headers = {"Content-Type": kind, "Origin": origin}
        async with page.http.post(path, data=data, headers=headers) as answer:
            assert answer.status == 400, path
            assert "Content-Type" in (await answer.json())["error"]["advice"]
    assert page.switch.target_of("tab") == "sandbox"
    assert not page.lane.cancelled


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_json(page: Page, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for path in ("/remote/switch", "/remote/save", "/remote/estimate"):
        async with page.http.post(path, data=body, headers=headers) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["code"] == "configuration"


async def test_an_error_of_ours_keeps_its_shape_and_others_are_not_hidden() -> None:
    @json_route
    async def broken(_request: web.Request) -> Any:
        raise ValueError("a mistake in the program")

    app = web.Application()
    app.router.add_get("/", broken)
    async with TestClient(TestServer(app)) as http, http.get("/") as answer:
        assert answer.status == 500


def test_every_route_is_in_the_documentation(tmp_path: Path) -> None:
    host: Any = FoldersOnly(tmp_path)
    with Record(tmp_path) as record:
        switch, pool = Switch(), TargetPool(record)
        batches = PageBatches(host, pool)
        table = routes(
            host,
            switch,
            pool,
            FakeLane(),
            Offload(host, switch, pool),
            batches,
            Bringing(host, pool),
        )
    served = {
        f"{route.method} {route.path.replace(':.+', '')}"
        for route in table
        if isinstance(route, web.RouteDef)
    }
    text = (Path(__file__).parents[2] / "docs" / "routes.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## ((?:GET|POST|PUT|DELETE) .*)$", text, re.MULTILINE)) == served


# /remote/save


async def test_nothing_to_save(page: Page) -> None:
    assert await page.post("/remote/save", {"images": []}) == (200, {"saved": []})
    assert not page.output.exists()


async def test_pictures_are_saved_for_their_owner(page: Page) -> None:
    images = [
        {"b64": b64(png()), "name": "a.png"},
        {"b64": f"data:image/jpeg;base64,{b64(png('blue', 'JPEG'))}", "name": "b.jpeg"},
        {"b64": b64(png("green", "WEBP"))},
    ]
    status, body = await page.post("/remote/save", {"images": images})
    assert status == 200
    assert body["saved"][:2] == ["remote_results/a.png", "remote_results/b.jpeg"]
    assert body["saved"][2].startswith("remote_results/remote_")
    assert body["saved"][2].endswith("_03.webp")
    for name, color in zip(body["saved"], ("red", "blue", "green"), strict=True):
        path = page.output / name
        if os.name == "posix":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with Image.open(path) as picture:
            pixel = picture.convert("RGB").getpixel((0, 0))
            assert isinstance(pixel, tuple)
            assert max(pixel) == pixel[["red", "green", "blue"].index(color)]
    assert sorted(p.name for p in (page.output / "remote_results").iterdir()) == sorted(
        name.split("/")[1] for name in body["saved"]
    )


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("../../up.png", "up.png"),
        ("/etc/passwd", "passwd.png"),
        ("C:\\Windows\\x.exe", "x.exe.png"),
        ("sub/dir/x.PNG", "x.PNG"),
        ("..", "output.png"),
        ("page.html", "page.html.png"),
        ("con.png", "_con.png"),
        ("x.jpg", "x.jpg.png"),
        ("", None),
    ],
)
async def test_names_stay_below_the_folder(page: Page, name: str, saved: str | None) -> None:
    image = {"b64": b64(png()), "name": name}
    status, body = await page.post("/remote/save", {"images": [image]})
    assert status == 200
    if saved is not None:
        assert body["saved"] == [f"remote_results/{saved}"]
    folder = page.output / "remote_results"
    assert [path.parent for path in page.output.rglob("*") if path.is_file()] == [folder]


async def test_nothing_is_ever_replaced(page: Page) -> None:
    first = {"images": [{"b64": b64(png("red")), "name": "x.png"}]}
    other = {"images": [{"b64": b64(png("blue")), "name": "x.png"}]}
    saved = [(await page.post("/remote/save", body))[1]["saved"][0] for body in (first, other)]
    assert saved[0] == "remote_results/x.png"
    assert saved[1] != saved[0]
    assert (page.output / saved[0]).read_bytes() == png("red")
    assert (page.output / saved[1]).read_bytes() == png("blue")
    # The same once more is there already.
    assert (await page.post("/remote/save", first))[1]["saved"] == [saved[0]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("no base64!", "Image 2 is not base64"),
        ("", "Image 2 cannot be decoded"),
        (b64(b"<script>alert(1)</script>"), "Image 2 cannot be decoded"),
        (b64(b"\x89PNG\r\n\x1a\n" + b"\0" * 100), "Image 2 cannot be decoded"),
        (b64(png()[:-20]), "Image 2 is cut off"),
        (b64(png(kind="BMP")), "Image 2 is in a format"),
    ],
)
async def test_what_is_no_picture_is_refused_and_nothing_is_saved(
    page: Page, data: str, message: str
) -> None:
    images = [{"b64": b64(png()), "name": "good.png"}, {"b64": data, "name": "bad.png"}]
    status, body = await page.post("/remote/save", {"images": images})
    assert (status, body["error"]["code"]) == (400, "configuration")
    assert message in body["error"]["message"]
    assert [path for path in page.output.rglob("*") if path.is_file()] == []


async def test_requests_have_limits(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [{"b64": ""}] * (MAX_IMAGES + 1)
    status, body = await page.post("/remote/save", {"images": many})
    assert (status, body["error"]["code"]) == (400, "configuration")
    # The test's server takes 1 MiB in all.
    status, body = await page.post("/remote/save", {"images": [{"b64": "A" * 2**20}]})
    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert "--max-upload-size" in body["error"]["advice"]
    monkeypatch.setattr("comfy_remote.node_pack.saved_images.MAX_IMAGE_BYTES", 1000)
    status, body = await page.post("/remote/save", {"images": [{"b64": "A" * 2000}]})
    assert (status, body["error"]["code"]) == (413, "request_too_large")


async def test_other_files_are_saved_by_their_type_beside_the_pictures(page: Page) -> None:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as writing:
        writing.setparams((1, 2, 8000, 0, "NONE", ""))
        writing.writeframes(bytes(1600))
    body = {
        "images": [{"b64": b64(png()), "name": "cat.png"}],
        "files": [
            {"text": "a cat at night, größer", "name": "cat.txt"},
            {"b64": b64(b'{"seed": 1}'), "name": "../cat.json"},
            {"b64": b64(sound.getvalue()), "name": "meow.exe"},
            {"b64": b64(png("blue")), "name": "cat2"},
            {"text": "<script>alert(1)</script>", "name": "page.html"},
        ],
    }
    status, answer = await page.post("/remote/save", body)
    names = ["cat.png", "cat.txt", "cat.json", "meow.exe.wav", "cat2.png", "page.html.txt"]
    assert (status, answer) == (200, {"saved": [f"remote_results/{name}" for name in names]})
    folder = page.output / "remote_results"
    assert (folder / "cat.txt").read_text("utf-8") == "a cat at night, größer"
    assert (folder / "meow.exe.wav").read_bytes() == sound.getvalue()
    for bad, message in (
        (sound.getvalue()[:-9], "File 1 is cut off"),
        (b"\x7fELF\0\0", "File 1 cannot be decoded"),
        (b"PK\x03\x04" + bytes(20), "File 1 cannot be decoded"),
    ):
        status, answer = await page.post("/remote/save", {"files": [{"b64": b64(bad)}]})
        assert (status, answer["error"]["code"]) == (400, "configuration")
        assert message in answer["error"]["message"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


@pytest.mark.parametrize(
    "body",
    [
        *({}, {"images": None}, {"images": [{}]}, {"images": ["x"]}, []),
        *({"files": [{"name": "x.txt"}]}, {"files": [{"text": "x", "b64": "eA=="}]}),
    ],
)
async def test_requests_of_another_shape(page: Page, body: Any) -> None:
    status, answer = await page.post("/remote/save", body)
    assert (status, answer["error"]["code"]) == (400, "configuration")


async def test_a_packed_workflow_is_opened_with_its_files(page: Page) -> None:
    prompt = {"1": {"class_type": "LoadImage", "inputs": {"image": "sub/a.png"}}}
    models = [{"name": "m", "directory": "vae", "url": "https://example.com/m.safetensors"}]
    workflow = {"nodes": [], "links": [], "models": models}
    whole = {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("workflow.json", json.dumps(whole))
        archive.writestr("input/sub/a.png", b"picture")
        archive.writestr("comfy-remote.toml", b"default = 'theirs'")
    own = {"Origin": str(page.http.make_url("")).rstrip("/")}

    async def post(data: bytes, **headers: str) -> Any:
        headers["Content-Type"] = "application/zip"
        async with page.http.post("/remote/packed", data=data, headers=headers) as answer:
            return answer.status, await answer.json()

    status, opened = await post(packed.getvalue(), **own)
    assert (status, opened) == (
        200,
        {
            "workflow": {"nodes": [], "links": []},
            "prompt": prompt,
            "inputs": ["sub/a.png"],
            "left_out": ["model vae/m: https://example.com/m.safetensors"],
        },
    )
    inputs = page.output.parent / "input"
    assert [path.name for path in inputs.rglob("*") if path.is_file()] == ["a.png"]
    # The same again changes nothing; another file of that name stays, and the graph follows.
    assert await post(packed.getvalue(), **own) == (status, opened)
    (inputs / "sub" / "a.png").write_bytes(b"mine")
    status, opened = await post(packed.getvalue(), **own)
    [name] = opened["inputs"]
    assert name != "sub/a.png"
    assert opened["prompt"]["1"]["inputs"]["image"] == name
    assert (inputs / name).read_bytes() == b"picture"
    assert (inputs / "sub" / "a.png").read_bytes() == b"mine"
    # Neither another page's, nor a program's, nor what is no packed workflow.
    assert (await post(packed.getvalue(), Origin="https://evil.example"))[0] == 403
    assert (await post(packed.getvalue()))[0] == 403
    status, answer = await post(b"PK\x03\x04", **own)
    assert (status, answer["error"]["code"]) == (400, "workflow_invalid")
    assert sorted(path.name for path in inputs.iterdir()) == ["sub"]
