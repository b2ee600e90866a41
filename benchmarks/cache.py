"""A result out of the cache: from the prompt to the files, beside the same run on a warm engine."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from common import comfyui, engine_url, size

from comfy_remote import Client
from comfy_remote.config.cache_settings import CacheMode
from comfy_remote.jobs.record import Record
from comfy_remote.targets.base import Target
from comfy_remote.targets.comfyui.target import ComfyUITarget
from comfy_remote.targets.sandbox.target import SandboxTarget
from comfy_remote.worker.engine import Engine
from comfy_remote.workflow.prompt import Prompt

_ROUNDS = size(40, 2)
_STORED = size(2000, 5)
_SIDE = size(1024, 64)


def bench_cache() -> None:
    """On the sandbox, and on a ComfyUI if there is one."""
    asyncio.run(_measured("sandbox", SandboxTarget()))
    if os.environ.get("COMFYUI_DIR"):
        with comfyui() as engine:
            asyncio.run(_on(engine))


async def _on(engine: Engine) -> None:
    async with engine_url(engine) as url:
        await _measured("ComfyUI", ComfyUITarget(url))


async def _measured(name: str, target: Target) -> None:
    """With one result in the cache, then with thousands."""
    with tempfile.TemporaryDirectory() as folder, Record(Path(folder)) as record:
        async with Client(target, record=record) as client:
            ran = [await _took(client, folder, color, "off") for color in range(1, _ROUNDS)]
            await _took(client, folder, 0, "use")
            hits = [await _took(client, folder, 0, "use") for _ in range(_ROUNDS)]
            [stored] = record.results.all()
            for number in range(_STORED):
                record.results.put(replace(stored, key=f"{number:064}"))
            of_many = [await _took(client, folder, 0, "use") for _ in range(_ROUNDS)]
    for what, took in (
        ("a run", ran),
        ("from the cache", hits),
        (f"from a cache of {_STORED:,} results", of_many),
    ):
        print(
            f"cache, {name}: {what} {statistics.median(took):.0f} ms (slowest {max(took):.0f}) "
            f"from the prompt to a picture of {_SIDE} x {_SIDE} on the disk"
        )


async def _took(client: Client, folder: str, color: int, cache: CacheMode) -> float:
    """Milliseconds."""
    prompt: Prompt = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": _SIDE, "height": _SIDE, "batch_size": 1, "color": color},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "b"}},
    }
    began = time.perf_counter()
    job = await client.submit(prompt, cache=cache)
    await job.save_outputs(Path(folder) / "out" / job.id)
    return (time.perf_counter() - began) * 1000
