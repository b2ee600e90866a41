"""A gateway in a process of its own, to be filled, measured and killed.

As a program: a gateway whose worker echoes its input, or fails where that is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

TOKEN = "a-token-for-the-gateway"


@dataclass
class GatewayProcess:
    """A running one; `url` is that of its endpoint."""

    process: subprocess.Popen[str]
    url: str

    def peak_memory(self) -> int:
        """Bytes it has had in memory at most (Linux)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")


@contextlib.contextmanager
def gateway_process(temporary: Path, **limits: int | float) -> Iterator[GatewayProcess]:
    """A gateway with its temporary files below ``temporary``."""
    arguments = [f"{name}={value}" for name, value in limits.items()]
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments],
        env={**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        url = process.stdout.readline().strip()
        assert url, "the gateway did not start"
        yield GatewayProcess(process, url)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


async def _work(job_id: str, payload: object, report: object) -> dict[str, object]:
    if isinstance(payload, Mapping) and payload.get("fail"):
        return {"error": "as asked for"}
    size = len(payload) if isinstance(payload, str | list | Mapping) else payload
    return {"size": size}


async def _serve(arguments: list[str]) -> None:
    from pydantic import SecretStr

    from comfy_remote.gateway import GatewayLimits, GatewayServer

    given = dict(argument.split("=", 1) for argument in arguments)
    limits = GatewayLimits(**{name: int(value) for name, value in given.items()})  # type: ignore[arg-type]
    async with GatewayServer(endpoint_id="desk", token=SecretStr(TOKEN), limits=limits) as gateway:
        gateway.add_local_worker(_work)
        print(gateway.endpoint_url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1:]))
