"""A 1 GB output: how much memory the client needs."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import size

from comfy_remote import Client
from comfy_remote.jobs.record import Record
from comfy_remote.worker.engine import Engine

SIZE = size(1_000_000_000, 1_000_000)


def bench_download() -> None:
    """In a process of its own, so that its peak is its own."""
    subprocess.run([sys.executable, __file__], check=True, timeout=600)


async def _download(url: str, folder: Path) -> float:
    inputs = {
        "filename": "large.bin",
        "subfolder": "",
        "size": SIZE,
        "list_under": "files",
        "listed_filename": "",
        "listed_subfolder": "",
    }
    prompt = {"1": {"class_type": "SandboxFile", "inputs": inputs}}
    with Record(folder) as record:
        async with Client(url, record=record) as client:
            job = await client.submit(prompt)
            await job.wait()
            began = time.perf_counter()
            saved = await job.save_outputs(folder)
            assert saved[0].size == SIZE
            return time.perf_counter() - began


def main() -> None:
    engine = Engine.named("sandbox")
    engine.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            url = asyncio.run(engine.ready())
            seconds = asyncio.run(_download(url, Path(folder)))
    finally:
        engine.stop()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    print(f"download: {SIZE / 1e9:g} GB in {seconds:.1f} s, peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
