"""The sandbox as a client sees it: queue, cancel, faults, previews, cache, files, its end."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from engine_client import EngineClient
from helpers import start_sandbox
from parity_cases import node

from comfy_remote.sandbox.nodes.testing import SandboxSlow
from comfy_remote.sandbox.server import SandboxServer
from comfy_remote.targets.sandbox.target import SandboxTarget


@pytest.fixture
async def server() -> AsyncIterator[SandboxServer]:
    async with SandboxServer() as server:
        yield server


@pytest.fixture
async def http(server: SandboxServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url) as session:
        yield session


def slow(steps: int = 3, seconds: float = 0.0, seed: int = 0, **more: Any) -> dict[str, Any]:
    """An image that takes its time, and is saved."""
    inputs = {"image": ["1", 0], "steps": steps, "seconds_per_step": seconds, "seed": seed}
    return {
        "1": node("EmptyImage", width=64, height=32, batch_size=1, color=0xFF0000),
        "2": node("SandboxSlow", **{"preview": True, **inputs, **more}),
        "3": node("SaveImage", images=["2", 0], filename_prefix="slow"),
    }


def fails(mode: str, message: str = "oh no") -> dict[str, Any]:
    """A prompt whose middle node fails."""
    prompt = slow()
    prompt["2"] = node("SandboxFail", image=["1", 0], mode=mode, message=message)
    return prompt


async def submit(http: aiohttp.ClientSession, prompt: Any, **fields: Any) -> str:
    async with http.post("/prompt", json={"prompt": prompt, **fields}) as response:
        body = await response.json()
        assert response.status == 200, body
        return str(body["prompt_id"])


async def finished(http: aiohttp.ClientSession, prompt_id: str) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if entry := (await get(http, f"/history/{prompt_id}")).get(prompt_id):
            return entry
        await asyncio.sleep(0.01)
    raise TimeoutError(prompt_id)


async def get(http: aiohttp.ClientSession, path: str) -> Any:
    async with http.get(path) as response:
        return await response.json()


async def until_running(http: aiohttp.ClientSession, prompt_id: str) -> None:
    deadline = time.monotonic() + 60
    while prompt_id not in [item[1] for item in (await get(http, "/queue"))["queue_running"]]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def events(entry: Any) -> list[str]:
    return [event for event, _ in entry["status"]["messages"]]


# --- running -----------------------------------------------------------------------------------


async def test_both_prefixes_answer(http: aiohttp.ClientSession) -> None:
    for prefix in ("", "/api"):
        assert "system" in await get(http, f"{prefix}/system_stats")
        assert list(await get(http, f"{prefix}/object_info/SaveImage")) == ["SaveImage"]
        assert await get(http, f"{prefix}/object_info/NoSuchNode") == {}


async def test_a_clients_prompt_id_is_kept(http: aiohttp.ClientSession) -> None:
    prompt_id = str(uuid.uuid4())
    assert await submit(http, slow(), prompt_id=prompt_id) == prompt_id
    entry = await finished(http, prompt_id)
    assert entry["prompt"][1] == prompt_id
    assert entry["prompt"][4] == ["3"]
    assert entry["outputs"]["3"]["images"] == [
        {"filename": "slow_00001_.png", "subfolder": "", "type": "output"}
    ]


async def test_only_what_outputs_need_runs(http: aiohttp.ClientSession) -> None:
    prompt = slow()
    prompt["7"] = node("SandboxFail", image=["1", 0], mode="error", message="not needed")
    entry = await finished(http, await submit(http, prompt))
    assert entry["status"]["completed"]


async def test_partial_execution(http: aiohttp.ClientSession) -> None:
    prompt = slow()
    prompt["4"] = node("PreviewImage", images=["1", 0])
    entry = await finished(http, await submit(http, prompt, partial_execution_targets=["4"]))
    assert list(entry["outputs"]) == ["4"]
    listed = entry["outputs"]["4"]["images"][0]
    assert listed["type"] == "temp"
    assert listed["filename"].startswith("ComfyUI_temp_")


async def test_a_cached_prompt_still_has_outputs(http: aiohttp.ClientSession) -> None:
    first = await finished(http, await submit(http, slow()))
    second = await finished(http, await submit(http, slow()))
    assert second["outputs"] == first["outputs"]
    cached = dict(second["status"]["messages"])["execution_cached"]["nodes"]
    assert sorted(cached) == ["1", "2", "3"]

    changed = await finished(http, await submit(http, slow(seed=1)))
    assert dict(changed["status"]["messages"])["execution_cached"]["nodes"] == ["1"]
    assert changed["outputs"] != first["outputs"]


async def test_free_forgets_results(http: aiohttp.ClientSession) -> None:
    await finished(http, await submit(http, slow()))
    await http.post("/free", json={"free_memory": True})
    entry = await finished(http, await submit(http, slow()))
    assert dict(entry["status"]["messages"])["execution_cached"]["nodes"] == []


async def test_a_changed_file_is_loaded_anew(
    http: aiohttp.ClientSession, server: SandboxServer
) -> None:
    from PIL import Image

    path = server.directory / "input/in.png"
    prompt = {
        "1": node("LoadImage", image="in.png"),
        "2": node("SaveImage", images=["1", 0], filename_prefix="out"),
    }
    for number, color in enumerate(("red", "blue"), 1):
        Image.new("RGB", (2, 2), color).save(path)
        await finished(http, await submit(http, prompt))
        saved = Image.open(server.directory / f"output/out_0000{number}_.png")
        assert saved.getpixel((0, 0)) == Image.new("RGB", (1, 1), color).getpixel((0, 0))


# --- queue and cancel --------------------------------------------------------------------------


async def test_the_loop_answers_while_a_prompt_runs(http: aiohttp.ClientSession) -> None:
    prompt_id = await submit(http, slow(1, 1.0))
    await until_running(http, prompt_id)
    assert (await get(http, "/prompt"))["exec_info"]["queue_remaining"] == 1
    assert (await finished(http, prompt_id))["status"]["completed"]


async def test_the_queue_is_in_order_and_can_be_changed(http: aiohttp.ClientSession) -> None:
    running = await submit(http, slow(100, 0.1))
    await until_running(http, running)
    waiting = [await submit(http, slow(seed=n)) for n in range(1, 4)]
    front = await submit(http, slow(seed=9), front=True)
    await http.post("/queue", json={"delete": [waiting[1]]})
    queue = await get(http, "/queue")
    assert [item[1] for item in queue["queue_running"]] == [running]
    assert [item[1] for item in queue["queue_pending"]] == [front, waiting[0], waiting[2]]

    await http.post("/interrupt", json={"prompt_id": running})
    for prompt_id in (front, waiting[0], waiting[2]):
        assert (await finished(http, prompt_id))["status"]["completed"]
    history = await get(http, "/history")
    assert list(history) == [running, front, waiting[0], waiting[2]]
    assert list(await get(http, "/history?max_items=2")) == [waiting[0], waiting[2]]
    assert list(await get(http, "/history?max_items=2&offset=1")) == [front, waiting[0]]

    await http.post("/history", json={"delete": [front]})
    assert front not in await get(http, "/history")
    await http.post("/history", json={"clear": True})
    assert await get(http, "/history") == {}


async def test_interrupt_ends_a_sleep_at_once(http: aiohttp.ClientSession) -> None:
    prompt_id = await submit(http, slow(1, 3600))
    await until_running(http, prompt_id)
    await http.post("/interrupt", json={"prompt_id": str(uuid.uuid4())})  # somebody else's
    await asyncio.sleep(0.1)
    assert prompt_id not in await get(http, "/history")
    began = time.monotonic()
    await http.post("/interrupt", data=b"")
    entry = await finished(http, prompt_id)
    assert time.monotonic() - began < 60
    assert entry["status"]["status_str"] == "error"
    assert events(entry)[-1] == "execution_interrupted"
    assert entry["status"]["messages"][-1][1]["node_id"] == "2"
    assert entry["outputs"] == {}


async def test_an_idle_interrupt_does_not_hit_the_next_prompt(http: aiohttp.ClientSession) -> None:
    await http.post("/interrupt", json={})
    assert (await finished(http, await submit(http, slow())))["status"]["completed"]


# --- faults ------------------------------------------------------------------------------------


async def test_an_error_is_reported_with_its_node(http: aiohttp.ClientSession) -> None:
    entry = await finished(http, await submit(http, fails("error", "the message")))
    event, data = entry["status"]["messages"][-1]
    assert event == "execution_error"
    assert (data["node_id"], data["node_type"]) == ("2", "SandboxFail")
    assert data["exception_type"] == "RuntimeError"
    assert data["exception_message"].startswith("the message")
    assert data["executed"] == ["1"]
    assert data["current_inputs"]["message"] == ["the message"]
    assert any("SandboxFail" in line or "testing.py" in line for line in data["traceback"])
    assert (await finished(http, await submit(http, slow())))["status"]["completed"]


async def test_out_of_memory_goes_by_its_name(http: aiohttp.ClientSession) -> None:
    entry = await finished(http, await submit(http, fails("out_of_memory")))
    assert entry["status"]["messages"][-1][1]["exception_type"] == "torch.OutOfMemoryError"


async def test_a_crash_inside_somebody_elses_process_is_an_error(
    http: aiohttp.ClientSession,
) -> None:
    entry = await finished(http, await submit(http, fails("crash")))
    assert events(entry)[-1] == "execution_error"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"[]", "no_prompt"),
        (b"{}", "no_prompt"),
        (b'{"prompt": {}}', "prompt_no_outputs"),
        (b'{"prompt": {"1": {}}}', "missing_node_type"),
        (b'{"prompt": {}, "prompt_id": "7"}', "invalid_prompt_id"),
        (b'{"prompt": {"1": {"class_type": "SaveImage"}}}', "prompt_outputs_failed_validation"),
    ],
)
async def test_bad_bodies(http: aiohttp.ClientSession, body: bytes, kind: str) -> None:
    async with http.post("/prompt", data=body) as response:
        assert response.status == 400
        assert (await response.json())["error"]["type"] == kind


async def test_bad_outputs_name_their_nodes(http: aiohttp.ClientSession) -> None:
    prompt = slow(steps=0)
    async with http.post("/prompt", json={"prompt": prompt}) as response:
        body = await response.json()
    assert body["node_errors"]["2"]["class_type"] == "SandboxSlow"
    assert body["node_errors"]["2"]["dependent_outputs"] == ["3"]
    assert body["node_errors"]["2"]["errors"][0]["type"] == "value_smaller_than_min"


async def test_links_of_unknown_inputs_are_ignored(http: aiohttp.ClientSession) -> None:
    prompt = slow()
    prompt["2"]["inputs"]["nobody_knows_me"] = ["77", 0]
    assert (await finished(http, await submit(http, prompt)))["status"]["completed"]


# --- socket ------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", [True, False])
async def test_previews_come_as_the_client_likes_them(
    http: aiohttp.ClientSession, metadata: bool
) -> None:
    async with http.ws_connect("/ws?clientId=me") as socket:
        assert (await socket.receive_json())["data"]["sid"] == "me"
        if metadata:
            flags = {"supports_preview_metadata": True}
            await socket.send_json({"type": "feature_flags", "data": flags})
        prompt_id = await submit(http, slow(steps=3), client_id="me")
        previews, steps = [], []
        async for message in socket:
            if message.type == aiohttp.WSMsgType.BINARY:
                previews.append(message.data)
                continue
            event = json.loads(message.data)
            if event["type"] == "progress":
                steps.append((event["data"]["value"], event["data"]["max"]))
            if event["type"] == "executing" and event["data"]["node"] is None:
                break
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert len(previews) == 3
    if metadata:
        kind, length = struct.unpack(">II", previews[0][:8])
        facts = json.loads(previews[0][8 : 8 + length])
        assert kind == 4
        assert (facts["node_id"], facts["prompt_id"]) == ("2", prompt_id)
        assert facts["image_type"] == "image/jpeg"
        picture = previews[0][8 + length :]
    else:
        assert struct.unpack(">II", previews[0][:8]) == (1, 1)
        picture = previews[0][8:]
    assert picture.startswith(b"\xff\xd8\xff")


async def test_the_history_is_written_before_the_last_message(http: aiohttp.ClientSession) -> None:
    async with http.ws_connect("/ws?clientId=me") as socket:
        prompt_id = await submit(http, slow(), client_id="me")
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            if event["type"] == "executing" and event["data"]["node"] is None:
                break
        assert prompt_id in await get(http, f"/history/{prompt_id}")


async def test_a_client_that_comes_back_learns_what_runs(http: aiohttp.ClientSession) -> None:
    prompt_id = await submit(http, slow(1, 3600), client_id="me")
    await until_running(http, prompt_id)
    await asyncio.sleep(0.1)
    async with http.ws_connect("/ws?clientId=me") as socket:
        received = [await socket.receive_json() for _ in range(2)]
    assert received[1] == {"type": "executing", "data": {"node": "2"}}
    await http.post("/interrupt")


async def test_other_sites_pages_are_refused(
    http: aiohttp.ClientSession, server: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for origin, status in (("https://example.com", 403), (server.url, 200), ("null", 403)):
        async with http.get("/prompt", headers={"Origin": origin}) as response:
            assert response.status == status, origin
    rebound = {"Host": "evil.example:8188"}
    async with http.get("/prompt", headers=rebound) as response:
        assert response.status == 403
        assert "COMFY_REMOTE_ALLOWED_HOSTS=evil.example" in await response.text()
    monkeypatch.setenv("COMFY_REMOTE_ALLOWED_HOSTS", "evil.example")
    async with http.get("/prompt", headers=rebound) as response:
        assert response.status == 200


# --- files -------------------------------------------------------------------------------------


async def test_sandbox_file_lists_what_it_is_told(
    http: aiohttp.ClientSession, server: SandboxServer
) -> None:
    inputs = {
        "filename": "big.bin",
        "subfolder": "a/b",
        "size": 3_000_001,
        "list_under": "gifs",
        "listed_filename": "../../x",
        "listed_subfolder": "",
    }
    entry = await finished(http, await submit(http, {"1": node("SandboxFile", **inputs)}))
    assert entry["outputs"]["1"] == {
        "gifs": [{"filename": "../../x", "subfolder": "a/b", "type": "output"}]
    }
    assert (server.directory / "output/a/b/big.bin").stat().st_size == 3_000_001
    async with http.get("/view?filename=big.bin&subfolder=a/b") as response:
        whole = await response.read()
    async with http.get(
        "/view?filename=big.bin&subfolder=a/b", headers={"Range": "bytes=2999990-"}
    ) as response:
        assert response.status == 206
        assert await response.read() == whole[2_999_990:]


async def test_sandbox_file_stays_in_the_output_folder(
    http: aiohttp.ClientSession, server: SandboxServer
) -> None:
    name = f"outside-{uuid.uuid4()}"
    inputs = {
        "filename": name,
        "subfolder": "../..",
        "size": 1,
        "list_under": "files",
        "listed_filename": "",
        "listed_subfolder": "",
    }
    entry = await finished(http, await submit(http, {"1": node("SandboxFile", **inputs)}))
    assert entry["status"]["messages"][-1][1]["exception_type"].endswith("PathOutsideFolder")
    assert not (server.directory.parent / name).exists()


@pytest.mark.parametrize(
    ("name", "fields", "status"),
    [
        ("../x.png", {}, 400),
        ("a/../../x.png", {}, 400),
        ("x.png", {"subfolder": "../../y"}, 400),
        ("x.png", {"type": "elsewhere"}, 500),
    ],
)
async def test_uploads_stay_inside(
    http: aiohttp.ClientSession,
    server: SandboxServer,
    name: str,
    fields: dict[str, str],
    status: int,
) -> None:
    form = aiohttp.FormData(fields, quote_fields=False)
    form.add_field("image", b"data", filename=name)
    async with http.post("/upload/image", data=form) as response:
        assert response.status == status
    files = [path for path in server.directory.rglob("*") if path.is_file()]
    assert [path for path in files if not path.name.startswith(".lock")] == []


async def test_settings_that_are_changed_at_once_are_all_changed(
    http: aiohttp.ClientSession,
) -> None:
    async def change(number: int) -> int:
        async with http.post(f"/settings/it.{number}", json=number) as answer:
            return answer.status

    assert set(await asyncio.gather(*map(change, range(20)))) == {200}
    async with http.get("/settings") as answer:
        assert await answer.json() == {f"it.{number}": number for number in range(20)}


async def test_pages_are_not_shown(http: aiohttp.ClientSession, server: SandboxServer) -> None:
    (server.directory / "output/page.html").write_text("<script>")
    async with http.get("/view?filename=page.html") as response:
        assert response.content_type == "application/octet-stream"
        assert response.headers["Content-Disposition"].startswith("attachment")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
async def test_a_name_with_control_characters_is_shown_too(
    http: aiohttp.ClientSession, server: SandboxServer
) -> None:
    (server.directory / "output" / "a\x1b]0;\x07\n.png").write_bytes(b"data")
    async with http.get("/view", params={"filename": "a\x1b]0;\x07\n.png"}) as response:
        assert (response.status, await response.read()) == (200, b"data")


# --- life and death ----------------------------------------------------------------------------


def start(*arguments: str) -> tuple[subprocess.Popen[bytes], EngineClient]:
    url, process = start_sandbox(*arguments)
    return process, EngineClient(url)


def test_stop_ends_the_process_and_its_folder() -> None:
    process, engine = start()
    engine.submit(slow(1, 3600))
    upload = engine.upload("x.png", b"x")
    assert upload == {"name": "x.png", "subfolder": "", "type": "input"}
    assert engine.request("/sandbox/stop", {})[0] == 200
    assert process.wait(180) == 0


async def test_a_sandbox_whose_job_is_followed_is_ended_by_nobody_else() -> None:
    """Who cancels another terminal's job must not end what that terminal is still asking."""
    url, process = await asyncio.to_thread(start_sandbox)
    async with aiohttp.ClientSession(url) as http, http.ws_connect("/ws?clientId=follower"):
        async with SandboxTarget(url) as taken_up:
            await taken_up.health()
        assert process.poll() is None
        assert (await get(http, "/queue"))["queue_running"] == []
    async with SandboxTarget(url):
        pass
    assert await asyncio.to_thread(process.wait, 60) == 0


def test_a_crash_ends_the_process(tmp_path: Path) -> None:
    process, engine = start("--directory", str(tmp_path))
    prompt = slow(1, 1.0)  # so that the submission is answered first
    prompt["4"] = node("SandboxFail", image=["2", 0], mode="crash", message="")
    prompt["3"]["inputs"]["images"] = ["4", 0]
    engine.submit(prompt)
    assert process.wait(180) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"input", "output", "temp"}


def test_idle_exit_waits_for_the_prompt() -> None:
    # Long enough for a busy machine to send the prompt, and shorter than it runs.
    process, engine = start("--idle-exit", "3")
    began = time.monotonic()
    engine.submit(slow(1, 4.0))
    assert process.wait(180) == 0
    assert time.monotonic() - began > 4.0


async def test_the_temporary_folder_is_removed_and_the_thread_ends() -> None:
    async with SandboxServer() as server:
        directory = server.directory
        assert directory.is_dir()
    assert not directory.exists()
    assert "sandbox-worker" not in [thread.name for thread in threading.enumerate()]


async def test_a_port_in_use_is_an_os_error_and_leaves_nothing(server: SandboxServer) -> None:
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(OSError, match="address"):
        await SandboxServer(port=port).__aenter__()
    workers = [t for t in threading.enumerate() if t.name == "sandbox-worker"]
    assert len(workers) == 1


class _BusyContext:
    """Of a node whose every report of progress takes a while."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        time.sleep(seconds)

    def progress(self, value: int, maximum: int, preview: object) -> None:
        del value, maximum, preview
        time.sleep(0.03)


def test_what_a_preview_costs_is_part_of_its_step() -> None:
    context = _BusyContext()
    image = np.zeros((1, 8, 8, 3), np.float32)
    SandboxSlow().run(context, image, 5, 0.05, True)  # type: ignore[arg-type]
    # A busy machine makes the waits shorter still.
    assert max(context.waits[1:]) < 0.03
