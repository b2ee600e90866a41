"""The library against the barest loop that does the same."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
import uuid
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
from common import comfyui, prompt, report, size

from comfy_remote import Client
from comfy_remote.jobs.record import Record


async def bare(session: aiohttp.ClientSession, url: str, color: int, folder: Path) -> None:
    body = {"prompt": prompt(color, "bare"), "client_id": uuid.uuid4().hex}
    async with session.post(f"{url}/prompt", json=body) as response:
        prompt_id = (await response.json())["prompt_id"]
    while True:
        async with session.get(f"{url}/history/{prompt_id}") as response:
            history = await response.json()
        if prompt_id in history:
            break
        await asyncio.sleep(0.005)
    for image in history[prompt_id]["outputs"]["2"]["images"]:
        async with session.get(f"{url}/view?{urlencode(image)}") as response:
            (folder / image["filename"]).write_bytes(await response.read())


async def _compare(url: str, runs: int, folder: Path) -> None:
    ours: list[float] = []
    theirs: list[float] = []
    color = random.randrange(1 << 20)
    with Record(folder) as record:
        async with (
            Client(url, record=record) as client,
            aiohttp.ClientSession() as session,
        ):
            for index in range(-3, runs):
                began = time.perf_counter()
                job = await client.submit(prompt(color + 2 * index, "ours"))
                await job.save_outputs(folder)
                middle = time.perf_counter()
                await bare(session, url, color + 2 * index + 1, folder)
                end = time.perf_counter()
                if index >= 0:
                    ours.append(middle - began)
                    theirs.append(end - middle)
                await asyncio.sleep(0.02)
    report("overhead", ours, theirs, "bare POST-and-poll loop at 5 ms")


def bench_overhead() -> None:
    """Submit, follow, fetch and save one small picture, in a warm process."""
    with comfyui() as engine, tempfile.TemporaryDirectory() as folder:
        url = asyncio.run(engine.ready())
        asyncio.run(_compare(url, size(60, 2), Path(folder)))
