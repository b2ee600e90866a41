"""Comfy's own SDK through `comfy-remote api`, beside comfy-api-proxy on the same engine."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from blake3 import blake3
from comfy_sdk import AsyncComfy, Comfy, StatusChange
from common import Skipped, comfyui, prompt, report, size

from comfy_remote import Client
from comfy_remote.jobs.record import Record
from comfy_remote.worker.engine import Engine

_JOBS = size(1000, 4)
_TURN = size(100, 2)
_AT_A_TIME = 8
_LATENCIES = size(60, 2)
_UPLOAD = size(2_000_000_000, 1_000_000)
_THEIR_UPLOAD = size(90_000_000, 1_000_000)  # it takes 100 MiB, as ComfyUI does
_LISTENERS = size(50, 3)
_START_SECONDS = 60.0


@dataclass
class Server:
    """What serves the API, in a process of its own."""

    url: str
    process: subprocess.Popen[bytes]

    def peak_memory(self) -> float:
        """The most that it has had at once, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        (line,) = [each for each in status.splitlines() if each.startswith("VmHWM:")]
        return int(line.split()[1]) / 1024

    def sdk(self) -> AsyncComfy:
        """A client of it."""
        os.environ["COMFY_BASE_URL"] = self.url
        return AsyncComfy()


@contextmanager
def served(arguments: list[str], folder: Path) -> Iterator[Server]:
    """A module of ours or theirs with these arguments, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    folder.mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments, "--port", str(port)],
            env={**os.environ, "COMFY_REMOTE_HOME": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_it_answers(f"{url}/api/v2/jobs?limit=1", process, folder / "log")
        yield Server(url, process)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    raise SystemExit(f"it did not start:\n{log.read_text()[-3000:]}")


@contextmanager
def ours(engine: str, folder: Path) -> Iterator[Server]:
    with served(["comfy_remote", "api", "--on", engine], folder) as server:
        yield server


@contextmanager
def theirs(engine: str, folder: Path) -> Iterator[Server]:
    with served(["comfy_api_proxy.cli", "run", "--comfyui", engine], folder) as server:
        yield server


def bench_jobs() -> None:
    """Fast jobs: how each ends, and whether what is said of its files is right."""
    with comfyui() as engine, tempfile.TemporaryDirectory() as folder:
        url = asyncio.run(engine.ready())
        with ours(url, Path(folder) / "ours") as we, theirs(url, Path(folder) / "theirs") as they:
            asyncio.run(_jobs({"ours": we, "comfy-api-proxy": they}))


async def _jobs(servers: dict[str, Server]) -> None:
    found: dict[str, Counter[str]] = {name: Counter() for name in servers}
    seconds: Counter[str] = Counter()
    first = random.randrange(1 << 20)
    for begin in range(0, _JOBS, _TURN):
        for number, (name, server) in enumerate(servers.items()):
            colors = range(first + begin, first + begin + min(_TURN, _JOBS - begin))
            began = time.perf_counter()
            found[name] += await _some(server, [2 * color + number for color in colors])
            seconds[name] += time.perf_counter() - began
    for name, count in found.items():
        print(
            f"api-jobs, {name}: of {_JOBS} jobs {count['succeeded']} succeeded, {count['expired']} "
            f"expired; of {count['files']} files {count['sizes']} sizes and {count['hashes']} "
            f"hashes are right; {_JOBS / seconds[name]:.1f} jobs a second, {_AT_A_TIME} at a time"
        )


async def _some(server: Server, colors: list[int]) -> Counter[str]:
    count: Counter[str] = Counter()
    places = asyncio.Semaphore(_AT_A_TIME)

    async def one(client: AsyncComfy, color: int) -> None:
        async with places:
            job = await client.submit(client.workflows.from_json(prompt(color, "api")))
            await job.wait()
            count[job.status] += 1
            for output in job.outputs:
                content = await output.to_bytes()
                digest = f"blake3:{blake3(content).hexdigest()}"
                count["files"] += 1
                count["sizes"] += output.size_bytes == len(content)
                count["hashes"] += output._model.hash == digest

    async with server.sdk() as client:
        await asyncio.gather(*(one(client, color) for color in colors))
    return count


def bench_latency() -> None:
    """One fast job at a time, from the submission until its picture is here."""
    with comfyui() as engine, tempfile.TemporaryDirectory() as folder:
        url = asyncio.run(engine.ready())
        with ours(url, Path(folder) / "ours") as we, theirs(url, Path(folder) / "theirs") as they:
            asyncio.run(_latencies(url, we, they, Path(folder)))


async def _latencies(engine: str, we: Server, they: Server, folder: Path) -> None:
    times: dict[str, list[float]] = {"library": [], "ours": [], "theirs": []}
    color = random.randrange(1 << 20)
    with Record(folder / "record") as record:
        async with (
            Client(engine, record=record) as client,
            we.sdk() as our_sdk,
            they.sdk() as their_sdk,
        ):

            async def library(color: int) -> None:
                job = await client.submit(prompt(color, "library"))
                await job.save_outputs(folder)

            ways: dict[str, Callable[[int], Awaitable[None]]] = {
                "library": library,
                "ours": lambda color: _by_events(our_sdk, color),
                "theirs": lambda color: _by_events(their_sdk, color),
            }
            for index in range(-3, _LATENCIES):
                for number, (name, way) in enumerate(ways.items()):
                    began = time.perf_counter()
                    await way(color + 3 * index + number)
                    if index >= 0:
                        times[name].append(time.perf_counter() - began)
                    await asyncio.sleep(0.02)
    added = [a - b for a, b in zip(times["ours"], times["library"], strict=True)]
    their_added = [a - b for a, b in zip(times["theirs"], times["library"], strict=True)]
    print(
        f"api-latency: the SDK's events and bytes through ours add {median(added) * 1000:.0f} ms "
        f"to the library's path at the median, through comfy-api-proxy "
        f"{median(their_added) * 1000:.0f} ms"
    )
    report("api-latency", times["ours"], times["theirs"], "comfy-api-proxy")


async def _by_events(client: AsyncComfy, color: int) -> None:
    """The quickest way that the SDK has: its `wait` looks half a second later again."""
    job = await client.submit(client.workflows.from_json(prompt(color, "sdk")))
    async for _ in job.events():
        pass
    done = await job.result()
    for output in done.outputs:
        await output.to_bytes()


def bench_upload() -> None:
    """One large upload: the memory that the server needs."""
    if not Path("/proc/self/status").exists():
        raise Skipped("it reads Linux's /proc")
    engine = Engine.named("sandbox")
    engine.start()
    try:
        url = asyncio.run(engine.ready())
        with tempfile.TemporaryDirectory() as folder:
            with ours(url, Path(folder) / "ours") as server:
                _upload("ours", server, _UPLOAD, Path(folder) / "file")
            with theirs(url, Path(folder) / "theirs") as server:
                _upload("comfy-api-proxy", server, _THEIR_UPLOAD, Path(folder) / "file")
    finally:
        engine.stop()


def _upload(name: str, server: Server, length: int, file: Path) -> None:
    with file.open("wb") as sent:
        sent.truncate(length)
    before = server.peak_memory()
    os.environ["COMFY_BASE_URL"] = server.url
    with Comfy(timeout=600.0) as client:
        began = time.perf_counter()
        asset = client.assets.from_file(file)
        asset.commit()
        took = time.perf_counter() - began
        assert asset.created_new
    print(
        f"api-upload, {name}: {length / 1e9:g} GB in {took:.1f} s, the SDK's hashing included; "
        f"peak memory {server.peak_memory():.0f} MiB ({before:.0f} MiB before)"
    )


def bench_events() -> None:
    """Many listeners on one job: whether each sees every state, and how soon all know the end."""
    engine = Engine.named("sandbox")
    engine.start()
    try:
        url = asyncio.run(engine.ready())
        with tempfile.TemporaryDirectory() as folder, ours(url, Path(folder) / "ours") as server:
            asyncio.run(_listeners(server))
    finally:
        engine.stop()


async def _listeners(server: Server) -> None:
    heard: list[tuple[list[str], float]] = []

    async def listen(client: AsyncComfy, job_id: str) -> None:
        job = await client.jobs.get(job_id)
        states: list[str] = []
        async for event in job.events():
            if isinstance(event, StatusChange) and event.status not in states[-1:]:
                states.append(event.status)
        heard.append((states, time.perf_counter()))

    async with server.sdk() as client:
        ahead = await client.submit(client.workflows.from_json(_slow(size(20, 5), 1)))
        job = await client.submit(client.workflows.from_json(_slow(size(10, 4), 2)))
        await asyncio.gather(*(listen(client, job.id) for _ in range(_LISTENERS)))
        await ahead.result()
    whole = sum(states == ["queued", "running", "succeeded"] for states, _ in heard)
    ends = [when for _, when in heard]
    print(
        f"api-events: {whole} of {_LISTENERS} listeners on one job with previews saw every state; "
        f"the last knew of its end {(max(ends) - min(ends)) * 1000:.0f} ms after the first"
    )


def _slow(steps: int, color: int) -> dict[str, Any]:
    """A job of the sandbox that takes a tenth of a second a step, with previews."""
    made = prompt(color, "slow")
    inputs = {"image": ["1", 0], "steps": steps, "seconds_per_step": 0.1, "preview": True}
    made["3"] = {"class_type": "SandboxSlow", "inputs": inputs}
    made["2"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["3", 0], "filename_prefix": "slow"},
    }
    return made
