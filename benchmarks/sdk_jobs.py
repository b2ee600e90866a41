"""Jobs one after the other on a worker of the RunPod SDK: how long it idles between two of them.

Run with ``ours`` or ``sdk`` it is the worker: with Comfy Remote's loop, or with the SDK's own.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import Any

import aiohttp
from common import size

from comfy_remote.gateway import GatewayServer

_WORK = 0.2  # seconds of each job


async def _works(job: dict[str, Any], *_: object) -> dict[str, Any]:
    await asyncio.sleep(job["input"]["seconds"])
    return {"done": True}


async def _always() -> bool:
    return True


def _worker(loop: str) -> None:
    if loop == "ours":
        from comfy_remote.worker.sdk import take_jobs

        take_jobs(_works, _always)
    else:
        import runpod

        runpod.serverless.start({"handler": lambda job: _works(job)})


async def _batch(session: aiohttp.ClientSession, jobs: int) -> tuple[float, float]:
    """Milliseconds between two jobs, and more than its work that each took on the worker."""

    async def ended(job_id: str) -> float:
        while True:
            async with session.get(f"status/{job_id}") as answer:
                seen = await answer.json()
            if seen["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
                return float(seen["executionTime"])
            await asyncio.sleep(0.01)

    began, ids = time.monotonic(), []
    for _ in range(jobs):
        async with session.post("run", json={"input": {"seconds": _WORK}}) as answer:
            ids.append((await answer.json())["id"])
    ran = [await ended(job_id) for job_id in ids]
    whole = (time.monotonic() - began) * 1000
    return (whole - sum(ran)) / jobs, statistics.mean(ran) - _WORK * 1000


async def _measure(rounds: int, jobs: int) -> None:
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "sdk": []}
    async with GatewayServer(endpoint_id="ours") as ours, GatewayServer(endpoint_id="sdk") as sdk:
        gateways = {"ours": ours, "sdk": sdk}
        for loop, gateway in gateways.items():
            gateway.add_sdk_worker([sys.executable, __file__, loop])
            if not await gateway.wait_until_ready(60):
                raise SystemExit("the worker did not start")
        for _ in range(rounds):
            for loop, gateway in gateways.items():
                async with aiohttp.ClientSession(f"{gateway.endpoint_url}/") as session:
                    found[loop].append(await _batch(session, jobs))
    idle, more = (
        {loop: statistics.median(each[n] for each in seen) for loop, seen in found.items()}
        for n in (0, 1)
    )
    print(
        f"sdk-jobs: {idle['ours']:.0f} ms idle between two jobs (the SDK's own loop: "
        f"{idle['sdk']:.0f} ms); on the worker, {more['ours']:.0f} ms more than its work "
        f"({more['sdk']:.0f} ms)"
    )


def bench_sdk_jobs() -> None:
    """See README.md."""
    asyncio.run(_measure(size(5, 1), size(8, 2)))


if __name__ == "__main__":
    _worker(sys.argv[1])
