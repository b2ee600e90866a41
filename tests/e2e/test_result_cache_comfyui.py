"""Tries to get a wrong result out of the cache, on real ComfyUIs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import (
    COMFYUI_PYTHON,
    free_port,
    in_comfyui_python,
    real_comfyui,
    stop,
    until,
    wait_until_up,
)
from serve_kit import Serve

from comfy_remote import Client
from comfy_remote.types import JsonValue
from comfy_remote.workflow.prompt import Prompt

pytestmark = pytest.mark.comfyui

# It gives one of ComfyUI's own nodes another implementation, of which ComfyUI says nothing.
REPLACES = """
import nodes

class Inverted:
    @classmethod
    def INPUT_TYPES(cls):
        return {{"required": {{"image": ("IMAGE",)}}}}
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "invert"
    CATEGORY = "image"
    DESCRIPTION = "Inverts the colors of an image."
    def invert(self, image):
        return (image * 0 + {shade},)

nodes.NODE_CLASS_MAPPINGS["ImageInvert"] = Inverted
NODE_CLASS_MAPPINGS = {{}}
"""
TINTS = """
class Tint:
    @classmethod
    def INPUT_TYPES(cls):
        return {{
            "required": {{"image": ("IMAGE",)}},
            "optional": {{"shade": ("FLOAT", {{"default": {shade}}})}},
        }}
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "tint"
    CATEGORY = "image"
    def tint(self, image, shade={shade}):
        return (image * 0 + shade,)

NODE_CLASS_MAPPINGS = {{"Tint": Tint}}
"""
MODEL = """
import torch
from safetensors.torch import save_file

layers = {{
    "body.0.weight": torch.zeros(4, 3, 3, 3), "body.0.bias": torch.zeros(4),
    "body.1.weight": torch.zeros(4),
    "body.2.weight": torch.zeros(4, 4, 3, 3), "body.2.bias": torch.zeros(4),
    "body.3.weight": torch.zeros(4),
    "body.4.weight": torch.zeros(12, 4, 3, 3), "body.4.bias": torch.full((12,), {shade}),
}}
save_file(layers, {path!r})
"""


def _picture(*middle: tuple[str, dict[str, JsonValue]], color: int = 0) -> Prompt:
    """A picture of one color that goes through some nodes."""
    prompt: Prompt = {
        "0": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": color},
        }
    }
    for number, (kind, inputs) in enumerate(middle, 1):
        linked: dict[str, JsonValue] = {"image": [str(number - 1), 0]}
        prompt[str(number)] = {"class_type": kind, "inputs": {**linked, **inputs}}
    last = str(len(middle))
    prompt["save"] = {
        "class_type": "SaveImage",
        "inputs": {"images": [last, 0], "filename_prefix": "made"},
    }
    return prompt


def _upscaled() -> Prompt:
    """A picture that a model makes, of one shade."""
    prompt = _picture(("ImageUpscaleWithModel", {"upscale_model": ["load", 0]}))
    load: dict[str, JsonValue] = {"model_name": "m.safetensors"}
    return {**prompt, "load": {"class_type": "UpscaleModelLoader", "inputs": load}}


def _make_model(base: Path, shade: float) -> None:
    """A model that makes everything of one shade, in place of the one before."""
    script = base / "model.py"
    path = base / "models/upscale_models/m.safetensors"
    script.write_text(MODEL.format(path=str(path), shade=shade))
    in_comfyui_python(script, base)


@contextmanager
def _comfyui(base: Path, *arguments: str) -> Iterator[str]:
    """A ComfyUI of its own, with the packs and models of a folder."""
    port, log = free_port(), (base / "comfyui.log").open("wb")
    process = subprocess.Popen(
        [
            *(COMFYUI_PYTHON, "main.py", "--cpu", "--disable-auto-launch", f"--port={port}"),
            *(f"--base-directory={base}", "--database-url=sqlite:///:memory:", *arguments),
        ],
        cwd=real_comfyui(),
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_up(url, process, base / "comfyui.log")
        yield url
    finally:
        stop(process)
        log.close()


async def _shade(url: str, prompt: Prompt) -> tuple[float, bool]:
    """The first pixel's red, and whether it came from the cache."""
    async with Client(url) as client:
        job = await client.submit(prompt, cache="use")
        [output] = await job.outputs()
        assert job.finished is not None
        red = float(output.array()[0, 0, 0, 0])
        return round(red, 2), "cache" in job.finished.details


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    for folder in ("custom_nodes", "models/upscale_models", "home"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


async def test_a_plain_comfyui_gives_no_other_models_packs_or_arguments_result(base: Path) -> None:
    inverted, pack = _picture(("ImageInvert", {})), base / "custom_nodes/replaces.py"
    with _comfyui(base) as url:
        assert await _shade(url, inverted) == (1.0, False)
        assert await _shade(url, inverted) == (1.0, True)
        # A model that is replaced under its name by one of the same size.
        upscaled, shades = _upscaled(), []
        for shade in (0.25, 0.5):
            _make_model(base, shade)
            upscaled["save"]["inputs"]["filename_prefix"] = f"m{shade}"
            shades.append(await _shade(url, upscaled))
            shades.append(await _shade(url, upscaled))
        # ComfyUI itself has the first one in its memory: nothing of that is stored.
        assert shades == [(0.25, False), (0.25, True), (0.25, False), (0.25, False)]
    with _comfyui(base, "--force-fp32") as url:
        assert await _shade(url, inverted) == (1.0, False)
        assert (await _shade(url, upscaled)) == (0.5, False)
    pack.write_text(REPLACES.format(shade=0.2))
    with _comfyui(base) as url:
        assert await _shade(url, inverted) == (0.2, False)
        assert await _shade(url, inverted) == (0.2, True)
    pack.write_text(REPLACES.format(shade=0.4))
    with _comfyui(base) as url:
        assert await _shade(url, inverted) == (0.4, False)


async def test_a_worker_gives_no_other_packs_defaults_or_models_result(base: Path) -> None:
    (base / "home/comfy-remote.toml").write_text(
        'cache_packs = ["tints"]\n[targets.here]\ntarget = "runpod:local"\n'
    )
    tinted, pack = _picture(("Tint", {})), base / "custom_nodes/tints"
    pack.mkdir()
    upscaled = _upscaled()
    for shade in (0.2, 0.4):
        (pack / "__init__.py").write_text(TINTS.format(shade=shade))
        _make_model(base, shade)
        # A worker allows for clocks that differ.
        model = base / "models/upscale_models/m.safetensors"
        await until(lambda: time.time() - model.stat().st_ctime > 2.5)  # noqa: B023
        server = Serve(
            *("--comfyui", str(real_comfyui())),
            COMFY_REMOTE_TOKEN="",
            COMFYUI_PYTHON=COMFYUI_PYTHON,
            COMFYUI_ARGS=f"--cpu --base-directory '{base}'",
            COMFY_REMOTE_WORKER_DIR=str(base / "worker"),
        )
        try:
            url = server.url(150)
            (base / "home/comfy-remote.toml").write_text(
                f'cache_packs = ["tints"]\n[targets.here]\ntarget = "runpod:local"\n'
                f'base_url = "{url}"\n'
            )
            assert await _shade("here", tinted) == (shade, False)
            assert await _shade("here", tinted) == (shade, True)
            # A model that was there before ComfyUI was, and one that has replaced it since.
            assert await _shade("here", upscaled) == (shade, False)
            assert await _shade("here", upscaled) == (shade, True)
            _make_model(base, 0.9 - shade)
            upscaled["0"]["inputs"]["color"] = int(10 * shade)
            assert not (await _shade("here", upscaled))[1]
            assert not (await _shade("here", upscaled))[1]
            upscaled["0"]["inputs"]["color"] = 0
            assert not (await _shade("here", upscaled))[1]
        finally:
            server.kill()
