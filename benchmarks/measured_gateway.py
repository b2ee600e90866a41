"""A gateway in a process of its own that says how it fares; this version's, or an older one's.

As a program: a gateway whose workers, in the same process, are done at once. It prints how it is
reached, and a line of numbers for each line that it reads.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import inspect
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from http_load import Endpoint, percentile

_PROBE_EVERY = 0.005


@dataclass
class MeasuredGateway:
    """A running one."""

    process: subprocess.Popen[str]
    endpoint: Endpoint
    folder: Path

    def numbers(self) -> dict[str, Any]:
        """Since the last time it was asked: `_Probe.numbers`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found


@contextmanager
def measured_gateway(
    *,
    version: Path | None = None,
    workers: int = 0,
    result: int = 0,
    folder: Path | None = None,
    limits: dict[str, float] | None = None,
    profile: Path | None = None,
) -> Iterator[MeasuredGateway]:
    """Start one, and end it afterwards.

    Args:
        version: The checkout whose ``comfy_remote`` it is; this one's when ``None``.
        workers: In its process, with a handler that does nothing.
        result: Bytes of each result.
        folder: Where it stores what it stores; a temporary one when ``None``.
        profile: Where a profile of its event loop goes, for ``pstats``.

    Raises:
        Skipped: The system has no ``/proc``.
    """
    from common import Skipped  # imports the worker, which is no part of what is measured

    if not Path("/proc/self/status").exists():
        raise Skipped("it reads Linux's /proc")
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as temporary:
        place = folder or Path(temporary)
        command = [sys.executable, __file__, "--folder", str(place)]
        command += ["--workers", str(workers), "--result", str(result)]
        command += ["--limits", json.dumps(limits or {})]
        command += ["--profile", str(profile)] if profile else []
        environment = {**os.environ, "TMPDIR": temporary, "COMFY_REMOTE_HOME": str(place)}
        if version is not None:
            environment["PYTHONPATH"] = str(version)
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            started = json.loads(process.stdout.readline() or "null")
            if started is None:
                raise SystemExit("the gateway did not start")
            endpoint = Endpoint(started["url"], started["worker_token"])
            yield MeasuredGateway(process, endpoint, place)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# The program


class _Probe:
    """How late the event loop is, and what the process takes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._late: list[float] = []
        self._largest_wal = 0
        self._processor_time = time.process_time()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        wals: list[Path] = []
        while True:
            began = loop.time()
            await asyncio.sleep(_PROBE_EVERY)
            self._late.append(max(0.0, loop.time() - began - _PROBE_EVERY))
            wals = wals or [*self._folder.rglob("*-wal")]
            for wal in wals:
                self._largest_wal = max(self._largest_wal, wal.stat().st_size)

    def numbers(self) -> dict[str, object]:
        late, self._late = self._late or [0.0], []
        before, self._processor_time = self._processor_time, time.process_time()
        status = dict(
            line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
        )
        kib = {name: int(status[name].split()[0]) for name in ("VmRSS", "VmHWM")}
        return {
            "late": {str(of): percentile(late, of) for of in (50, 99, 100)},
            "processor_time": self._processor_time - before,
            "memory": kib["VmRSS"] * 1024,
            "peak_memory": kib["VmHWM"] * 1024,
            "largest_wal": self._largest_wal,
            "objects": len(gc.get_objects()),
            "descriptors": len([*Path("/proc/self/fd").iterdir()]),
            "threads": threading.active_count(),
            "tasks": len(asyncio.all_tasks()),
            "temporary_files": sum(
                len(files) for _, _, files in os.walk(tempfile.gettempdir(), topdown=False)
            ),
        }


async def _serve(options: argparse.Namespace) -> None:
    from comfy_remote.gateway import GatewayLimits, GatewayServer

    result = "x" * options.result

    async def done_at_once(*_: object) -> dict[str, Any]:
        return {"result": result}

    limits = GatewayLimits(**json.loads(options.limits))
    # Before the gateway was durable, its folder had another name.
    known = inspect.signature(GatewayServer).parameters
    where: dict[str, Any] = {"folder" if "folder" in known else "files_folder": options.folder}
    async with GatewayServer(endpoint_id="bench", limits=limits, **where) as gateway:
        for index in range(options.workers):
            gateway.add_local_worker(done_at_once, worker_id=f"local-{index}")
        probe = _Probe(options.folder)
        probing = asyncio.ensure_future(probe.run())
        token = gateway.worker_token.get_secret_value()
        print(json.dumps({"url": gateway.endpoint_url, "worker_token": token}), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(probe.numbers()), flush=True)
        probing.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--result", type=int, default=0)
    parser.add_argument("--limits", default="{}")
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args()
    if options.profile is None:
        asyncio.run(_serve(options))
        return
    import cProfile

    with cProfile.Profile() as profile:
        asyncio.run(_serve(options))
    profile.dump_stats(options.profile)


if __name__ == "__main__":
    main()
