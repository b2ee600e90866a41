"""What other pages, and workflows of others, get of ComfyUI's routes where the lane listens.

The server here lets everything pass, as ComfyUI does where it is reached at a LAN address.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from owner import configure, confirm

from comfy_remote.node_pack.middleware import LaneRouter
from comfy_remote.node_pack.switch import Switch

LAN = "192.168.1.20:8188"
OURS = "0a1b2c3d-0000-4000-8000-000000000001"
EVIL = {"Host": LAN, "Origin": "http://evil.example"}
REBOUND = {"Host": "evil.example:8188", "Origin": "http://evil.example:8188"}
OWN = {"Host": LAN, "Origin": f"http://{LAN}"}
PROGRAM = {"Host": "gpu.example.lan"}

MARKED = {
    "nodes": [{"id": 1, "type": "X", "properties": {"comfy_remote": {"part": "http://evil/"}}}],
    "links": [],
}
LEAVES: dict[str, dict[str, Any]] = {
    "target": {"prompt": {}, "extra_data": {"comfy_remote": {"target": "http://evil.example"}}},
    "switch": {"prompt": {}, "client_id": "tab"},
    "mark": {"prompt": {}, "extra_data": {"extra_pnginfo": {"workflow": MARKED}}},
    **{
        name: {"prompt": {"1": {"class_type": name, "inputs": {"url": "http://evil.example"}}}}
        for name in (
            *("ComfyRemoteNode", "RunPodRemoteExecute"),
            *("ComfyRemoteModalDeployment", "ComfyRemotePart"),
        )
    },
}
LOCAL: dict[str, Any] = {"prompt": {"1": {"class_type": "EmptyImage", "inputs": {}}}}


@dataclass
class Server:
    http: TestClient[Any, Any]
    passed: list[str] = field(default_factory=list)
    lane: list[str] = field(default_factory=list)
    asked: list[tuple[str | None, Any]] = field(default_factory=list)

    async def post(self, path: str, body: object, headers: dict[str, str]) -> tuple[int, Any]:
        # As a form is sent: no browser asks anybody first.
        sent = {"Content-Type": "text/plain", **headers}
        async with self.http.post(path, data=json.dumps(body), headers=sent) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path))
    allowed = ["http://evil.example", "http://gpu.example:8188"]
    configure(tmp_path, f"allowed_addresses = {json.dumps(allowed)}\n")
    switch = Switch()
    switch.set("tab", "http://gpu.example:8188")

    class Lane:
        async def submit(
            self, body: object, target: str, peer: object, **_words: object
        ) -> dict[str, Any]:
            found.lane.append(target)
            return {}

        def has(self, prompt_id: object) -> bool:
            return prompt_id == OURS

        async def cancel(self, prompt_id: object) -> bool:
            found.lane.append(f"cancel {prompt_id}")
            return prompt_id == OURS

        def cancel_waiting(self) -> None:
            found.lane.append("clear")

        def interrupt(self, peer: object) -> bool:
            found.lane.append("interrupt")
            return True

        def show_running(self, client_id: str) -> None:
            found.lane.append(f"show {client_id}")

    class Host:
        def send(self, event: str, data: Any, client_id: str | None) -> None:
            assert event == "comfy_remote.confirm"
            found.asked.append((client_id, data))

        def before_prompt(self, body: Any) -> Any:
            return body

        def local_prompt(self) -> None:
            return None

        def connection(self, client_id: str) -> object:
            return object()

        def cancel_local(self, prompt_id: str) -> bool:
            return False

    class Offload:
        def note_ignored_marks(self, body: object, target: str) -> None:
            pass

        async def prepare(self, body: object, port: object) -> None:
            return None

    async def comfyui(request: web.Request) -> web.Response:
        found.passed.append(request.path)
        return web.json_response({})

    parts: Any = (Host(), switch, Lane(), Offload())
    app = web.Application(middlewares=[LaneRouter(*parts).middleware])
    app.router.add_route("*", "/{path:.*}", comfyui)
    async with TestClient(TestServer(app)) as http:
        found = Server(http)
        yield found


@pytest.mark.parametrize("headers", [EVIL, REBOUND, {**OWN, "Sec-Fetch-Site": "same-site"}])
@pytest.mark.parametrize("kind", LEAVES)
async def test_nothing_is_sent_for_another_page(
    server: Server, kind: str, headers: dict[str, str]
) -> None:
    status, body = await server.post("/prompt", LEAVES[kind], headers)
    assert status == 403
    assert body["error"]["type"] == "authentication"
    assert body["error"]["message"]
    assert (server.passed, server.lane) == ([], [])


@pytest.mark.parametrize("headers", [EVIL, REBOUND, OWN, PROGRAM])
async def test_a_prompt_that_stays_here_is_comfyuis_own_affair(
    server: Server, headers: dict[str, str]
) -> None:
    assert (await server.post("/api/prompt", LOCAL, headers))[0] == 200
    assert (server.passed, server.lane) == (["/api/prompt"], [])


@pytest.mark.parametrize("headers", [OWN, PROGRAM])
async def test_the_own_page_and_programs_send(server: Server, headers: dict[str, str]) -> None:
    assert (await server.post("/prompt", LEAVES["target"], headers))[0] == 200
    assert (await server.post("/prompt", LEAVES["switch"], headers))[0] == 200
    assert server.lane == ["http://evil.example", "http://gpu.example:8188"]
    assert server.passed == []


@pytest.mark.parametrize("charset", ["cp500", "utf-16", "utf-8"])
async def test_the_prompt_is_read_as_comfyui_reads_it(server: Server, charset: str) -> None:
    """In an encoding that we could not read, it would pass for one without our nodes."""
    data = json.dumps(LEAVES["ComfyRemoteNode"]).encode(charset)
    headers = {**EVIL, "Content-Type": f"text/plain; charset={charset}"}
    async with server.http.post("/prompt", data=data, headers=headers) as answer:
        assert answer.status == 403


async def test_nor_by_other_spellings(server: Server) -> None:
    data = json.dumps(LEAVES["ComfyRemoteNode"]).replace("ComfyRemoteNode", "\\u0043omfyRemoteNode")
    async with server.http.post("/prompt", data=data, headers=EVIL) as answer:
        assert answer.status == 403


@pytest.mark.parametrize("headers", [EVIL, REBOUND])
async def test_no_job_is_cancelled_for_another_page(
    server: Server, headers: dict[str, str]
) -> None:
    refused = [
        ("/interrupt", {"prompt_id": OURS}),
        ("/jobs/cancel", {"job_ids": [OURS]}),
        (f"/api/jobs/{OURS}/cancel", {}),
    ]
    for path, body in refused:
        assert (await server.post(path, body, headers))[0] == 403, path
    assert server.passed == []
    # These are ComfyUI's as well: it gets them, and ours go on.
    for path, body in (("/queue", {"clear": True, "delete": [OURS]}), ("/interrupt", {})):
        assert (await server.post(path, body, headers))[0] == 200, path
    await server.http.get("/ws?clientId=tab", headers=headers)
    assert server.passed == ["/queue", "/interrupt", "/ws"]
    assert server.lane == []


async def test_the_own_page_cancels(server: Server) -> None:
    for path, body in (
        ("/interrupt", {"prompt_id": OURS}),
        ("/interrupt", {}),
        ("/jobs/cancel", {"job_ids": [OURS]}),
        (f"/jobs/{OURS}/cancel", {}),
        ("/queue", {"clear": True, "delete": [OURS]}),
    ):
        assert (await server.post(path, body, OWN))[0] == 200, path
    cancel = f"cancel {OURS}"
    assert server.lane == [cancel, "interrupt", cancel, cancel, "clear", cancel]
    assert server.passed == ["/queue"]


async def test_names_of_the_owners_configuration(server: Server, tmp_path: Path) -> None:
    named = {"Host": "comfy.example.org", "Origin": "https://comfy.example.org"}
    status, body = await server.post("/prompt", LEAVES["target"], named)
    assert status == 403
    assert 'allowed_hosts = ["comfy.example.org"]' in body["error"]["message"]
    file = tmp_path / "comfy-remote.toml"
    file.write_text('allowed_hosts = ["comfy.example.org"]\n' + file.read_text())
    assert (await server.post("/prompt", LEAVES["target"], named))[0] == 200
    # A mistake in the file locks nobody out who needs none of it.
    file.write_text("[")
    assert (await server.post("/prompt", LEAVES["target"], EVIL))[0] == 403
    assert (await server.post("/prompt", LOCAL, OWN))[0] == 200
    assert (await server.post("/prompt", {**LOCAL, "client_id": "x"}, OWN))[0] == 200


# --- addresses that a workflow names

STRANGER = "http://10.1.2.3:9000"


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"5": {"class_type": class_type, "inputs": inputs}}


def _part(name: str) -> dict[str, Any]:
    return _node("ComfyRemotePart", part=json.dumps({"name": name, "prompt": {}}))


NAMING: list[tuple[dict[str, Any], str]] = [
    (_node("ComfyRemoteNode", url=f" {STRANGER}/api "), "Remote API"),
    (_node("ComfyRemoteNode", url=STRANGER, workflow="{}"), "Remote API"),
    (_node("ComfyRemoteNode", url="10.1.2.3:9000", workflow="x.json"), "Remote API"),
    (_node("RunPodRemoteExecute", target=STRANGER, enable_remote=True), "RunPod Remote Execute"),
    (
        _node("RunPodRemoteExecute", target=STRANGER, enable_remote=["1", 0]),
        "RunPod Remote Execute",
    ),
    (_part(STRANGER), "Remote part"),
]


@pytest.mark.parametrize("extra", [{}, {"comfy_remote": {"target": None}}])
@pytest.mark.parametrize(("prompt", "title"), NAMING)
async def test_a_workflow_does_not_choose_where_it_is_sent(
    server: Server, tmp_path: Path, prompt: dict[str, Any], title: str, extra: dict[str, Any]
) -> None:
    body = {"prompt": {**LOCAL["prompt"], **prompt}, "client_id": "me", "extra_data": extra}
    status, answer = await server.post("/prompt", body, OWN)
    assert (status, answer["error"]["type"]) == (400, "not_trusted")
    assert f"{title} (node 5) names {STRANGER}" in answer["error"]["message"]
    assert answer["node_errors"]["5"]["errors"][0]["message"] == f"{STRANGER} is not confirmed"
    node = {"node_id": "5", "title": title, "address": STRANGER}
    assert server.asked == [("me", {"address": STRANGER, "nodes": [node]})]
    assert server.passed == []
    # A script, which listens to nothing.
    assert (await server.post("/prompt", {**body, "client_id": None}, PROGRAM))[0] == 400
    assert len(server.asked) == 1
    confirm(tmp_path, STRANGER)
    assert (await server.post("/prompt", body, OWN))[0] == 200
    assert server.passed == ["/prompt"]


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:6379", "http://localhost:9", "https://x.example"]
)
async def test_this_machine_has_other_servers_than_ours(server: Server, address: str) -> None:
    body = {"prompt": _node("ComfyRemoteNode", url=address)}
    assert (await server.post("/prompt", body, OWN))[0] == 400


@pytest.mark.parametrize(
    "prompt",
    [
        _node("ComfyRemoteNode", url="gpu"),
        _node("ComfyRemoteNode", url=["1", 0]),  # known when it runs: the node itself asks
        _node("ComfyRemoteNode", url=""),
        _node("RunPodRemoteExecute", target="", enable_remote=True),
        _node("RunPodRemoteExecute", target="runpod:mine"),
        _node("RunPodRemoteExecute", target=STRANGER, enable_remote=False),
        _node("ComfyRemotePart", part="nonsense"),
        {
            "5": {"class_type": "ComfyRemoteNode"},
            "6": None,
            "7": {"class_type": ["x"], "inputs": {}},
        },
    ],
)
async def test_what_names_no_address_is_left_to_its_node(
    server: Server, prompt: dict[str, Any]
) -> None:
    assert (await server.post("/prompt", {"prompt": prompt}, OWN))[0] == 200


async def test_a_target_in_what_is_posted_is_the_owners_too(server: Server, tmp_path: Path) -> None:
    body = {"prompt": {}, "client_id": "me", "extra_data": {"comfy_remote": {"target": STRANGER}}}
    for headers in (OWN, PROGRAM):
        status, answer = await server.post("/prompt", body, headers)
        assert (status, answer["error"]["type"]) == (400, "not_trusted")
    assert server.lane == []
    assert server.asked == [("me", {"address": STRANGER, "nodes": []})] * 2
    confirm(tmp_path, STRANGER)
    assert (await server.post("/prompt", body, PROGRAM))[0] == 200
    assert server.lane == [STRANGER]
