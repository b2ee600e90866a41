"""``comfy-remote sync`` as a command, to gateways of ours: processes, kills, a real ComfyUI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import real_comfyui
from joined_kit import Cluster, cluster
from model_server import safetensors, sha256
from nodes_kit import needs_uv, pack_server
from serve_kit import COMMAND, Serve, servers
from test_worker_fetches_models import UPSCALED, upscaler

__all__ = ["cluster", "servers"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills processes")

MODEL = safetensors(900_000, fill=b"a private style ")
Client = Callable[..., subprocess.CompletedProcess[str]]


def models_here(folder: Path, **models: bytes) -> Path:
    """A ComfyUI's folders on the client's machine: ``loras__style`` is a LoRA."""
    base = folder / "mine"
    (base / "user").mkdir(parents=True, exist_ok=True)
    for name, content in models.items():
        path = base / "models" / f"{name.replace('__', '/')}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return base


def lock(folder: Path, path: str, content: bytes) -> Path:
    """A lock that names one model."""
    kind, _, name = path.partition("/")
    file = folder / "comfy-remote.lock"
    file.write_text(
        f'version = 1\n[[models]]\nfolder = "{kind}"\nname = "{name}"\n'
        f'size = {len(content)}\nsha256 = "{sha256(content)}"\n'
    )
    return file


def client(folder: Path, url: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "COMFY_REMOTE_HOME": str(folder / "home"),
        "RUNPOD_ENDPOINT_BASE_URL": url,
        "RUNPOD_API_KEY": "",
    }
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.comfyui
def test_a_workflow_runs_on_a_real_comfyui_that_lacked_its_model(
    servers: list[Serve], tmp_path: Path
) -> None:
    there = tmp_path / "box"
    (there / "models/upscale_models").mkdir(parents=True)
    (tmp_path / "wf.json").write_text(json.dumps(UPSCALED))
    server = Serve(
        *("--comfyui", str(real_comfyui())),
        ACCEPT_MODELS="true",
        COMFY_REMOTE_HOME=str(tmp_path / "boxhome"),
        COMFY_REMOTE_VOLUME=str(tmp_path / "no-volume"),
        COMFYUI_ARGS=f"--cpu --disable-all-custom-nodes --base-directory '{there}'",
    )
    servers.append(server)
    url = server.url(200)
    mine = models_here(tmp_path, upscale_models__tiny=upscaler())
    command = (
        "sync",
        "wf.json",
        "--comfyui",
        mine,
        "--offline",
        "--on",
        "runpod:local",
        "--models",
    )
    done = client(tmp_path, url, *command, "--plan", "--json")
    assert done.returncode == 0, done.stderr + server.text
    (step,) = json.loads(done.stdout.splitlines()[-1])["models"]
    assert (step["standing"], step["way"]) == ("missing", "send")
    assert list((there / "models/upscale_models").iterdir()) == []
    done = client(tmp_path, url, *command, "--yes")
    assert done.returncode == 0, done.stderr + server.text
    assert "upscale_models/tiny.safetensors  sent" in done.stdout
    placed = there / "models/upscale_models/tiny.safetensors"
    assert placed.read_bytes() == upscaler()
    done = client(tmp_path, url, *command, "--plan")
    (row,) = [line.split() for line in done.stdout.splitlines() if "tiny" in line]
    assert "there" in row
    assert "send" not in row
    done = client(tmp_path, url, "run", "wf.json", "--on", "runpod:local")
    assert done.returncode == 0, done.stderr + server.text


NODE = """
class Inverted:
    CATEGORY, RETURN_TYPES, FUNCTION = "test", ("IMAGE",), "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image):
        return (1 - image,)


NODE_CLASS_MAPPINGS = {"InvertedOfATest": Inverted}
"""
INVERTED = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "InvertedOfATest", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}


@pytest.mark.comfyui
def test_a_workflow_runs_on_a_real_comfyui_that_lacked_its_node_pack(
    servers: list[Serve], tmp_path: Path
) -> None:
    needs_uv()
    there = tmp_path / "box"
    (there / "custom_nodes").mkdir(parents=True)
    (tmp_path / "wf.json").write_text(json.dumps(INVERTED))
    with pack_server(tmp_path / "origin") as packs:
        (commit,) = packs.repository("Inverted", {"__init__.py": NODE})
        server = Serve(
            *("--comfyui", str(real_comfyui())),
            ALLOW_NODE_INSTALL="true",
            COMFY_REMOTE_NODES_DIR=str(tmp_path / "nodes"),
            COMFY_REMOTE_NODE_HOSTS=packs.host,
            COMFY_REMOTE_HOME=str(tmp_path / "boxhome"),
            COMFY_REMOTE_VOLUME=str(tmp_path / "no-volume"),
            COMFYUI_ARGS=f"--cpu --base-directory '{there}'",
        )
        servers.append(server)
        url = server.url(200)
        (tmp_path / "l.lock").write_text(
            f'version = 1\n[[packs]]\nurl = "{packs.address("Inverted")}"\n'
            f'commit = "{commit}"\nclasses = ["InvertedOfATest"]\n'
        )
        pin = f"{packs.address('Inverted')}@{commit}"
        command = ("sync", "--lock", "l.lock", "--on", "runpod:local")
        done = client(tmp_path, url, *command, "--yes")
        assert (done.returncode, pin in done.stderr) == (2, True), done.stderr + server.text
        assert "you have not trusted it" in done.stderr
        done = client(tmp_path, url, *command, "--pack", pin, "--yes")
        assert done.returncode == 0, done.stderr + server.text
        assert "installed" in done.stdout
        assert list((there / "custom_nodes").iterdir()) == []
        done = client(tmp_path, url, *command, "--plan", "--json")
        (step,) = json.loads(done.stdout.splitlines()[-1])["packs"]
        assert (step["standing"], step["way"]) == ("there", "none")
        done = client(tmp_path, url, "run", "wf.json", "--on", "runpod:local")
        assert done.returncode == 0, done.stderr + server.text
        done = client(tmp_path, url, "nodes", "rollback", "--on", "runpod:local", "--yes")
        assert done.returncode == 0, done.stderr + server.text
        done = client(tmp_path, url, *command, "--plan", "--json")
        (step,) = json.loads(done.stdout.splitlines()[-1])["packs"]
        assert (step["standing"], step["install"]) == ("missing", pin)


def test_a_worker_that_joined_gets_a_model(cluster: Cluster, tmp_path: Path) -> None:
    cluster.serve()
    models = tmp_path / "joined/models"
    models.mkdir(parents=True)
    worker = cluster.worker(
        "gpu",
        *("--engine", "sandbox"),
        ACCEPT_MODELS="true",
        COMFY_REMOTE_MODELS_DIR=str(models),
        COMFY_REMOTE_VOLUME=str(tmp_path / "no-volume"),
    )
    worker.says("Connected to the gateway as gpu.")
    mine = models_here(tmp_path, loras__style=MODEL)
    file = lock(tmp_path, "loras/style.safetensors", MODEL)
    url = cluster.url.rpartition("/")[0]
    command = ("sync", "--lock", file, "--comfyui", mine, "--on", "runpod:local", "--yes")
    done = client(tmp_path, url, *command)
    assert done.returncode == 0, done.stderr + worker.text
    assert (models / "loras/style.safetensors").read_bytes() == MODEL


_KILLED = """
import asyncio, os, sys
from pathlib import Path
from comfy_remote.cli.main import main
from comfy_remote.ready.sync import carrying, parts
from comfy_remote.targets.runpod.gateway import _Sending

after = int(sys.argv.pop(1))
whole, put, sent = parts.read_parts, _Sending._put, []

async def small(path, name, **_):
    return await whole(path, name, part_size=100_000)

async def counted(self, file):
    await put(self, file)
    sent.append(file.name)
    print("sent", file.name, flush=True)
    if len(sent) == after:
        os._exit(9)  # as kill -9 leaves it

carrying.read_parts, _Sending._put = small, counted
sys.argv[0] = "comfy-remote"
main()
"""


def test_killed_twice_in_between_it_goes_on_and_sends_no_part_twice(
    servers: list[Serve], tmp_path: Path
) -> None:
    models = tmp_path / "box/models"
    models.mkdir(parents=True)
    server = Serve(
        *("--engine", "sandbox"),
        ACCEPT_MODELS="true",
        COMFY_REMOTE_HOME=str(tmp_path / "boxhome"),
        COMFY_REMOTE_MODELS_DIR=str(models),
    )
    servers.append(server)
    content = safetensors(900_000, fill=bytes(range(251)))
    mine = models_here(tmp_path, loras__style=content)
    file = lock(tmp_path, "loras/style.safetensors", content)
    script = tmp_path / "killed.py"
    script.write_text(_KILLED)
    environment = {
        **os.environ,
        "COMFY_REMOTE_HOME": str(tmp_path / "home"),
        "RUNPOD_ENDPOINT_BASE_URL": server.url(),
        "RUNPOD_API_KEY": "",
    }
    sent: list[str] = []
    for after in (3, 3, 99):
        done = subprocess.run(
            [
                *(sys.executable, str(script), str(after), "sync", "--lock", str(file)),
                *("--comfyui", str(mine), "--on", "runpod:local", "--yes"),
            ],
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        sent += [line for line in done.stdout.splitlines() if line.startswith("sent ")]
        if after == 3:
            assert done.returncode == 9, done.stdout + done.stderr
            assert not (models / "loras/style.safetensors").exists()
    assert done.returncode == 0, done.stderr + server.text
    assert (models / "loras/style.safetensors").read_bytes() == content
    # What was on its way when it was killed may have arrived, and is not named here.
    assert len(sent) == len(set(sent)) <= 10
