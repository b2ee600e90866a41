"""The public worker-comfyui behind our gateway, under the real RunPod SDK: what comes of a job.

Each test runs on a stand-in made from that worker's documentation, and on its real handler where
``WORKER_COMFYUI_DIR`` names a checkout (which needs ``requests`` and ``websocket-client``).
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from lane_page import page
from pack import sandbox_with_pack
from PIL import Image
from sandbox_page import with_page

from comfy_remote.gateway import GatewayServer
from comfy_remote.sandbox.server import SandboxServer

pytest.importorskip("runpod")

_COLOURS = itertools.count(int(time.time()) % 0xFFFF)
_COMMAND = [sys.executable, str(Path(__file__).with_name("public_worker.py"))]

# The real handler looks into the history at once when it hears of an error, and may be too early.
_TRIES = 5


@pytest.fixture(params=["stand-in", "real"])
async def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The base address of an endpoint ``public``."""
    checkout = os.environ.get("WORKER_COMFYUI_DIR", "")
    usable = checkout and importlib.util.find_spec("websocket") is not None
    if request.param == "real" and not usable:
        pytest.skip("skipped: no WORKER_COMFYUI_DIR, or no websocket-client")
    # The real one wants a page at its engine's root before it sends anything.
    frontend = tmp_path / "frontend"
    frontend.mkdir()
    (frontend / "index.html").write_text("ComfyUI")
    async with (
        SandboxServer(extend=with_page(frontend)) as engine,
        GatewayServer(endpoint_id="public") as gateway,
    ):
        environment = {"TEST_ENGINE": engine.url, "WORKER_COMFYUI_DIR": ""}
        if request.param == "real":
            environment["WORKER_COMFYUI_DIR"] = checkout
        gateway.add_sdk_worker(_COMMAND, environment=environment)
        assert await gateway.wait_until_ready(60)
        yield gateway.url


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def _picture(side: int) -> dict[str, Any]:
    return _node("EmptyImage", width=side, height=side, batch_size=1, color=next(_COLOURS))


def _two_of_one_name() -> dict[str, Any]:
    """Pictures of 16 and 24 pixels, both called ``x_00001_.png``."""
    return {
        "1": _picture(16),
        "2": _picture(24),
        "3": _node("SaveImage", images=["1", 0], filename_prefix="colA/x"),
        "4": _node("SaveImage", images=["2", 0], filename_prefix="colB/x"),
    }


def _fails_after_saving() -> dict[str, Any]:
    return {
        "1": _picture(16),
        "2": _node("SaveImage", images=["1", 0], filename_prefix="before"),
        "3": _node("SandboxFail", image=["1", 0], mode="error", message="the sampler broke"),
        "4": _node("SaveImage", images=["3", 0], filename_prefix="after"),
    }


async def _run(
    endpoint: str, prompt: dict[str, Any], folder: Path, *options: str, command: str = "run"
) -> tuple[int, list[dict[str, Any]], str]:
    """A command on the workflow: its status, what it printed as JSON, its standard error."""
    (folder / "workflow.json").write_text(json.dumps(prompt))
    environment = {
        **os.environ,
        "COMFY_REMOTE_HOME": str(folder / "home"),
        "RUNPOD_ENDPOINT_BASE_URL": endpoint,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "comfy_remote", command, "workflow.json", "--on", "runpod:public"),
        *(("-o", "out") if command == "run" else ()),
        *options,
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 180)
    lines = out.decode().splitlines() if "--json" in options else []
    return process.returncode or 0, [json.loads(line) for line in lines], err.decode()


def _sides(folder: Path) -> list[int]:
    return sorted(Image.open(path).width for path in folder.rglob("*.png"))


async def test_two_files_of_one_name_arrive_both(endpoint: str, tmp_path: Path) -> None:
    status, events, err = await _run(endpoint, _two_of_one_name(), tmp_path, "--json")
    assert status == 0, err
    result = events[-1]
    assert [output["node_id"] for output in result["outputs"]] == [None, None]
    assert _sides(tmp_path / "out") == [16, 24]
    [said] = [e for e in events if e["event"] == "log" and "x_00001_.png" in e["message"]]
    assert "on no node" in said["message"]


async def test_files_whose_prefix_is_one_node_s_are_its(endpoint: str, tmp_path: Path) -> None:
    prompt = _two_of_one_name()
    prompt["4"]["inputs"]["filename_prefix"] = "colB/y"
    _, events, _ = await _run(endpoint, prompt, tmp_path, "--json")
    sides = {
        output["node_id"]: Image.open(output["path"]).width for output in events[-1]["outputs"]
    }
    assert sides == {"3": 16, "4": 24}
    assert not [event for event in events if event["event"] == "log"]


async def test_two_jobs_with_an_input_of_one_name_get_their_own(
    endpoint: str, tmp_path: Path
) -> None:
    """The client names files by content: this worker does not."""
    prompt = {
        "1": _node("SandboxLoad", image="in.png"),
        "2": _node("SaveImage", images=["1", 0], filename_prefix="own"),
    }
    for color in ((255, 0, 0), (0, 0, 255)):
        Image.new("RGB", (8, 8), color).save(tmp_path / "in.png")
        # What the node takes, nobody can ask this worker.
        status, events, err = await _run(endpoint, prompt, tmp_path, "--json", "--input", "in.png")
        assert status == 0, err
        [output] = events[-1]["outputs"]
        assert Image.open(output["path"]).convert("RGB").getpixel((0, 0)) == color


@pytest.mark.parametrize("name", ["pasted/in.png", "clipspace/in.png [input]", "in.png [output]"])
async def test_an_input_in_any_of_comfyuis_folders_arrives(
    endpoint: str, tmp_path: Path, name: str
) -> None:
    """That worker uploads a file under its whole name, and ComfyUI makes no folder for it."""
    plain = name.partition(" ")[0]
    path = tmp_path / ("output" if name.endswith("[output]") else "") / plain
    path.parent.mkdir(exist_ok=True)
    color = tuple((next(_COLOURS) + 1).to_bytes(3, "big"))
    Image.new("RGB", (8, 8), color).save(path)
    prompt = {
        "1": _node("LoadImage", image=name),
        "2": _node("SaveImage", images=["1", 0], filename_prefix="own"),
    }
    status, events, err = await _run(endpoint, prompt, tmp_path, "--json")
    assert status == 0, err
    [output] = events[-1]["outputs"]
    assert Image.open(output["path"]).convert("RGB").getpixel((0, 0)) == color


async def test_a_workflow_that_fails_after_a_file_was_saved_has_failed(
    endpoint: str, tmp_path: Path
) -> None:
    for _ in range(_TRIES):
        status, events, _ = await _run(endpoint, _fails_after_saving(), tmp_path, "--json")
        partial, error = events[-2:]
        assert status == 5
        if partial["event"] == "partial":
            break
    assert error["event"] == "error"
    assert error["code"] == "execution_failed"
    assert "the sampler broke" in error["message"]
    assert error["details"]["node_id"] == "3"
    assert error["resume"] is None
    [saved] = partial["outputs"]
    assert saved["node_id"] == "2"
    assert _sides(tmp_path / "out") == [16]

    status, _, err = await _run(endpoint, _fails_after_saving(), tmp_path)
    assert status == 5
    assert "Saved before it failed: 1." in err


async def test_what_it_cannot_return_is_said_before_and_after(
    endpoint: str, tmp_path: Path
) -> None:
    prompt = {
        "1": _picture(16),
        "2": _node("SaveImage", images=["1", 0], filename_prefix="x"),
        "3": _node("PreviewImage", images=["1", 0]),
        "4": _node("SandboxFile", filename="a.wav", size=10, list_under="audio"),
    }
    for known in (False, True):
        status, events, err = await _run(endpoint, prompt, tmp_path, "--json")
        assert status == 0, err
        kinds = [event["event"] for event in events]
        said = [e["message"] for e in events[: kinds.index("submitted")] if e["event"] == "log"]
        after = [e["message"] for e in events[kinds.index("submitted") :] if e["event"] == "log"]
        # Whether it is this worker is not known at first, and previews alone are no reason to ask.
        assert bool(said) is known
        for sentence in [*said, *after]:
            assert "3 (PreviewImage: previews)" in sentence
            assert "4 (SandboxFile)" in sentence
        assert len(after) == 1
        prompt["1"] = _picture(16)
    _, [report], _ = await _run(endpoint, prompt, tmp_path, "--json", command="check")
    [problem] = [one for one in report["problems"] if one["code"] == "outputs_not_returned"]
    assert problem["severity"] == "warning"
    assert "3 (PreviewImage: previews)" in problem["message"]


async def test_where_nothing_comes_back_the_reason_is_the_worker(
    endpoint: str, tmp_path: Path
) -> None:
    prompt = {"1": _picture(16), "2": _node("PreviewImage", images=["1", 0])}
    status, events, _ = await _run(endpoint, prompt, tmp_path, "--json")
    assert status == 7
    error = events[-1]
    assert "nothing of what it made came back" in error["message"]
    assert "2 (PreviewImage: previews)" in error["message"]
    assert "Comfy Remote's own worker" in error["advice"]
    assert "Save Image" not in error["message"] + error["advice"]
    assert error["resume"] is None


async def test_what_its_comfyui_refuses_is_said_as_any_comfyui_says_it(
    endpoint: str, tmp_path: Path
) -> None:
    prompt = {
        "1": _node("EmptyImage", width=-1, height=16, batch_size=1, color=0),
        "2": _node("SaveImage", images=["1", 0], filename_prefix="x"),
    }
    status, events, _ = await _run(endpoint, prompt, tmp_path, "--json")
    assert status == 4
    error = events[-1]
    assert error["code"] == "workflow_invalid"
    assert "node 1 (EmptyImage): Value -1 smaller than min of 1" in error["message"]
    assert (error["details"]["node_id"], error["details"]["node_class"]) == ("1", "EmptyImage")
    [problem] = error["details"]["node_errors"]["1"]["errors"]
    assert problem["type"] == "value_smaller_than_min"

    prompt["1"] = _node("NoSuchNode")
    status, events, _ = await _run(endpoint, prompt, tmp_path, "--json")
    assert status == 4
    assert events[-1]["code"] == "workflow_invalid"
    assert "NoSuchNode" in events[-1]["message"]
    assert "install the node pack" in events[-1]["advice"]


async def test_the_page_shows_each_on_its_own_node_or_on_none(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", endpoint)
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    same, failing = _two_of_one_name(), _fails_after_saving()
    same["5"] = _picture(32)
    same["6"] = _node("SaveImage", images=["5", 0], filename_prefix="third")
    with sandbox_with_pack(tmp_path) as server:
        await _in_the_page(server.url, same, failing)


async def _in_the_page(url: str, same: dict[str, Any], failing: dict[str, Any]) -> None:
    async with page(url) as shown:
        answer = await shown.queue(same, "runpod:public")
        prompt_id = answer.body["prompt_id"]
        entry = await shown.ended(prompt_id)
        assert entry["status"]["status_str"] == "success"
        told = [data for name, data in shown.of(prompt_id) if name == "executed"]
        assert [data["node"] for data in told] == ["6"]
        files = [file for made in entry["outputs"].values() for file in made["images"]]
        assert len({file["filename"] for file in files}) == 3
        end = await shown.heard("comfy_remote.job", prompt_id, state="succeeded")
        assert any("on no node" in warning for warning in end["warnings"])

        for _ in range(_TRIES):
            failing["1"] = _picture(16)
            answer = await shown.queue(failing, "runpod:public")
            prompt_id = answer.body["prompt_id"]
            entry = await shown.ended(prompt_id)
            assert entry["status"]["status_str"] == "error"
            if entry["outputs"]:
                break
        assert list(entry["outputs"]) == ["2"]
        error = await shown.heard("execution_error", prompt_id)
        assert error["node_id"] == "3"
