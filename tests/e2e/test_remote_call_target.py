"""Remote API's calls of a workflow on a target: told of, and called off there."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from PIL import Image
from service_kit import workflow

from comfy_remote.calls.values import ValueForm
from comfy_remote.calls.workflow import CallableWorkflow
from comfy_remote.errors import InputFileMissing, ValueInvalid
from comfy_remote.jobs.client import Client
from comfy_remote.jobs.record import Record
from comfy_remote.media.values import DecodedValue
from comfy_remote.node_pack.nodes.remote_call import RemoteCall
from comfy_remote.workflow.load import parse_workflow

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
from test_node_pack_node_run import Interrupted, Page

IMAGE = np.random.default_rng(1).random((1, 4, 5, 3), dtype=np.float32)


async def _call(client: Client, page: Page, folder: Path, steps: int, **more: str) -> object:
    return await _call_prompt(client, page, folder, workflow(), steps, **more)


async def _call_prompt(
    client: Client, page: Page, folder: Path, prompt: Any, steps: int = 1, **more: str
) -> object:
    loaded = parse_workflow(prompt, "the test")
    served = await CallableWorkflow.of(loaded, client, name="test", base=folder)
    values = {
        "image": DecodedValue("IMAGE", False, IMAGE),
        "steps": DecodedValue("INT", False, steps),
    }
    more.setdefault("output_key", "picture")
    call = RemoteCall("sandbox", page, 60, form=ValueForm(), **more)
    with TemporaryDirectory() as private:
        called = replace(served, only_base=True)
        return (await call.of_workflow(client, called, values, Path(private))).value


async def test_it_gives_the_result(sandbox_url: str, tmp_path: Path) -> None:
    page = Page()
    with Record(tmp_path / "home") as record:
        async with Client(sandbox_url, record=record) as client:
            (made,) = await _call(client, page, tmp_path, 5, output_key="slowly")  # type: ignore[misc]
            assert np.array_equal(made, np.float32(1) - IMAGE)
            assert any("Running on sandbox" in text for text in page.texts)
            assert page.bars[-1] == (1, 1)
            with pytest.raises(ValueInvalid, match="MASK"):
                await _call(client, page, tmp_path, 1, output_key="picture", output_type="MASK")


async def test_an_interrupt_cancels_the_job(sandbox_url: str, tmp_path: Path) -> None:
    with Record(tmp_path / "home") as record:
        async with Client(sandbox_url, record=record) as client:
            with pytest.raises(Interrupted):
                page = Page(interrupt_at="SandboxSlow")
                await _call(client, page, tmp_path, 900, output_key="slowly")
            (entry,) = record.newest()
            assert entry.ref is not None
            job = await client.resume(entry)
            assert (await job.wait()).state.value == "cancelled"


@pytest.mark.parametrize("name", ["{outside}", "../{outside.name}", "link.png"])
async def test_no_file_leaves_this_machine_but_those_of_the_input_folder(
    sandbox_url: str, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node's workflow may be a stranger's, and the target, too."""
    inside, outside = tmp_path / "input", tmp_path / "secret.png"
    inside.mkdir()
    for path in (outside, inside / "own.png"):
        Image.new("RGB", (4, 4)).save(path)
    if name == "link.png":
        if sys.platform == "win32":
            pytest.skip("needs a right that few have there")
        (inside / name).symlink_to(outside)
    monkeypatch.chdir(tmp_path)  # as ComfyUI, whose input folder is below its own
    prompt = workflow()
    prompt["9"] = {"class_type": "LoadImage", "inputs": {"image": name.format(outside=outside)}}
    prompt["2"]["inputs"]["image"] = ["9", 0]
    with Record(tmp_path / "home") as record:
        async with Client(sandbox_url, record=record) as client:
            with pytest.raises(InputFileMissing):
                await _call_prompt(client, Page(), inside, prompt)
            prompt["9"]["inputs"]["image"] = "own.png"
            assert await _call_prompt(client, Page(), inside, prompt) is not None
