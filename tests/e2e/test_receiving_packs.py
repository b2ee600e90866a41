"""A real ComfyUI that has only our pack is brought node packs: installed, in it after a restart,
rolled back.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from engine_client import EngineClient
from nodes_kit import PackServer, needs_uv, pack_server, wheels
from pack import PackServer as ComfyUI
from pack import comfyui_with_pack
from receiving_kit import TOKEN
from serve_kit import COMMAND

from comfy_remote.worker.nodes.requirements import find_uv

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(400)]

NODE = """
{top}
class {name}:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {{"required": {{}}}}

    def run(self):
        return ("",)


NODE_CLASS_MAPPINGS = {{"{name}": {name}}}
"""


def node(name: str, top: str = "") -> dict[str, str]:
    """The files of a pack with one node."""
    project = f'[project]\nname = "{name.lower()}-pack"\nversion = "1.0.0"\n'
    return {"__init__.py": NODE.format(name=name, top=top), "pyproject.toml": project}


class Box:
    """The machine of the ComfyUI, and the client's."""

    def __init__(self, folder: Path, packs: PackServer) -> None:
        self.folder, self.packs = folder, packs
        self.base = folder / "box"
        self.base.mkdir()
        self.named: list[str] = []
        (folder / "mine").mkdir()

    @contextmanager
    def comfyui(self) -> Iterator[ComfyUI]:
        uv = find_uv()
        assert uv is not None
        owner = {
            "ALLOW_NODE_INSTALL": "true",
            "COMFY_REMOTE_SYNC_TOKEN": TOKEN.get_secret_value(),
            "COMFY_REMOTE_NODE_REGISTRY": self.packs.url,
            "COMFY_REMOTE_NODE_HOSTS": self.packs.host,
            "UV_OFFLINE": "1",
            "UV_NO_CONFIG": "1",
            "UV_FIND_LINKS": str(wheels(self.folder / "wheels", ("tinydep", "1.0"))),
            "PATH": f"{Path(uv).parent}{os.pathsep}{os.environ['PATH']}",
        }
        with comfyui_with_pack(self.base, environment=owner) as running:
            (self.folder / "mine/comfy-remote.toml").write_text(
                f'[targets.box]\ntarget = "{running.url}"\nsync_token_env = "BOX_TOKEN"\n'
            )
            yield running

    def lock(self, **packs: str) -> None:
        """Of packs of the registry: name, class."""
        text = "version = 1\n"
        for name, of_class in packs.items():
            text += f'[[packs]]\nid = "{_id(name)}"\nversion = "1.0.0"\nclasses = ["{of_class}"]\n'
        (self.folder / "comfy-remote.lock").write_text(text)
        self.named = [word for name in packs for word in ("--pack", f"{_id(name)}@1.0.0")]

    def client(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env={
                **os.environ,
                "COMFY_REMOTE_HOME": str(self.folder / "mine"),
                "BOX_TOKEN": TOKEN.get_secret_value(),
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def sync(self, *more: str) -> subprocess.CompletedProcess[str]:
        lock = ("--lock", "comfy-remote.lock", "--nodes", *self.named)
        return self.client("sync", *lock, "--on", "box", *more)


def _id(name: str) -> str:
    return f"{name}-pack"


def knows(comfyui: ComfyUI, name: str) -> bool:
    return name in EngineClient(comfyui.url).json(f"/object_info/{name}")


def test_packs_come_are_tried_and_go_again(tmp_path: Path) -> None:
    needs_uv()
    with pack_server(tmp_path / "server") as packs:
        needs = {**node("Fine", "import tinydep"), "requirements.txt": "tinydep\n"}
        packs.publish("fine-pack", "1.0.0", needs)
        packs.publish("broken-pack", "1.0.0", node("Broken", "raise RuntimeError('no')"))
        box = Box(tmp_path, packs)
        box.lock(fine="Fine")
        with box.comfyui() as running:
            plan = json.loads(box.sync("--plan", "--json").stdout.splitlines()[-1])
            assert [one["way"] for one in plan["packs"]] == ["install"], plan
            done = box.sync("--yes")
            assert done.returncode == 0, done.stdout + done.stderr
            assert "has to be restarted" in done.stdout + done.stderr
            assert not knows(running, "Fine")
            listed = box.client("nodes", "list", "--on", "box")
            assert "fine-pack" in listed.stdout, listed.stdout + listed.stderr
            assert "has to be restarted" in listed.stdout + listed.stderr
        with box.comfyui() as running:
            assert knows(running, "Fine")
            assert not (box.base / "custom_nodes/fine-pack").exists()
            plan = json.loads(box.sync("--plan", "--json").stdout.splitlines()[-1])
            assert [one["standing"] for one in plan["packs"]] == ["there"], plan
            box.lock(fine="Fine", broken="Broken")
            failed = box.sync("--yes")
            assert failed.returncode == 5, failed.stdout + failed.stderr
            assert "broken-pack" in failed.stdout + failed.stderr
            back = box.client("nodes", "rollback", "--on", "box", "--yes")
            assert back.returncode == 0, back.stdout + back.stderr
            assert "has to be restarted" in back.stdout + back.stderr
            assert knows(running, "Fine")
        with box.comfyui() as running:
            assert not knows(running, "Fine")
            log = (box.base / "comfyui.log").read_text(errors="replace")
    assert TOKEN.get_secret_value() not in log
