"""The served Comfy API, killed in the middle of its work."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from comfy_sdk import AsyncComfy
from gated_sandbox import Gate
from helpers import free_port, stop
from PIL import Image

_JOBS = 50
_DONE_BEFORE = 20


def _picture(color: int, prefix: str) -> dict[str, Any]:
    empty = {"width": 8, "height": 8, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": prefix},
        },
    }


def _front(engine: str, port: int) -> subprocess.Popen[str]:
    """`comfy-remote api`, once it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "comfy_remote", "api", "--on", engine, "--port", str(port)],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if f"COMFY_BASE_URL=http://127.0.0.1:{port}" in line:
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process
    raise AssertionError("".join(said))


async def test_a_front_that_is_killed_among_50_jobs_ends_all_of_them_after_its_restart(
    gated_url: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, prefix, gate = free_port(), f"killed-{uuid.uuid4().hex}", Gate(tmp_path)
    monkeypatch.setenv("COMFY_BASE_URL", f"http://127.0.0.1:{port}")
    front = await asyncio.to_thread(_front, gated_url, port)
    try:
        async with AsyncComfy() as client:

            async def submitted(prompt: dict[str, Any]) -> Any:
                return await client.submit(client.workflows.from_json(prompt))

            jobs = [await submitted(_picture(color, prefix)) for color in range(_DONE_BEFORE)]
            jobs.append(await submitted(gate.prompt))
            left = range(_DONE_BEFORE + 1, _JOBS)
            jobs += [await submitted(_picture(color, prefix)) for color in left]
            await jobs[_DONE_BEFORE - 1].wait(60)
            while (await jobs[_DONE_BEFORE].refresh()).status != "running":
                await asyncio.sleep(0.05)
            front.kill()
            front.wait()
            gate.open()
            front = await asyncio.to_thread(_front, gated_url, port)
            for color, job in enumerate(jobs):
                await job.wait(90)
                assert job.status == "succeeded", (color, job.error)
                (output,) = job.outputs
                content = await output.to_bytes()
                assert output.size_bytes == len(content)
                pixel = Image.open(io.BytesIO(content)).convert("RGB").getpixel((0, 0))
                assert pixel == (0, 0, 0 if color == _DONE_BEFORE else color)
    finally:
        stop(front)
    # The engine ran each of them once.
    async with aiohttp.ClientSession() as session, session.get(f"{gated_url}/history") as answer:
        history = await answer.json()
    assert json.dumps([each["prompt"][2] for each in history.values()]).count(prefix) == _JOBS - 1
