"""A real ComfyUI, locked by its folder and by what it says, and held to both."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import real_comfyui

from comfy_remote.errors import LockNotMet
from comfy_remote.ready.holding import hold
from comfy_remote.ready.lock import LockedModel
from comfy_remote.ready.locking import LockPlan, lock_workflows
from comfy_remote.ready.making import make_lock
from comfy_remote.ready.needs import Needs
from comfy_remote.ready.there import target_there
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.workflow.load import parse_workflow

PROMPT = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8}},
    "2": {"class_type": "UpscaleModelLoader", "inputs": {"model_name": "none-such.pth"}},
    "3": {
        "class_type": "ImageUpscaleWithModel",
        "inputs": {"image": ["1", 0], "upscale_model": ["2", 0]},
    },
    "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
}


@pytest.mark.comfyui
async def test_a_comfyui_is_what_its_folder_says(comfyui_url: str, tmp_path: Path) -> None:
    said: list[str] = []
    plan = LockPlan(comfyui=real_comfyui(), offline=True)
    loaded = parse_workflow(PROMPT, "w.json")  # type: ignore[arg-type]
    made = await lock_workflows([loaded], ["w.json"], plan, say=said.append)
    lock = made.lock
    assert said == [f"Reading the ComfyUI in {real_comfyui()}."]
    assert lock.comfyui.version is not None
    assert [one.path for one in lock.models] == ["upscale_models/none-such.pth"]
    assert lock.models[0].unknown is not None
    async with ComfyUITarget(comfyui_url) as target:
        held = await hold(lock, target)
        assert [(item.name, item.standing.value) for _, item in held.problems] == [
            ("upscale_models/none-such.pth", "missing")
        ]
        fits = lock.model_copy(update={"models": ()})
        (await hold(fits, target)).refuse("it")
        other = lock.comfyui.model_copy(update={"version": "0.0.1"})
        with pytest.raises(LockNotMet, match=r"ComfyUI 0\.0\.1 is different"):
            (await hold(fits.model_copy(update={"comfyui": other}), target)).refuse("it")
        # And what it says itself is what it has.
        needs = Needs(models={("none-such.pth", "upscale_models"): []})
        there = await target_there(target, needs)
        by_target = make_lock(needs, there).lock
        assert by_target.comfyui.version == lock.comfyui.version
        assert by_target.models == (
            LockedModel(
                folder="upscale_models",
                name="none-such.pth",
                unknown=f"it is not in {target.name}, so its SHA-256 is not known",
            ),
        )
