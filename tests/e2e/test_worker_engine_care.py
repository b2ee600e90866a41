"""An engine that is looked after: what jobs leave in it, and what is done when it fails.

The handler drives a real process: the sandbox always, a real ComfyUI where there is one.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import re
import signal
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers import real_comfyui
from PIL import Image
from pydantic import JsonValue

from comfy_remote.wire.answer import Answer
from comfy_remote.wire.runpod import error_from_runpod
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings


class Worker:
    """A handler on an engine of its own."""

    def __init__(self, engine: Engine, root: Path, name: str = "sandbox", **settings: Any) -> None:
        self.name = name
        self.engine = engine
        self._root = root
        self._settings = WorkerSettings(folder=root / "worker", **settings)
        self.begin_anew()

    def begin_anew(self) -> None:
        """A handler that knows of no job before."""
        self.handler = JobHandler(self.engine, self._settings)

    async def run(self, prompt: dict[str, Any], **fields: JsonValue) -> Answer:
        payload = {"format": "comfy-remote/1", "workflow": prompt, **fields}
        result = await self.handler("job", payload, silent)
        assert "error" not in result, result
        return Answer.model_validate(result)

    async def fail(self, prompt: dict[str, Any], **fields: JsonValue) -> Any:
        payload = {"format": "comfy-remote/1", "workflow": prompt, **fields}
        return error_from_runpod((await self.handler("job", payload, silent))["error"])

    async def stats(self, path: str = "system_stats") -> Any:
        url = f"{await self.engine.ready()}/{path}"
        return await asyncio.to_thread(lambda: json.load(urllib.request.urlopen(url)))

    async def files(self) -> list[str]:
        """What lies in the engine's folders."""
        argv = (await self.stats())["system"]["argv"]
        base = Path(argv[argv.index("--base-directory") + 1])
        return sorted(
            str(path.relative_to(base))
            for folder in ("input", "output", "temp")
            for path in (base / folder).rglob("*")
            if path.is_file() and path.name != "example.png" and not path.name.startswith("_")
        )


async def silent(snapshot: dict[str, JsonValue]) -> None:
    return None


@pytest.fixture(params=["sandbox", pytest.param("comfyui", marks=pytest.mark.comfyui)])
async def worker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Worker]:
    name, environ = request.param, dict(os.environ)
    if name == "comfyui":
        name = os.environ.get("COMFYUI_DIR", "")
        if not name:
            pytest.skip("skipped: no ComfyUI")
        base = tmp_path / "comfy"
        (base / "input/3d").mkdir(parents=True)
        (base / "input/3d/_model.obj").touch()  # ComfyUI 0.3.64 refuses Load3D without any
        # A part of ComfyUI that lies among the custom nodes.
        own = "custom_nodes/websocket_image_save.py"
        (base / own).parent.mkdir()
        (base / own).write_bytes((Path(name) / own).read_bytes())
        environ["COMFYUI_ARGS"] = f"--cpu --base-directory {base}"
    engine = Engine.named(name, environ)
    one = Worker(engine, tmp_path, request.param)
    try:
        yield one
    finally:
        await one.handler.close()
        engine.stop()


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Worker]:
    engine = Engine.named("sandbox")
    one = Worker(engine, tmp_path)
    try:
        yield one
    finally:
        await one.handler.close()
        engine.stop()


def source(color: int, batch: int = 1) -> dict[str, Any]:
    inputs = {"width": 16, "height": 16, "batch_size": batch, "color": color}
    return {"class_type": "EmptyImage", "inputs": inputs}


def save(of: str, prefix: str = "same") -> dict[str, Any]:
    return {"class_type": "SaveImage", "inputs": {"images": [of, 0], "filename_prefix": prefix}}


def colors(answer: Answer) -> list[int]:
    """Of each output, in order: its first pixel as one number."""
    found = []
    for output in answer.outputs:
        pixel = Image.open(io.BytesIO(base64.b64decode(output.data or ""))).convert("RGB")
        red, green, blue = pixel.getpixel((0, 0))
        found.append(red << 16 | green << 8 | blue)
    return found


async def test_a_job_leaves_nothing_behind(worker: Worker) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(buffer, "PNG")
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "sent.png"}},
        "2": save("1", "sub/kept"),
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    image = {"name": "sent.png", "image": base64.b64encode(buffer.getvalue()).decode()}
    answer = await worker.run(prompt, images=[image])
    assert colors(answer) == [0x010203, 0x010203]
    assert await worker.files() == []  # already: the worker may be killed now
    await worker.handler.ready()
    assert await worker.stats("history") == {}
    await worker.handler.close()


async def test_jobs_share_one_connection_to_their_engine(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    """Two connections in all: the WebSocket's, and the requests'."""
    await worker.engine.ready()
    with caplog.at_level(logging.DEBUG, "comfy_remote"):
        for color in (1, 2, 3):
            assert colors(await worker.run({"1": source(color), "2": save("1")})) == [color]
        await worker.handler.close()
    assert sum("/ws: 101" in record.getMessage() for record in caplog.records) == 1
    # A picture is taken from the folder of an engine on this machine.
    assert not any("/view" in record.getMessage() for record in caplog.records)
    # After it was closed, it opens another.
    assert colors(await worker.run({"1": source(4), "2": save("1")})) == [4]
    await worker.handler.close()


def load(worker: Worker, name: str) -> dict[str, Any]:
    """A node that does not look whether the content of its file has changed."""
    if worker.name == "sandbox":
        return {"class_type": "SandboxLoad", "inputs": {"image": name}}
    camera = {"position": {"x": 0, "y": 0, "z": 0}, "target": {"x": 0, "y": 0, "z": 0}}
    captured = dict.fromkeys(("image", "mask", "normal", "lineart"), f"{name} [input]")
    image = {**captured, "recording": "", "camera_info": camera}
    inputs = {"model_file": "3d/_model.obj", "image": image, "width": 8, "height": 8}
    return {"class_type": "Load3D", "inputs": inputs}


async def test_two_files_of_one_name_are_two_pictures(worker: Worker) -> None:
    """Also for a client that knows nothing of names by content, and in a folder."""
    prompt = {"1": load(worker, "captures/scene.png"), "2": save("1")}
    seen = []
    for color in (0xFF0000, 0x0000FF, 0xFF0000):
        image = picture("captures/scene.png", color)
        seen += colors(await worker.run(prompt, images=[image]))
        assert await worker.files() == []
    assert seen == [0xFF0000, 0x0000FF, 0xFF0000]


def picture(name: str, color: int) -> dict[str, JsonValue]:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (color >> 16, color >> 8 & 255, color & 255)).save(buffer, "PNG")
    return {"name": name, "image": base64.b64encode(buffer.getvalue()).decode()}


async def test_an_error_names_a_file_as_the_client_does(worker: Worker) -> None:
    prompt = {"1": load(worker, "scene.png"), "2": save("1")}
    damaged: JsonValue = {"name": "scene.png", "image": base64.b64encode(b"no picture").decode()}
    error = await worker.fail(prompt, images=[damaged])
    assert "scene.png" in str(error)
    assert not re.search(r"scene_[0-9a-f]{12}", json.dumps(error.to_json()))


async def test_a_job_that_fails_leaves_nothing_behind(sandbox: Worker) -> None:
    prompt = {
        "1": source(5),
        "2": save("1"),
        "3": {
            "class_type": "SandboxFail",
            "inputs": {"image": ["1", 0], "mode": "error", "message": "on purpose"},
        },
        "4": save("3"),
    }
    error = await sandbox.fail(prompt)
    assert "on purpose" in str(error)
    assert error.details["engine_log"]
    assert await sandbox.files() == []
    await sandbox.handler.ready()
    assert await sandbox.stats("history") == {}


async def test_what_was_there_before_stays(worker: Worker) -> None:
    await worker.run({"1": source(1), "2": save("1")})
    argv = (await worker.stats())["system"]["argv"]
    base = Path(argv[argv.index("--base-directory") + 1])
    mine = {base / "output" / "mine.png", base / "input" / "sent.png"}
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(buffer, "PNG")
    for path in mine:
        path.write_bytes(buffer.getvalue())
        os.utime(path, (1_600_000_000,) * 2)
    prompt = {"1": {"class_type": "LoadImage", "inputs": {"image": "sent.png"}}, "2": save("1")}
    image = {"name": "sent.png", "image": base64.b64encode(buffer.getvalue()).decode()}
    await worker.run(prompt, images=[image])  # the very file that is there
    assert await worker.files() == ["input/sent.png", "output/mine.png"]


async def test_a_job_that_is_wholly_cached_has_its_outputs(worker: Worker) -> None:
    prompt = {"1": source(0x112233), "2": save("1"), "3": save("1", "other")}
    for _ in range(3):
        answer = await worker.run(prompt)
        assert colors(answer) == [0x112233, 0x112233]
        assert answer.warnings == []
    assert await worker.files() == []


async def test_an_answer_says_that_most_of_it_was_cached(worker: Worker) -> None:
    """A client then learns nothing from its time."""
    nodes = {str(n): {"class_type": "ImageInvert", "inputs": {"image": [str(n - 1), 0]}}
             for n in range(2, 6)}  # fmt: skip
    prompt = {"1": source(0x445577), **nodes, "6": save("5")}
    first, second = [(await worker.run(prompt)).facts() for _ in range(2)]
    assert "mostly_cached" not in first
    assert second["mostly_cached"] is True


async def test_a_cached_node_never_gets_anothers_file(worker: Worker) -> None:
    """Its file is gone, and the next node to save under that name takes the same number."""
    first = {"1": source(0x0000AA), "2": save("1")}
    assert colors(await worker.run(first)) == [0x0000AA]
    both = {**first, "3": source(0x00BB00), "4": save("3")}
    answer = await worker.run(both)
    assert colors(answer) == [0x0000AA, 0x00BB00]


async def test_files_that_somebody_else_removed_are_made_again(worker: Worker) -> None:
    prompt = {"1": source(0x445566), "2": save("1")}
    await worker.run(prompt)
    worker.begin_anew()  # as if it had not been us
    answer = await worker.run(prompt)
    assert colors(answer) == [0x445566]
    assert "run again, once" in answer.warnings[0]


async def test_images_come_in_order_and_names_that_collide_are_kept_apart(worker: Worker) -> None:
    prompt = {
        "10": source(0x0A0000),
        "11": save("10", "a/same"),
        "2": source(0x000002, batch=3),
        "3": save("2", "b/same"),
        "30": source(0x1E0000),
        "31": save("30", "a/same"),
    }
    answer = await worker.run(prompt)
    assert colors(answer) == [0x0A0000, 2, 2, 2, 0x1E0000]
    assert [o.node_id for o in answer.outputs] == ["11", "3", "3", "3", "31"]
    assert [o.subfolder for o in answer.outputs] == ["a", "b", "b", "b", "a"]
    assert len({(o.subfolder, o.filename) for o in answer.outputs}) == 5


def slow(steps: int) -> dict[str, Any]:
    inputs = {"image": ["1", 0], "steps": steps, "seconds_per_step": 0.1, "preview": False}
    return {
        "1": source(7),
        "2": {"class_type": "SandboxSlow", "inputs": {**inputs, "seed": 0}},
        "3": save("2"),
    }


async def test_an_engine_that_is_killed_is_started_anew_and_the_job_run_again(
    sandbox: Worker,
) -> None:
    await sandbox.run({"1": source(1), "2": save("1")})
    killed = sandbox.engine.pid
    assert killed is not None
    job = asyncio.create_task(sandbox.run(slow(10)))
    while not (await sandbox.stats("queue"))["queue_running"]:
        await asyncio.sleep(0.02)
    os.kill(killed, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    answer = await asyncio.wait_for(job, 60)
    assert colors(answer) == [7]
    assert "run again, once" in answer.warnings[0]
    assert sandbox.engine.pid != killed


async def test_an_engine_that_crashes_each_time_fails_the_job_once_and_for_all(
    sandbox: Worker,
) -> None:
    prompt = {
        "1": source(5),
        "2": {
            "class_type": "SandboxFail",
            "inputs": {"image": ["1", 0], "mode": "crash", "message": "on purpose"},
        },
        "3": save("2"),
    }
    error = await sandbox.fail(prompt)
    assert error.code == "engine_crashed"
    assert "engine_log" in error.details
    assert (await sandbox.run({"1": source(1), "2": save("1")})).outputs


async def test_a_job_over_its_deadline_is_stopped_on_the_engine(sandbox: Worker) -> None:
    payload = {"workflow": slow(3000), "timeout": 1.0, "format": "plain"}
    result = await sandbox.handler("job", payload, silent)
    assert (result["status"], result["error_type"]) == ("error", "timeout")
    answer = await asyncio.wait_for(sandbox.run({"1": source(1), "2": save("1")}), 60)
    assert answer.outputs


@pytest.mark.timeout(300)
async def test_an_engine_that_loses_its_prompt_thread_is_replaced(worker: Worker) -> None:
    """3,000 linked nodes end ComfyUI 0.33.0's thread for prompts, and it answers on.

    Where an engine runs or refuses them, there is nothing to replace.
    """
    # What is sent grows with the square. For the sandbox, deeper than Python recurses is enough.
    length = 1050 if worker.name == "sandbox" else 3000
    prompt = {"1": source(1), **{str(n): invert(n - 1) for n in range(2, length)}}
    # ComfyUI checks a chain output by output: in one piece, it would refuse it.
    previews = {f"p{n}": preview(str(n)) for n in range(300, length, 300)}
    payload = {"format": "comfy-remote/1", "workflow": {**prompt, **previews}}
    result = await worker.handler("long", payload, silent)
    if "error" in result:
        assert error_from_runpod(result["error"]).code in ("engine_crashed", "workflow_invalid")
    await worker.handler.ready()
    answer = await asyncio.wait_for(worker.run({"1": source(2), "2": save("1")}), 60)
    assert colors(answer) == [2]


def invert(of: int) -> dict[str, Any]:
    return {"class_type": "ImageInvert", "inputs": {"image": [str(of), 0]}}


def preview(of: str) -> dict[str, Any]:
    return {"class_type": "PreviewImage", "inputs": {"images": [of, 0]}}


@pytest.mark.comfyui
async def test_a_model_that_is_named_as_on_another_system(tmp_path: Path) -> None:
    """It gets past ComfyUI's check, to the node that loads it."""
    directory = real_comfyui()
    base = tmp_path / "comfy"
    models = base / "models" / "upscale_models" / "sub"
    models.mkdir(parents=True)
    (models / "up.pth").write_bytes(b"no model")
    arguments = f"--cpu --disable-all-custom-nodes --base-directory {base}"
    engine = Engine.named(str(directory), {**os.environ, "COMFYUI_ARGS": arguments})
    prompt = {
        "1": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "sub\\up.pth"}},
        "2": source(1),
        "3": {
            "class_type": "ImageUpscaleWithModel",
            "inputs": {"upscale_model": ["1", 0], "image": ["2", 0]},
        },
        "4": save("3"),
    }
    try:
        error = await Worker(engine, tmp_path).fail(prompt)
    finally:
        engine.stop()
    assert error.code == "execution_failed", error
    assert error.details["node_id"] == "1"


async def test_pictures_that_are_only_sent_arrive(worker: Worker) -> None:
    prompt = {
        "1": source(0x0000C0, batch=2),
        "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
        "3": save("1"),
    }
    for _ in range(2):  # nothing of it is cached
        answer = await worker.run(prompt)
        assert colors(answer) == [0x0000C0] * 4
        assert [output.node_id for output in answer.outputs] == ["2", "2", "3", "3"]
        assert answer.warnings == []


async def test_files_that_no_node_tells_of_arrive(worker: Worker) -> None:
    inputs = {"folder_name": "set", "filename_prefix": "image", "mode": "overwrite"}
    prompt = {
        "1": source(0x00C000, batch=1),
        "2": {
            "class_type": "SaveImageDataSetToFolder",
            "inputs": {"images": ["1", 0], **inputs},
        },
    }
    described = await worker.stats("object_info/SaveImageDataSetToFolder")
    node = described.get("SaveImageDataSetToFolder")
    if node is None:
        pytest.skip("skipped: this ComfyUI has no such node")
    known = node["input"].get("required", {})
    prompt["2"]["inputs"] = {
        name: value for name, value in prompt["2"]["inputs"].items() if name in known
    }
    for _ in range(2):
        answer = await worker.run(prompt)
        assert colors(answer) == [0x00C000]
        assert [(o.node_id, o.subfolder) for o in answer.outputs] == [("2", "set")]
        assert answer.warnings == []
        assert await worker.files() == []


async def test_what_was_saved_before_a_node_failed_comes_with_the_error(worker: Worker) -> None:
    prompt = {
        "1": source(0xC00000),
        "2": save("1"),
        "3": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "4": save("3", "../outside"),  # refused when it runs
    }
    payload = {"format": "comfy-remote/1", "workflow": prompt}
    result = await worker.handler("job", payload, silent)
    answer = Answer.model_validate(result)
    assert (answer.status, colors(answer)) == ("error", [0xC00000])
    assert error_from_runpod(result["error"]).details["node_id"] == "4"
    assert await worker.files() == []


async def test_an_output_that_the_engine_skips_is_told(worker: Worker) -> None:
    unlinked = {"class_type": "SaveImage", "inputs": {"filename_prefix": "nothing"}}
    answer = await worker.run({"1": source(0x0000FF), "2": save("1"), "3": unlinked})
    assert colors(answer) == [0x0000FF]
    [problem] = answer.problems or []
    assert (problem.node_id, problem.node_class) == ("3", "SaveImage")
    assert "images" in problem.reason
    assert answer.warnings == [str(problem.problem())]
