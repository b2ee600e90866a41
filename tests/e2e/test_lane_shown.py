"""What nodes show in a real ComfyUI's page: the same here, on a ComfyUI, and on an endpoint."""

from __future__ import annotations

import asyncio
import json
import re
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lane_page import Page, page
from offload_kit import marked
from pack import comfyui_with_pack

from comfy_remote.gateway import GatewayServer
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(240)]

PACK = """
import time
from pathlib import Path

import folder_paths
from PIL import Image
from server import PromptServer


def saved(name, kind):
    folder = folder_paths.get_output_directory()
    folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(name, folder, 8, 8)
    path = Path(folder) / f"{stem}_{counter:05}_.{kind}"
    return path, {"filename": path.name, "subfolder": subfolder, "type": "output"}


class ShowsAll:
    RETURN_TYPES = ("STRING", "LOAD3D_CAMERA")
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0})}, "hidden": {"own": "UNIQUE_ID"}}

    def run(self, seed, own):
        server = PromptServer.instance
        server.send_progress_text(f"working on {seed}\\nsecond line", own, server.client_id)
        time.sleep(1.5)  # an endpoint is asked a few times a second
        path, picture = saved("sub/shown", "png")
        Image.new("RGB", (8, 8), (seed % 256, 0, 0)).save(path)
        film, clip = saved("film", "gif")
        Image.new("RGB", (8, 8), (0, seed % 256, 0)).save(film)
        mesh, _ = saved("mesh", "glb")
        mesh.write_bytes(b"glTF" + bytes(16))
        gif = {"format": "image/gif", "frame_rate": 8.5, "workflow": "w.png", "fullpath": str(film)}
        ui = {
            "count": [3, 2.5, -1],
            "images": [picture],
            "on": [True, False, None],
            "gifs": [{**clip, **gif}],
            "text": ["hello"],
            "nested": [{"a": [1, None, {"b": "c"}]}],
            "words": ["red", "green"],
            "none": [],
        }
        return {"ui": ui, "result": (mesh.name, {"position": {"x": 1.5, "y": 0}, "fov": 35})}


class ShowsValues:
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"forceInput": True})}}

    def run(self, text):
        return {"ui": {"length": [7], "wide": [False]}}


NODE_CLASS_MAPPINGS = {"ShowsAll": ShowsAll, "ShowsValues": ShowsValues}
"""


@dataclass
class Lane:
    page: Page
    targets: dict[str, str | None]


@pytest.fixture
async def lane(tmp_path: Path) -> AsyncIterator[Lane]:
    with ExitStack() as stack:
        urls = []
        for name in ("there", "here"):
            base = tmp_path / name
            (base / "custom_nodes").mkdir(parents=True)
            (base / "custom_nodes" / "shows.py").write_text(PACK)
            running = await asyncio.to_thread(
                stack.enter_context,
                comfyui_with_pack(base),
            )
            urls.append(running.url)
        gateway = GatewayServer(endpoint_id="lane")
        async with gateway:
            gateway.add_local_worker(JobHandler(Engine.named(urls[0])))
            (tmp_path / "here" / "home" / "comfy-remote.toml").write_text(
                f'[targets.comfyui]\ntarget = "{urls[0]}"\n'
                f'[targets.worker]\ntarget = "runpod:lane"\nbase_url = "{gateway.url}"\n'
            )
            async with page(urls[1]) as shown:
                targets = {"here": None, "comfyui": "comfyui", "worker": "worker"}
                yield Lane(shown, {**targets, "marked": None})


def _prompt(seed: int) -> dict[str, Any]:
    return {
        "1": {"class_type": "ShowsAll", "inputs": {"seed": seed}},
        "2": {"class_type": "ShowsValues", "inputs": {"text": ["1", 0]}},
        "3": {
            "class_type": "Preview3D",
            "inputs": {"model_file": ["1", 0], "camera_info": ["1", 1]},
        },
    }


def _without_names(value: object) -> str:
    """As it was sent, in its order; files' numbers and the machine's folders left out."""
    text = re.sub(r"_\d{5}_(remote_)?\.", "_N_.", json.dumps(value))
    return re.sub(r'"[^"]*/output/', '"/', text)


async def test_all_of_a_nodes_ui_is_shown_as_if_it_had_run_here(lane: Lane) -> None:
    told: dict[str, dict[str, str]] = {}
    texts: dict[str, list[bytes]] = {}
    for seed, (where, target) in enumerate(lane.targets.items(), 1):
        lane.page.messages.clear()
        prompt = _prompt(seed)
        marks = dict.fromkeys(prompt, "comfyui") if where == "marked" else {}
        answer = await lane.page.queue(prompt, target, extra_data=marked(prompt, marks))
        assert answer.status == 200, answer.body
        prompt_id = answer.body["prompt_id"]
        entry = await lane.page.ended(prompt_id)
        assert entry["status"]["status_str"] == "success", entry["status"]
        await lane.page.heard("executing", prompt_id, node=None)
        executed = {
            data["node"]: _without_names({k: v for k, v in data.items() if k != "prompt_id"})
            for kind, data in lane.page.of(prompt_id)
            if kind == "executed"
        }
        shown = {node_id: _without_names(ui) for node_id, ui in entry["outputs"].items()}
        told[where] = {**executed, **{f"history {node}": ui for node, ui in shown.items()}}
        texts[where] = [
            data["bytes"].replace(b" %d\n" % seed, b" N\n")
            for kind, data in lane.page.messages
            if kind == "preview" and data["bytes"][:4] == struct.pack(">I", 3)
        ]
    assert set(told["here"]) == {*"123", "history 1", "history 2", "history 3"}
    assert told["comfyui"] == told["here"]
    assert told["worker"] == told["here"]
    assert told["marked"] == told["here"]
    assert texts["here"] == [struct.pack(">II", 3, 1) + b"1working on N\nsecond line"]
    assert texts["comfyui"] == texts["here"]
    assert texts["worker"] == texts["here"]
    assert texts["here"][0] in texts["marked"]  # beside what is said of the part
