"""A 201 MB batch of images over loopback, against a safetensors file written and read."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import numpy as np
from aiohttp import web
from common import size
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from comfy_remote.media.receive import receive_file
from comfy_remote.media.received_inputs import InputFolder
from comfy_remote.media.values import EncodedValue, ImageFormat, encode, read_value

SHAPE = (size(16, 1), 1024, 1024, 3)
RUNS = size(7, 1)
_EVERY = 997  # one value of each page would do


def bench_values() -> None:
    with tempfile.TemporaryDirectory(prefix="comfy-remote-bench-") as name:
        folder = Path(name)
        server = subprocess.Popen(
            [sys.executable, __file__, str(folder / "received")],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            asyncio.run(_bench(f"http://127.0.0.1:{json.loads(server.stdout.readline())}", folder))
        finally:
            server.terminate()
            server.wait(10)


async def _bench(url: str, folder: Path) -> None:
    image = _photographs()
    async with aiohttp.ClientSession(url) as session:
        for _ in range(2):  # the first answer is of the start
            async with session.post("/memory") as answer:
                server = await answer.json()
        memory()
        client = memory()
        await _put(session, encode(image, "IMAGE"), folder)
        sending = memory() - client
        async with session.post("/memory") as answer:
            receiving = await answer.json() - server
        ours, as_a_job, theirs = [], [], []
        for _ in range(RUNS):
            ours.append(await _ours(session, image, folder))
            as_a_job.append(await _as_a_job(session, image, folder))
            theirs.append(_theirs(image, folder))
        print(
            _row("values", ours, theirs)
            + f"; peak memory beside the batch: sender {sending} MiB, receiver {receiving} MiB"
        )
        print(_row("values, as a job sends them on one machine", as_a_job, theirs))
        for images in ("png", "webp"):
            await _pictures(session, image, images, folder)


def _row(name: str, ours: list[float], theirs: list[float]) -> str:
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return (
        f"{name}: {statistics.median(ours) * 1000:.0f} ms, safetensors file written and read "
        f"{statistics.median(theirs) * 1000:.0f} ms, ratio {ratio:.2f} "
        f"({RUNS} runs in turn, median)"
    )


def _photographs() -> NDArray[np.float32]:
    """Soft colours with the noise of a sensor: what a decoder makes, not multiples of 1/255."""
    noise = np.random.default_rng(5)
    y, x = np.mgrid[0:1:1024j, 0:1:1024j].astype(np.float32)
    image = np.empty(SHAPE, np.float32)
    for index in range(SHAPE[0]):
        for channel in range(3):
            wave = np.sin(7 * x + index) * np.cos(5 * y + channel)
            grain = noise.normal(0, 0.01, wave.shape).astype(np.float32)
            image[index, ..., channel] = np.clip(0.5 + 0.4 * wave + grain, 0, 1)
    return image


async def _ours(session: aiohttp.ClientSession, image: NDArray[np.float32], folder: Path) -> float:
    """Streamed from the tensor's own memory."""
    began = time.perf_counter()
    received = await _put(session, encode(image, "IMAGE"), folder)
    arrived = read_value(received, tensors="numpy")
    _touch(arrived.value)
    seconds = time.perf_counter() - began
    received.unlink()  # before the next one: to replace it would be in that one's time
    assert np.array_equal(arrived.value, image)  # type: ignore[arg-type]
    return seconds


async def _as_a_job(
    session: aiohttp.ClientSession, image: NDArray[np.float32], folder: Path
) -> float:
    """Into an input folder, where it is named by its content: hashed while it arrives."""
    began = time.perf_counter()
    received = await _put(session, encode(image, "IMAGE"), folder, "values")
    arrived = read_value(received, tensors="numpy")
    _touch(arrived.value)
    seconds = time.perf_counter() - began
    received.unlink()
    assert np.array_equal(arrived.value, image)  # type: ignore[arg-type]
    return seconds


def _theirs(image: NDArray[np.float32], folder: Path) -> float:
    path = folder / "theirs.safetensors"
    began = time.perf_counter()
    save_file({"image": image}, path)
    arrived = load_file(path)["image"]
    _touch(arrived)
    seconds = time.perf_counter() - began
    path.unlink()
    assert np.array_equal(arrived, image)
    return seconds


def _touch(value: object) -> None:
    """Have every page of it in memory, as whoever uses it would."""
    assert isinstance(value, np.ndarray)
    float(value.reshape(-1)[::_EVERY].sum())


async def _pictures(
    session: aiohttp.ClientSession, image: NDArray[np.float32], images: ImageFormat, folder: Path
) -> None:
    times, size = [], 0
    for _ in range(3):
        began = time.perf_counter()
        encoded = await asyncio.to_thread(encode, image, "IMAGE", images=images)
        arrived = read_value(await _put(session, encoded, folder), tensors="numpy").value
        times.append(time.perf_counter() - began)
        size = encoded.size
        assert isinstance(arrived, np.ndarray)
        assert np.abs(arrived - image).max() <= 0.5 / 255 + 1e-6
    print(
        f"values as {images.upper()}: {statistics.median(times):.1f} s, {size / 1e6:.0f} MB "
        f"instead of {image.nbytes / 1e6:.0f} MB ({len(times)} runs, median)"
    )


async def _put(
    session: aiohttp.ClientSession, encoded: EncodedValue, folder: Path, where: str = "value"
) -> Path:
    async def chunks() -> AsyncIterator[bytes | memoryview]:
        for chunk in encoded.chunks():
            yield chunk

    length = {"Content-Length": str(encoded.size)}
    async with session.put(f"/{where}", data=chunks(), headers=length) as answer:
        return folder / "received" / str(await answer.json())


def memory() -> int:
    """MiB that this process has had at most since the last time it was asked."""
    process = Path("/proc/self")
    if not process.exists():
        return 0
    peak = next(
        line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM")
    )
    (process / "clear_refs").write_text("5")
    return int(peak.split()[1]) // 1024


def _serve(folder: Path) -> None:
    """The receiving side, in a process of its own."""

    async def put(request: web.Request) -> web.Response:
        chunks = request.content.iter_any()
        if request.path == "/values":
            return web.json_response(await InputFolder(folder).receive_value(chunks))
        await receive_file(chunks, folder / "value")
        return web.json_response("value")

    async def measure(_: web.Request) -> web.Response:
        return web.json_response(memory())

    async def main() -> None:
        app = web.Application()
        app.add_routes([web.post("/memory", measure), web.put("/{name}", put)])
        runner = web.AppRunner(app, read_bufsize=256 * 1024)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(json.dumps(runner.addresses[0][1]), flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
