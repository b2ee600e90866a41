"""Two files of one name on one ComfyUI, one after the other: each job gets its own."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from engine_client import EngineClient
from PIL import Image

from comfy_remote import Client
from comfy_remote.jobs.record import Record
from comfy_remote.targets.comfyui.target import ComfyUITarget


@pytest.fixture(params=["sandbox", pytest.param("comfyui", marks=pytest.mark.comfyui)])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


def loading(url: str, name: str) -> dict[str, Any]:
    """A node that does not look whether the content of its file has changed."""
    engine = EngineClient(url)
    if "Load3D" not in engine.json("/object_info"):
        return {"class_type": "SandboxLoad", "inputs": {"image": name}}
    engine.upload("model.obj", b"", subfolder="3d")  # 0.3.64 refuses the node without any
    captured = dict.fromkeys(("image", "mask", "normal", "lineart"), name)
    image = {**captured, "recording": "", "camera_info": {}}
    inputs = {"model_file": "3d/model.obj", "image": image, "width": 8, "height": 8}
    return {"class_type": "Load3D", "inputs": inputs}


async def test_each_job_gets_its_own(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    prompt = {
        "1": loading(url, "scene.png"),
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "n"}},
    }
    with Record(tmp_path / "home") as record:
        async with Client(ComfyUITarget(url), record=record) as client:
            for color in ((255, 0, 0), (0, 0, 255), (255, 0, 0)):
                Image.new("RGB", (8, 8), color).save(tmp_path / "scene.png")
                job = await client.submit(prompt)
                [output] = await job.outputs()
                assert output.image().getpixel((0, 0))[:3] == color
                assert record.get(job.id).prompt == prompt
        # The picture holds the prompt with the name by content; the file is found under its own.
        (tmp_path / "saved.png").write_bytes(output.bytes())
        saved = Image.open(io.BytesIO(output.bytes())).info["prompt"]
        assert json.loads(saved) != prompt
        async with Client(ComfyUITarget(url), record=record) as client:
            job = await client.submit(tmp_path / "saved.png")
            [again] = await job.outputs()
            assert again.bytes()
