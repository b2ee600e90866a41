"""A gateway in a process of its own, to be filled, measured and killed.

As a program: a gateway whose worker echoes its input, or fails where that is asked for. It notes
each start and end of a job in a file, if one is named.
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
from typing import Any

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
def gateway_process(
    temporary: Path,
    *,
    folder: Path | None = None,
    port: int = 0,
    notes: Path | None = None,
    **limits: int | float | str,
) -> Iterator[GatewayProcess]:
    """A gateway with its temporary files below ``temporary``.

    Args:
        folder: Where it stores what it promises; a temporary one when ``None``.
        notes: Gets a line ``start JOB`` and ``end JOB`` for what its worker does.
    """
    arguments = [f"{name}={value}" for name, value in limits.items()]
    arguments += [f"_folder={folder}"] if folder else []
    arguments += [f"_notes={notes}"] if notes else []
    arguments += [f"_port={port}"] if port else []
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments],
        env={**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    watchdog = threading.Timer(220, process.kill)
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


def _worker(notes: str | None) -> Any:
    def note(word: str, job_id: str) -> None:
        if notes is not None:
            with Path(notes).open("a") as file:
                file.write(f"{word} {job_id}\n")

    async def work(job_id: str, payload: object, report: object) -> dict[str, object]:
        note("start", job_id)
        given = payload if isinstance(payload, Mapping) else {}
        if given.get("fail"):
            return {"error": "as asked for"}
        if given.get("seconds"):
            await asyncio.sleep(given["seconds"])
        size = len(payload) if isinstance(payload, str | list | Mapping) else payload
        note("end", job_id)
        return {"echo": given["echo"]} if "echo" in given else {"size": size}

    return work


async def _serve(arguments: list[str]) -> None:
    from pydantic import SecretStr

    from comfy_remote.gateway import GatewayLimits, GatewayServer

    given = dict(argument.split("=", 1) for argument in arguments)
    folder, port = given.pop("_folder", None), int(given.pop("_port", 0))
    notes = given.pop("_notes", None)
    hosts = frozenset(filter(None, [given.pop("webhook_hosts", "")]))
    numbers: dict[str, Any] = {name: int(value) for name, value in given.items()}
    limits = GatewayLimits(webhook_hosts=hosts, **numbers)
    async with GatewayServer(
        endpoint_id="desk",
        token=SecretStr(TOKEN),
        limits=limits,
        folder=Path(folder) if folder else None,
        port=port,
    ) as gateway:
        gateway.add_local_worker(_worker(notes))
        print(gateway.endpoint_url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1:]))
