"""The remote lane in a page's server: what it costs, and whether jobs run side by side."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from common import ROOT, Skipped, comfyui, comfyui_folder, prompt, report, size

from comfy_remote.gateway import GatewayServer
from comfy_remote.worker.engine import Engine
from comfy_remote.worker.handler import JobHandler

sys.path[:0] = [
    str(ROOT / name) for name in ("tools", "tests", "tests/e2e")
]  # servers with the pack
from lane_page import Page, page  # noqa: E402
from pack import comfyui_with_pack, sandbox_with_pack  # noqa: E402

_WORKERS = 4
_JOBS = size(8, 4)
_SECONDS = float(size(2, 1))
_RUNS = size(15, 1)


def bench_lane() -> None:
    """One prompt there and here, in turn; then a batch on several workers."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        base = Path(folder)
        try:
            _one_prompt(base / "comfyui")
        except Skipped as why:
            print(f"lane: one prompt is skipped, {why}")
        with sandbox_with_pack(base) as server:
            asyncio.run(_batch(server.url))


def _one_prompt(base: Path) -> None:
    """A ComfyUI with the pack, and another as its target: both warm, on this machine."""
    comfyui_folder()  # skipped without one
    with comfyui_with_pack(base) as server, comfyui() as engine:
        asyncio.run(_compare(server.url, asyncio.run(engine.ready())))


async def _compare(url: str, target: str) -> None:
    remote: list[float] = []
    local: list[float] = []
    color = random.randrange(1 << 20)
    async with page(url) as shown:
        for index in range(-2, _RUNS):
            for where, times in ((target, remote), (None, local)):
                color += 1
                seconds = await _until_shown(shown, prompt(color, "lane"), where)
                if index >= 0:
                    times.append(seconds)
    report("lane", remote, local, "the same prompt run locally")
    added = statistics.median(remote) - statistics.median(local)
    print(f"lane: {added * 1000:+.0f} ms a prompt (at most +500 ms are allowed)")


async def _until_shown(shown: Page, what: dict[str, object], target: str | None) -> float:
    """From the click to the page's last message of the prompt."""
    shown.messages.clear()
    began = time.perf_counter()
    answer = await shown.queue(what, target)
    if answer.status != 200:
        raise SystemExit(f"the prompt was refused: {answer.body}")
    await shown.heard("executing", answer.body["prompt_id"], node=None)
    return time.perf_counter() - began


@asynccontextmanager
async def endpoint() -> AsyncIterator[str]:
    """A gateway whose workers have an engine each."""
    async with AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(GatewayServer(endpoint_id="lane"))
        for number in range(_WORKERS):
            engine = Engine.named("sandbox")
            engine.start()
            stack.callback(engine.stop)
            await engine.ready()
            gateway.add_local_worker(JobHandler(engine), worker_id=f"worker-{number}")
        yield gateway.url


@contextmanager
def gateway_address(url: str) -> Any:
    before = os.environ.get("RUNPOD_ENDPOINT_BASE_URL")
    os.environ["RUNPOD_ENDPOINT_BASE_URL"] = url
    try:
        yield
    finally:
        if before is None:
            del os.environ["RUNPOD_ENDPOINT_BASE_URL"]
        else:
            os.environ["RUNPOD_ENDPOINT_BASE_URL"] = before


async def _batch(url: str) -> None:
    took = []
    async with endpoint() as gateway, page(url) as shown:
        with gateway_address(gateway):
            await _until_shown(shown, slow_prompt(0.1), "runpod:lane")
            for _ in range(size(3, 1)):
                began = time.perf_counter()
                ids = [
                    (await shown.queue(slow_prompt(_SECONDS), "runpod:lane")).body["prompt_id"]
                    for _ in range(_JOBS)
                ]
                for prompt_id in ids:
                    await shown.heard("executing", prompt_id, node=None)
                took.append(time.perf_counter() - began)
    ideal = _SECONDS * _JOBS / _WORKERS
    print(
        f"lane: {_JOBS} prompts of {_SECONDS:g} s on {_WORKERS} workers in "
        f"{statistics.median(took):.2f} s, {statistics.median(took) / ideal:.2f} times the ideal "
        f"{ideal:g} s (at most 1.25; median of {len(took)})"
    )


def slow_prompt(seconds: float) -> dict[str, object]:
    graph: dict[str, Any] = dict(prompt(random.randrange(1 << 20), "lane"))
    graph["3"] = {
        "class_type": "SandboxSlow",
        "inputs": {
            "image": ["1", 0],
            "steps": 20,
            "seconds_per_step": seconds / 20,
            "preview": True,
            "seed": random.randrange(1 << 30),
        },
    }
    graph["2"]["inputs"]["images"] = ["3", 0]
    return graph
