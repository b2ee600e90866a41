"""Remote API's calls, without ComfyUI: what is told, named, and called off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from scripted_server import Answer, ScriptedServer
from test_node_pack_node_run import Interrupted, Page

from comfy_remote.calls.rest import RestClient
from comfy_remote.calls.values import ValueForm
from comfy_remote.errors import ExecutionFailed, JobTimedOut, ValueInvalid, WorkflowInvalid
from comfy_remote.media.values import DecodedValue
from comfy_remote.node_pack.nodes.remote_call import (
    RemoteCall,
    chosen_key,
    named_values,
)

RUNNING = {"status": "running", "progress": {"percent": 25}, "message": "Half-way there"}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        server.on("POST /", Answer({"status": "pending", "poll_url": "/7"}))
        server.on("DELETE /7", Answer({"status": "failed"}))
        yield server


async def _call(server: ScriptedServer, folder: Path, page: Page, **more: Any) -> Any:
    timeout = more.pop("timeout", None)
    call = RemoteCall("the service", page, timeout, form=ValueForm(), **more)
    values = {
        "prompt": DecodedValue("STRING", False, "a cat"),
        "steps": DecodedValue("*", False, 20),
    }
    async with RestClient(server.url, poll_interval=0.05) as client:
        with TemporaryDirectory(dir=folder) as private:
            return (await call.of_service(client, values, Path(private))).value


async def test_it_is_told_how_a_call_goes(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET /7", *[Answer(RUNNING)] * 10, Answer({"status": "done", "result": "a dog"}))
    page = Page()
    assert await _call(server, tmp_path, page, output_type="STRING") == "a dog"
    assert page.bars[0] == (25, 100)
    assert page.bars[-1] == (1, 1)
    assert any("Half-way there" in text for text in page.texts)
    sent = server.asked[0].json()["inputs"]
    assert [(one["name"], one["type"], one["data"]) for one in sent] == [
        ("prompt", "STRING", "a cat"),
        ("steps", "INT", 20),
    ]
    assert server.asked[0].json().keys() == {"inputs", "input_order"}


async def test_an_interrupt_cancels_it_there(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET /7", Answer(RUNNING))
    page = Page(interrupt_at="Half-way")
    with pytest.raises(Interrupted):
        await _call(server, tmp_path, page)
    assert server.count("DELETE /7") == 1
    assert page.texts[-1] == "Cancelled on the service"


async def test_so_does_the_end_of_its_time(server: ScriptedServer, tmp_path: Path) -> None:
    server.on("GET /7", Answer(RUNNING))
    with pytest.raises(JobTimedOut, match=r"within 1\.5 s"):
        await _call(server, tmp_path, Page(), timeout=1.5)
    assert server.count("DELETE /7") == 1


async def test_a_service_that_cannot_cancel_is_told_of(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.on("GET /7", Answer(RUNNING))
    server.on("DELETE /7", Answer({}, 405))
    page = Page(interrupt_at="Half-way")
    with pytest.raises(Interrupted):
        await _call(server, tmp_path, page)
    assert any("could not be cancelled" in line for line in page.logs)


async def test_what_goes_wrong_there_is_the_nodes_error(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.on("GET /7", Answer({"status": "failed", "error": "no GPU"}))
    with pytest.raises(ExecutionFailed, match="no GPU"):
        await _call(server, tmp_path, Page())
    server.on("GET /7", Answer({"status": "done", "result": "a dog"}))
    with pytest.raises(ValueInvalid, match="IMAGE"):
        await _call(server, tmp_path, Page(), output_type="IMAGE")
    with pytest.raises(WorkflowInvalid, match="no result 'picture'"):
        await _call(server, tmp_path, Page(), output_key="picture")
    assert server.count("DELETE /7") == 0


def _names(inputs: dict[str, object], keys: str = "") -> dict[str, object]:
    return {name: one.value for name, one in named_values(inputs, {}, keys).items()}


def test_inputs_have_the_names_of_the_keys() -> None:
    assert _names({"input_0": 1, "input_1": 2}, "image, prompt") == {"image": 1, "prompt": 2}
    assert _names({"input_1": 2, "input_0": None}, "image\nprompt") == {"prompt": 2}
    assert _names({"input_10": 10, "input_2": 2}) == {"input_2": 2, "input_10": 10}
    assert _names({"seed": 5, "input_0": 1}) == {"input_0": 1, "seed": 5}
    assert _names({"input_0_$remote_inputs_ag$": 1, "remote_inputs.input_1": 2}, ",b") == {
        "input_0": 1,
        "b": 2,
    }
    with pytest.raises(WorkflowInvalid, match="'image'"):
        _names({"input_0": 1, "image": 2}, "image")


def test_one_of_several_results_is_chosen() -> None:
    assert chosen_key(["a"], "") == "a"
    assert chosen_key(["a", "result"], "") == "result"
    assert chosen_key(["a", "result"], "a") == "a"
    for keys, wanted in ((["a", "b"], ""), (["a"], "b"), ([], "")):
        with pytest.raises(WorkflowInvalid):
            chosen_key(keys, wanted)
