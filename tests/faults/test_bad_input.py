"""Workflows and files that cannot be sent: refused with advice, and nothing leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lanes import (
    Lane,
    new_mark,
    picture,
    refused,
)

from comfy_remote import Client
from comfy_remote.errors import (
    InputFileMissing,
    RequestTooLarge,
    WorkflowInvalid,
)

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{not json", "not valid JSON"),
        ('{"1": NaN}', "not valid JSON"),
        ("", "not valid JSON"),
        ('{"nodes": [], "links": [], "version": 0.4}', "empty"),
        ("{}", "empty"),
        ("[]", "a list"),
        ('"prompt"', "a text"),
        ("42", "a number"),
        ("null", "null"),
        ('{"1": {"inputs": {}}}', "class_type"),
        ('{"1": {"class_type": "SaveImage", "inputs": {"images": ["9", 0]}}}', "node 9"),
    ],
)
async def test_a_file_that_is_no_prompt(
    comfyui: Lane, tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "workflow.json"
    path.write_text(text, encoding="utf-8")
    async with Client(comfyui.target()) as client:
        with pytest.raises(WorkflowInvalid, match=says) as caught:
            await client.submit(path)
    assert str(path) in caught.value.message
    assert "Export" in caught.value.advice or "export" in caught.value.advice
    assert comfyui.proxy.count(r"^/prompt") == 0


async def test_a_file_that_is_not_there(comfyui: Lane, tmp_path: Path) -> None:
    async with Client(comfyui.target()) as client:
        with pytest.raises(WorkflowInvalid, match="no file") as caught:
            await client.submit(tmp_path / "missing.json")
        assert caught.value.advice
        (tmp_path / "binary.json").write_bytes(b"\x89PNG\xff\xfe")
        with pytest.raises(WorkflowInvalid, match="not a text file"):
            await client.submit(tmp_path / "binary.json")
        with pytest.raises(WorkflowInvalid):
            await client.submit(tmp_path)
    assert comfyui.proxy.seen == []


async def test_an_unknown_node(any_lane: Lane, out: Path) -> None:
    mark = new_mark()
    prompt = picture(mark)
    prompt["7"] = {"class_type": "NoSuchNode", "inputs": {}}
    prompt["2"]["inputs"]["images"] = ["7", 0]
    error = await refused(WorkflowInvalid, any_lane, prompt, out)
    assert "NoSuchNode" in str(error)
    assert "node pack" in error.advice
    assert any_lane.engine.runs(mark) == 0


async def test_a_wrong_value(any_lane: Lane, out: Path) -> None:
    mark = new_mark()
    prompt = picture(mark)
    prompt["1"]["inputs"]["width"] = -3
    error = await refused(WorkflowInvalid, any_lane, prompt, out)
    assert "node 1 (EmptyImage)" in error.message
    assert "1" in error.details["node_errors"]
    assert any_lane.engine.runs(mark) == 0


async def test_nothing_is_saved(any_lane: Lane, out: Path) -> None:
    prompt = {"1": picture(new_mark())["1"]}
    error = await refused(WorkflowInvalid, any_lane, prompt, out)
    assert "saves or shows anything" in error.message


async def test_a_missing_input_file(any_lane: Lane, out: Path) -> None:
    mark = new_mark()
    prompt = picture(mark)
    prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": f"{mark}.png"}}
    error = await refused(InputFileMissing, any_lane, prompt, out)
    assert f"{mark}.png" in error.message
    assert "inputs=[FILE]" in error.advice
    assert any_lane.proxy.count(any_lane.submit) == 0


async def test_an_input_too_large_for_runpod(
    gateway: Lane, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As RunPod itself: a gateway of ours takes files by themselves.
    monkeypatch.setattr("comfy_remote.gateway.client_routes.FILES_HEADER", "X-Not-Ours")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large.png").write_bytes(os.urandom(9 << 20))
    prompt = picture(new_mark())
    prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": "large.png"}}
    error = await refused(RequestTooLarge, gateway, prompt, out)
    assert "9.0 MiB" in error.message
    assert gateway.proxy.count(gateway.submit) == 0
