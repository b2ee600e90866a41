"""What is in examples/: the client runs against an endpoint, and the workflow has the ids that it
is there for.
"""

from __future__ import annotations

import json
import os
import sys
from asyncio import create_subprocess_exec, subprocess
from pathlib import Path

import pytest
from helpers import real_comfyui
from pydantic import SecretStr

from comfy_remote.gateway import GatewayServer
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.wire.request import JobRequest
from comfy_remote.worker.changes import changed, plain_prompt
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings
from comfy_remote.workflow.check import validate_for
from comfy_remote.workflow.schema import Schemas

EXAMPLES = Path(__file__).parents[2] / "examples" / "worker"
FLUX = json.loads((EXAMPLES / "flux.json").read_text())
TOKEN = "a-token-for-this-test"


async def test_the_client_saves_the_picture_and_says_why_there_is_none(tmp_path: Path) -> None:
    workflow = tmp_path / "workflow.json"
    workflow.write_text(
        json.dumps(
            {
                "27": {
                    "class_type": "EmptyImage",
                    "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
                },
                "2": {
                    "class_type": "SaveImage",
                    "inputs": {"images": ["27", 0], "filename_prefix": "sub/client"},
                },
            }
        )
    )
    engine = Engine.named("sandbox")
    handler = JobHandler(engine, WorkerSettings(folder=tmp_path / "worker"))

    async def run(*words: str) -> tuple[int | None, str]:
        environ = {
            **os.environ,
            "RUNPOD_API_KEY": TOKEN,
            "RUNPOD_ENDPOINT_ID": "ep",
            "RUNPOD_ENDPOINT_BASE_URL": gateway.endpoint_url.rpartition("/")[0],
        }
        client = await create_subprocess_exec(
            *(sys.executable, str(EXAMPLES / "client.py"), str(workflow), *words),
            cwd=tmp_path,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await client.communicate()
        return client.returncode, said.decode()

    async with GatewayServer(endpoint_id="ep", token=SecretStr(TOKEN)) as gateway:
        try:
            gateway.add_local_worker(handler)
            status, said = await run("width=16", "height=24")
            assert status == 0, said
            content = (tmp_path / "client_00001_.png").read_bytes()
            assert said.strip() == f"client_00001_.png {len(content)} bytes"
            assert content[16:24] == (16).to_bytes(4, "big") + (24).to_bytes(4, "big")
            status, said = await run("prompt=a fox")
            assert status == 1
            assert said.startswith("FAILED: ")
        finally:
            await handler.close()
            engine.stop()


@pytest.mark.comfyui
async def test_flux_is_valid_but_for_its_models(tmp_path: Path) -> None:
    arguments = f"--cpu --disable-all-custom-nodes --base-directory '{tmp_path}'"
    engine = Engine.named(str(real_comfyui()), {**os.environ, "COMFYUI_ARGS": arguments})
    try:
        async with ComfyUITarget(await engine.ready()) as target:
            nodes = (await target.describe()).nodes
    finally:
        engine.stop()
    problems = validate_for(FLUX, Schemas(nodes or {}, "ComfyUI")).node_errors
    kinds = {error["type"] for node in problems.values() for error in node["errors"]}
    assert kinds == {"value_not_in_list"}
    assert set(problems) <= {"10", "11", "12"}


def test_flux_has_the_nodes_that_clients_count_on() -> None:
    sent = {"workflow": FLUX, "prompt": "a fox", "seed": 7, "width": 640, "height": 480}
    request = JobRequest.parse(sent)
    prompt = changed(plain_prompt(request), request)
    assert prompt["6"]["inputs"]["text"] == "a fox"
    assert prompt["25"]["inputs"]["noise_seed"] == 7
    assert (prompt["27"]["inputs"]["width"], prompt["27"]["inputs"]["height"]) == (640, 480)
