"""A batch: on four workers against the ideal; tiny runs against a bare loop, and what one costs."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp
from common import comfyui, prompt, size
from lane import endpoint, gateway_address, slow_prompt
from overhead import bare

from comfy_remote import BatchOptions, Client, Record

_SECONDS, _RUNS, _WORKERS = 2.0, 8, 4
_AT_A_TIME = 4
_TINY = size(1000, 4)


def bench_batch() -> None:
    """8 runs of 2 s on 4 workers; 1,000 tiny runs on an engine, in turn with a bare loop."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_on_workers(Path(folder)))
    with comfyui() as engine, tempfile.TemporaryDirectory() as folder:
        url = asyncio.run(engine.ready())
        asyncio.run(_tiny(url, Path(folder)))


async def _on_workers(folder: Path) -> None:
    took = []
    async with endpoint() as gateway:
        with gateway_address(gateway), Record(folder / "home") as record:
            async with Client("runpod:lane", record=record) as client:
                for number in range(size(3, 1)):
                    batch = await client.batch(
                        slow_prompt(_SECONDS),
                        vary={"3.seed": f"random*{_RUNS}"},
                        options=BatchOptions(folder=folder / str(number)),
                    )
                    began = time.perf_counter()
                    ended = await batch.run()
                    took.append(time.perf_counter() - began)
                    assert ended.succeeded == _RUNS, ended
    ideal = _SECONDS * _RUNS / _WORKERS
    median = statistics.median(took)
    print(
        f"batch: {_RUNS} runs of {_SECONDS:g} s on {_WORKERS} workers in {median:.2f} s, "
        f"{median / ideal:.2f} times the ideal {ideal:g} s (at most 1.08; median of {len(took)})"
    )


async def _tiny(url: str, folder: Path) -> None:
    """In turn, a part each, so that a busy moment hits both."""
    ours = theirs = cpu = 0.0
    parts = size(4, 1)
    count = _TINY // parts
    with Record(folder / "home") as record:
        async with Client(url, record=record) as client, aiohttp.ClientSession() as session:
            for number in range(parts):
                color = random.randrange(1 << 20)
                batch = await client.batch(
                    prompt(color, "batch"),
                    vary={"1.color": f"{color}..{color + count - 1}"},
                    options=BatchOptions(folder=folder / str(number), at_most=_AT_A_TIME),
                )
                began, used = time.perf_counter(), time.process_time()
                ended = await batch.run()
                ours += time.perf_counter() - began
                cpu += time.process_time() - used
                assert ended.succeeded == count, ended
                began = time.perf_counter()
                await _bare_loop(session, url, color + (1 << 21), count, folder)
                theirs += time.perf_counter() - began
    runs = count * parts
    print(
        f"batch: {runs} tiny runs, {ours / runs * 1000:.1f} ms each, {ours / theirs:.2f} times a "
        f"bare loop of {_AT_A_TIME} at a time (at most 1.3); {cpu / runs * 1000:.1f} ms of "
        f"processor time each (at most 12, with the sheet; {os.cpu_count()} processors)"
    )


async def _bare_loop(
    session: aiohttp.ClientSession, url: str, color: int, count: int, folder: Path
) -> None:
    colors = iter(range(color, color + count))

    async def some() -> None:
        for one in colors:
            await bare(session, url, one, folder)

    await asyncio.gather(*(some() for _ in range(_AT_A_TIME)))
