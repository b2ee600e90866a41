"""A real ComfyUI that has only our pack is brought models by ``comfy-remote sync``."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest
from model_server import File, ModelServer, safetensors, sha256
from pack import comfyui_with_pack
from receiving_kit import TOKEN, CuttingProxy
from serve_kit import COMMAND
from test_worker_fetches_models import UPSCALED, upscaler

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(240)]

LARGE = 70_000_000  # bytes: two parts
STYLE = safetensors(50_000, fill=b"style")


def client(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env={
            **os.environ,
            "COMFY_REMOTE_HOME": str(folder / "mine"),
            "BOX_TOKEN": TOKEN.get_secret_value(),
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def models_here(folder: Path) -> Path:
    """A ComfyUI's folders on the client's machine."""
    base = folder / "here"
    (base / "user").mkdir(parents=True)
    for kind, name, content in (
        ("upscale_models", "tiny", upscaler()),
        ("checkpoints", "large", safetensors(LARGE, fill=b"large ")),
    ):
        path = base / "models" / kind / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return base


async def test_a_comfyui_with_our_pack_is_sent_models_and_fetches_them(tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    here = models_here(tmp_path)
    large = (here / "models/checkpoints/large.safetensors").read_bytes()
    (tmp_path / "wf.json").write_text(json.dumps(UPSCALED))
    async with ModelServer() as server:
        server.files["/style.safetensors"] = File(STYLE)
        owner = {
            "ACCEPT_MODELS": "true",
            "COMFY_REMOTE_SYNC_TOKEN": TOKEN.get_secret_value(),
            "COMFY_REMOTE_MODEL_HOSTS": server.host,
            "COMFY_REMOTE_VOLUME": str(tmp_path / "no-volume"),
        }
        with comfyui_with_pack(box, environment=owner) as comfyui:
            port = int(comfyui.url.rpartition(":")[2])
            async with CuttingProxy(port, [66_000_000]) as proxy:
                (tmp_path / "comfy-remote.lock").write_text(
                    "version = 1\n"
                    '[[models]]\nfolder = "checkpoints"\nname = "large.safetensors"\n'
                    f'size = {len(large)}\nsha256 = "{sha256(large)}"\n'
                    '[[models]]\nfolder = "loras"\nname = "a/style.safetensors"\n'
                    f'size = {len(STYLE)}\nsha256 = "{sha256(STYLE)}"\n'
                    '[[models.addresses]]\nby = "workflow"\n'
                    f'url = "{server.url}/style.safetensors"\n'
                )
                (tmp_path / "mine").mkdir()
                (tmp_path / "mine/comfy-remote.toml").write_text(
                    f'[targets.box]\ntarget = "{proxy.url}"\nsync_token_env = "BOX_TOKEN"\n'
                )
                sync = ("sync", "--comfyui", here, "--offline", "--on", "box", "--yes")
                locked = await asyncio.to_thread(
                    client, tmp_path, *sync, "--lock", "comfy-remote.lock", "--models"
                )
                assert locked.returncode == 0, locked.stderr + locked.stdout
                assert not proxy.cuts
                assert proxy.sent < LARGE + 70_000_000
                models = box / "models"
                assert (models / "checkpoints/large.safetensors").read_bytes() == large
                assert (models / "loras/a/style.safetensors").read_bytes() == STYLE
                command = (*sync[:-1], "--lock", "comfy-remote.lock", "--plan", "--json")
                again = await asyncio.to_thread(client, tmp_path, *command)
                steps = json.loads(again.stdout.splitlines()[-1])["models"]
                assert [one["standing"] for one in steps] == ["there", "there"]
                brought = await asyncio.to_thread(client, tmp_path, *sync, "wf.json", "--models")
                assert brought.returncode == 0, brought.stderr + brought.stdout
                ran = await asyncio.to_thread(
                    client, tmp_path, "run", "wf.json", "--on", "box", "-o", "out"
                )
                assert ran.returncode == 0, ran.stderr + ran.stdout
                assert list((tmp_path / "out").glob("*.png"))
    log = (box / "comfyui.log").read_text(errors="replace")
    for text in (log, locked.stdout, locked.stderr, ran.stderr):
        assert TOKEN.get_secret_value() not in text
    assert "Traceback" not in log
