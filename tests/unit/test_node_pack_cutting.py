"""What the page is told about a cut, by a sandbox with the pack and a target beside it."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from owner import configure
from sandbox_page.host import SandboxHost

from comfy_remote.errors import NotTrusted
from comfy_remote.jobs.record import Record
from comfy_remote.node_pack.nodes.part_run import PartRun
from comfy_remote.node_pack.pack import install
from comfy_remote.node_pack.part_document import PartDocument
from comfy_remote.node_pack.switch import Switch
from comfy_remote.node_pack.target_pool import TargetPool
from comfy_remote.sandbox.server import SandboxServer
from comfy_remote.workflow.schema import Schemas

PROMPT: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 32, "batch_size": 1}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}


def marked(part: str | None, node_id: int = 2) -> dict[str, Any]:
    mark = {"comfy_remote": {"part": part}}
    return {"nodes": [{"id": node_id, "type": "ImageInvert", "properties": mark}]}


@pytest.fixture
async def http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[aiohttp.ClientSession]:
    for name in [name for name in os.environ if name.startswith("RUNPOD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    async with SandboxServer() as there:
        configure(
            tmp_path / "home",
            f'default = "there"\n[targets.there]\ntarget = "{there.url}"\n'
            f'[targets.other]\ntarget = "{there.url}/"\n'
            '[targets.gone]\ntarget = "http://127.0.0.1:9"\n',
        )
        record = Record(tmp_path / "home")
        server = SandboxServer(extend=lambda app: install(SandboxHost(app), record))
        async with server, aiohttp.ClientSession(server.url) as http:
            yield http


@pytest.fixture
def post(http: aiohttp.ClientSession) -> Any:
    async def post(path: str, **body: Any) -> tuple[int, Any]:
        async with http.post(path, json=body) as answer:
            return answer.status, await answer.json()

    return post


async def test_the_cut_is_told_and_nothing_runs(post: Any) -> None:
    status, answer = await post("/remote/cut", prompt=PROMPT, workflow=marked(""))
    assert status == 200
    (part,) = answer["parts"]
    assert (part["name"], part["nodes"], answer["here"]) == ("there", ["2"], ["1", "3"])
    assert part["inputs"][0]["size"] > 64 * 32 * 12


async def test_a_mark_without_a_name_follows_the_clients_switch(post: Any) -> None:
    async def name(client_id: str | None) -> str:
        body = {"prompt": PROMPT, "workflow": marked(""), "client_id": client_id}
        _, answer = await post("/remote/cut", **body)
        return str(answer["parts"][0]["name"])

    await post("/remote/switch", client_id="a", target="other")
    await post("/remote/switch", client_id="b", target=None, usual="other")
    assert [await name(one) for one in ("a", "b", "c", None)] == [
        *("other", "other", "there", "there")
    ]
    await post("/remote/switch", client_id="b", target=None)
    assert await name("b") == "there"


async def test_without_marks_no_target_is_asked(post: Any) -> None:
    for workflow in ({"nodes": []}, marked(None), marked("gone", node_id=77)):
        status, answer = await post("/remote/cut", prompt=PROMPT, workflow=workflow)
        assert (status, answer["parts"]) == (200, [])


async def test_a_comfyui_without_our_nodes_is_refused_before_anything_runs(
    post: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: dict[str, Any] = {n: {} for n in ("LoadImage", "ImageInvert", "SaveImage")}

    async def schemas(_pool: object, target: str) -> Schemas:
        return Schemas(plain, target)

    monkeypatch.setattr(TargetPool, "schemas", schemas)
    status, answer = await post("/remote/cut", prompt=PROMPT, workflow=marked("there"))
    assert (status, answer["error"]["code"]) == (400, "cut_impossible")
    assert "Install the node pack comfy-remote on there" in answer["error"]["advice"]
    assert [*answer["error"]["details"]["node_errors"]] == ["2"]


@pytest.mark.usefixtures("quick_retries")
async def test_why_not_is_told(post: Any) -> None:
    prompt = {**PROMPT, "2": {"class_type": "NobodyHasIt", "inputs": {"image": ["1", 0]}}}
    status, answer = await post("/remote/cut", prompt=prompt, workflow=marked("there"))
    assert (status, answer["error"]["code"]) == (400, "cut_impossible")
    assert [*answer["error"]["details"]["node_errors"]] == ["2"]
    status, answer = await post("/remote/cut", prompt=PROMPT, workflow=marked("gone"))
    assert (status, answer["error"]["code"]) == (502, "target_unreachable")
    status, answer = await post("/remote/cut", prompt={"1": 2}, workflow=marked("gone"))
    assert (status, answer["error"]["code"]) == (400, "workflow_invalid")


def test_the_switch_forgets_what_is_not_said_again() -> None:
    switch = Switch()
    switch.set("a", None, "x")
    assert (switch.target_of("a"), switch.usual_target_of("a")) == (None, "x")
    assert not switch.in_use
    switch.set("a", "y")
    assert switch.usual_target_of("a") == "y"
    switch.set("a", None)
    assert switch.usual_target_of("a") is None


@pytest.mark.parametrize(
    "address",
    [
        "https://gpu.example.com",
        "http://192.0.2.7:8188",
        "abc123-8188.proxy.runpod.net",
        "pod:abc123def456",
        "http://127.0.0.1@example.com",
        "localhost.example.com:8188",
        # This machine has other servers than ours.
        "http://127.0.0.1:6379",
        "localhost:8189",
    ],
)
async def test_a_workflow_does_not_choose_where_pictures_go(post: Any, address: str) -> None:
    """An address is its owner's to name, or to confirm in the page."""
    status, answer = await post("/remote/cut", prompt=PROMPT, workflow=marked(address))
    assert status == 403
    assert answer["error"]["code"] == "not_trusted"
    assert "allowed_addresses = [" in answer["error"]["advice"]
    (node,) = answer["error"]["details"]["nodes"]
    assert node["node_id"] == "2"
    body = {"prompt": PROMPT, "extra_data": {"extra_pnginfo": {"workflow": marked(address)}}}
    status, answer = await post("/prompt", **body)
    assert (status, answer["error"]["type"]) == (400, "not_trusted")
    assert [*answer["node_errors"]] == ["2"]
    # Nor does the target of the switch, which a mark without a name stands for.
    await post("/remote/switch", client_id="c", target=None, usual=address)
    body = {"prompt": PROMPT, "workflow": marked(""), "client_id": "c"}
    status, answer = await post("/remote/cut", **body)
    assert (status, answer["error"]["code"]) == (403, "not_trusted")


@pytest.mark.parametrize("address", ["https://gpu.example.com", "http://127.0.0.1:6379"])
async def test_nor_does_a_part_that_a_workflow_brings_along(post: Any, address: str) -> None:
    document = {"name": address, "prompt": PROMPT, "inputs": [], "outputs": []}
    part = {"class_type": "ComfyRemotePart", "inputs": {"part": json.dumps(document)}}
    status, answer = await post("/prompt", prompt={"1": part})
    assert (status, answer["error"]["type"]) == (400, "not_trusted")
    assert f"Remote part (node 1) names {address}" in answer["error"]["message"]
    # Where nobody has read what was posted, the part itself refuses.
    with pytest.raises(NotTrusted, match="that you have not confirmed"):
        await PartRun(Any, PartDocument.parse(json.dumps(document)), Any).run([])  # type: ignore[arg-type]
