"""From a submission to the start of its job on an idle joined worker, over loopback.

Gateway, worker and client are processes of their own. The clock is the system's monotonic one,
which they share.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from common import size
from pydantic import JsonValue, SecretStr

from comfy_remote.gateway import GatewayLimits, GatewayServer
from comfy_remote.gateway.tokens import new_token, sha256_of_token
from comfy_remote.gateway.worker_list import WorkerList
from comfy_remote.wire.joined import Report
from comfy_remote.worker.joined.client import Gateway
from comfy_remote.worker.joined.delivery import SpoolStore
from comfy_remote.worker.joined.spool import Spool
from comfy_remote.worker.joined.worker import JoinedWorker
from comfy_remote.worker.loop import Report as Send


def bench_joined() -> None:
    """The time to the start, and to the result."""
    asyncio.run(_measure(size(300, 5)))


async def _measure(jobs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        token = new_token("desk")
        with WorkerList.of(folder / "head") as listed:
            listed.add("desk", sha256_of_token(token))
        async with (
            _process("head", str(folder / "head")) as url,
            _process("worker", url, str(folder / "box"), token),
        ):
            starts, ends = await _times(url, jobs)
    print(
        f"joined: a job of an idle worker starts {1000 * statistics.median(starts):.1f} ms after "
        f"it was sent (median of {jobs}; {1000 * sorted(starts)[round(jobs * 0.95) - 1]:.1f} ms "
        f"at the 95th percentile), and its result is there after "
        f"{1000 * statistics.median(ends):.1f} ms"
    )


async def _times(url: str, jobs: int) -> tuple[list[float], list[float]]:
    starts, ends = [], []
    async with aiohttp.ClientSession() as session:
        for _ in range(jobs):
            begun = time.monotonic()
            async with session.post(f"{url}/runsync", json={"input": 1}) as answer:
                found = await answer.json()
            ends.append(time.monotonic() - begun)
            starts.append(found["output"]["began"] - begun)
            await asyncio.sleep(0.02)  # the worker is idle again
    return starts, ends


@asynccontextmanager
async def _process(*arguments: str) -> AsyncIterator[str]:
    """This file as a program; gives its first line."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


async def _head(folder: Path) -> None:
    async with GatewayServer(folder=folder, limits=GatewayLimits(free_bytes=0)) as gateway:
        print(gateway.endpoint_url, flush=True)
        await asyncio.Event().wait()


async def _worker(url: str, folder: Path, token: str) -> None:
    async def handler(_id: str, _payload: JsonValue, _report: Send) -> dict[str, JsonValue]:
        return {"began": time.monotonic()}

    async def report() -> Report:
        return Report(engine="none")

    spool = Spool(folder)
    spool.open(token)
    base, _, endpoint = url.partition("/v2/")
    async with Gateway(
        base, endpoint=endpoint, worker="desk", token=SecretStr(token), boot=spool.boot()
    ) as gateway:
        print(json.dumps("joined"), flush=True)
        await JoinedWorker(gateway, spool, report, SpoolStore(spool, "desk")).run(handler)


if __name__ == "__main__":
    kind, *rest = sys.argv[1:]
    if kind == "head":
        asyncio.run(_head(Path(rest[0])))
    else:
        asyncio.run(_worker(rest[0], Path(rest[1]), rest[2]))
