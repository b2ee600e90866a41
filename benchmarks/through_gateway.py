"""Through the gateway and the RunPod SDK's worker: how long after the engine has finished."""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import aiohttp
from common import WARM_UPS, Skipped, comfyui, prompt, size

from comfy_remote import Client
from comfy_remote.gateway import GatewayServer
from comfy_remote.gateway.sdk_worker import worker_command
from comfy_remote.jobs.record import Record
from comfy_remote.targets.runpod.target import RunPodTarget
from comfy_remote.worker.engine import Engine


async def _finished_at(session: aiohttp.ClientSession, engine_url: str) -> float:
    """When the engine's newest prompt ended, by its own history; seconds since the epoch."""
    async with session.get(f"{engine_url}/history") as response:
        history = await response.json()
    newest = list(history.values())[-1]
    stamps = [data["timestamp"] for name, data in newest["status"]["messages"]
              if name == "execution_success"]  # fmt: skip
    return float(stamps[-1]) / 1000


def _most_in_a_second(moments: list[float]) -> int:
    return max(sum(0 <= later - first < 1.0 for later in moments) for first in moments)


async def _measure(engine_url: str, runs: int, folder: Path) -> None:
    waits: list[float] = []
    rates: list[int] = []
    requests: list[float] = []

    async def count(*_: object) -> None:
        requests.append(time.monotonic())

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(count)
    color = random.randrange(1 << 20)
    with Record(folder) as record:
        async with (
            GatewayServer(endpoint_id="bench") as gateway,
            aiohttp.ClientSession() as session,
        ):
            gateway.add_sdk_worker(worker_command("--engine", engine_url))
            if not await gateway.wait_until_ready(60):
                raise SystemExit("the worker did not start")
            target = RunPodTarget("bench", None, base_url=gateway.url)
            async with Client(target, record=record) as client:
                # Counted where they leave: in the client's own HTTP session.
                target_session = target._http.session
                target_session._trace_configs.append(trace)
                trace.freeze()
                for index in range(-WARM_UPS, runs):
                    requests.clear()
                    job = await client.submit(prompt(color + index))
                    await job.save_outputs(folder)
                    saved = time.time()
                    if index >= 0:
                        waits.append(saved - await _finished_at(session, engine_url))
                        rates.append(_most_in_a_second(requests))
                    await asyncio.sleep(1.2)  # the SDK looks for the next job once a second
    print(
        f"gateway: {statistics.median(waits) * 1000:.0f} ms from the engine's finish to the "
        f"picture on disk (median of {runs}; worst {max(waits) * 1000:.0f} ms), "
        f"{max(rates)} requests in any second at most"
    )


def bench_gateway() -> None:
    """CLI's path: client → gateway → RunPod SDK → worker → engine."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        try:
            engine = stack.enter_context(comfyui())
        except Skipped:
            engine = Engine.named("sandbox")
            stack.callback(engine.stop)
            engine.start()
        url = asyncio.run(engine.ready())
        print(f"gateway: engine is {engine.name}")
        asyncio.run(_measure(url, size(15, 1), Path(folder)))
