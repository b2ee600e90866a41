"""Node packs that a job brings to a worker with a real ComfyUI, also while others run.

What the small ComfyUI of the unit tests does with packs is held to this.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import COMFYUI_PYTHON, real_comfyui
from nodes_kit import PackServer, environ, needs_uv, pack_server, wheels

from comfy_remote.wire.runpod import error_from_runpod
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.node_actions import nodes_of
from comfy_remote.worker.settings import WorkerSettings

pytestmark = [pytest.mark.comfyui, pytest.mark.timeout(900)]

# As packs have them: a class of the first interface, with what it requires, and one of the third.
OLD = """
import tiny

class Says:
    CATEGORY = FUNCTION = "run"
    RETURN_TYPES = ("STRING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return (f"tiny {tiny.VERSION}",)

NODE_CLASS_MAPPINGS = {"Says": Says}
"""
NEW = """
import asyncio
from comfy_api.latest import ComfyExtension, io

class Slow(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Slow", category="t", inputs=[io.Int.Input("tenths")],
            outputs=[io.String.Output()],
        )

    @classmethod
    async def execute(cls, tenths):
        for _ in range(tenths):
            await asyncio.sleep(0.1)
        return io.NodeOutput(f"slept {tenths}")

class Extension(ComfyExtension):
    async def get_node_list(self):
        return [Slow]

async def comfy_entrypoint():
    return Extension()
"""


async def silent(_snapshot: dict[str, Any]) -> None:
    """Takes what a worker says of its progress."""


class Worker:
    """A worker with a real ComfyUI, on a volume that others may share."""

    def __init__(self, server: PackServer, folder: Path, name: str) -> None:
        own = folder / name
        for part in ("out", "in", "user"):
            (own / part).mkdir(parents=True)
        arguments = (
            f"--cpu --output-directory {own}/out --input-directory {own}/in --temp-directory {own} "
            f"--user-directory {own}/user --database-url sqlite:///{own}/user/comfyui.db"
        )
        variables = {
            **environ(wheels(folder / "wheels", ("tiny", "1.0"))),
            "COMFYUI_ARGS": arguments,
            "COMFYUI_PYTHON": COMFYUI_PYTHON,
        }
        nodes = server.settings(folder / "volume" / "nodes")
        settings = WorkerSettings(folder=own, worker=name, nodes=nodes)
        self.engine = Engine.named(
            str(real_comfyui()), variables, nodes=nodes_of(settings, variables)
        )
        self.handler = JobHandler(self.engine, settings, environ=variables)

    async def ask(self, **payload: Any) -> dict[str, Any]:
        return await self.handler("job", {"format": "comfy-remote/1", **payload}, silent)

    async def install(self, server: PackServer, name: str, commit: str, *classes: str) -> Any:
        wanted = {"source": server.address(name), "version": commit, "classes": [*classes]}
        return await self.ask(action="install_nodes", packs=[wanted])

    async def text(self, class_type: str, **inputs: Any) -> str:
        prompt = {
            "1": {"class_type": class_type, "inputs": inputs},
            "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        }
        answer = await self.ask(workflow=prompt)
        assert answer["status"] == "success", answer
        return answer["outputs"][0]["text"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PackServer]:
    needs_uv()
    with pack_server(tmp_path / "origin") as packs:
        yield packs


@pytest.fixture
async def workers(server: PackServer, tmp_path: Path) -> AsyncIterator[list[Worker]]:
    both = [Worker(server, tmp_path, name) for name in ("one", "other")]
    yield both
    for worker in both:
        await worker.handler.close()
        worker.engine.stop()


async def test_packs_come_to_a_comfyui_and_what_breaks_it_does_not(
    server: PackServer, workers: list[Worker]
) -> None:
    one, other = workers
    (old,) = server.repository("Old-Pack", {"__init__.py": OLD, "requirements.txt": "tiny\ntorch"})
    (new,) = server.repository("new.pack", {"__init__.py": NEW})
    done = await one.install(server, "Old-Pack", old, "Says")
    assert (done["installed"], done["requirements"]) == (["Old-Pack"], {"tiny": "1.0"})
    assert await one.text("Says") == "tiny 1.0"
    done = await one.install(server, "new.pack", new, "Slow")
    # The other worker has both with its next job; while that runs, a third pack is refused.
    running = asyncio.create_task(other.text("Slow", tenths=50))
    breaks = {
        "raises": ("raise OSError('no such card')", "import", "no such card"),
        "nothing": ("X = 1", "import", "NODE_CLASS_MAPPINGS"),
        "exits": ("import os; print('I end this.', flush=True); os._exit(3)", "start", "end this"),
        "lacks": ("NODE_CLASS_MAPPINGS = {}", "classes", "does not know Says2"),
    }
    for name, (text, step, words) in breaks.items():
        (commit,) = server.repository(name, {"__init__.py": text})
        classes = ["Says2"] if step == "classes" else []
        failed = await one.install(server, name, commit, *classes)
        error = error_from_runpod(failed["error"])
        assert error.details["step"] == step, error
        assert error.details.get("pack", name) == name
        assert words in f"{error.message} {error.details.get('log', '')}"
    assert await running == "slept 50"
    described = await one.ask(action="describe")
    assert {"Old-Pack", "new.pack"} <= {*described["packs"]}
    assert described["node_set"] == done["set"]
    packs = {pack["name"]: pack for pack in described["installed"]["packs"]}
    assert packs["Old-Pack"]["commit"] == old
    assert packs["new.pack"]["content"] is not None
    assert described["installed"]["libraries"]["tiny"] == "1.0"
    back = await other.ask(action="rollback_nodes")
    assert [pack["name"] for pack in back["packs"]] == ["Old-Pack"]
    assert await one.text("Says") == "tiny 1.0"
    assert (await one.ask(action="nodes"))["set"] == back["set"]
