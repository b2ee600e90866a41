"""What killed processes leave in the temporary folder goes when the next of ours starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Each prints a line when its folder is there, and then waits to be killed.
PROGRAMS = {
    "sandbox": """
import asyncio
from comfy_remote.sandbox.server import SandboxServer
async def main():
    async with SandboxServer() as server:
        print("there", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
""",
    "gateway": """
import asyncio
from comfy_remote.gateway import GatewayServer
from comfy_remote.gateway.job import Submission
async def main():
    async with GatewayServer() as gateway:
        await gateway.endpoint.submit(Submission(input=1), sync=False, idempotency_key=None)
        print("there", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
""",
    "job": """
from comfy_remote.media.temporary import TemporaryFolder
folder = TemporaryFolder("job")  # as the worker makes it for a job
print("there", flush=True)
import time; time.sleep(100)
""",
    "outputs": """
from comfy_remote.media.temporary import TemporaryFolder
folder = TemporaryFolder("outputs")  # as a client makes it for what it fetches
print("there", flush=True)
import time; time.sleep(100)
""",
}

NEXT = {
    "sandbox": PROGRAMS["sandbox"],
    "gateway": PROGRAMS["gateway"],
    "client": """
import asyncio, time
from comfy_remote import Client
async def main():
    async with Client("http://127.0.0.1:1"):
        pass  # they go meanwhile, and are gone once it is closed
    print("there", flush=True)
    time.sleep(100)
asyncio.run(main())
""",
    "worker": """
from comfy_remote.worker import runpod_entry
runpod_entry._serve = lambda *_: (print("there", flush=True), __import__("time").sleep(100))
runpod_entry.main(["--engine", "http://127.0.0.1:1"])
""",
}


def started(code: str, temporary: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "TMPDIR": str(temporary),
            "TEMP": str(temporary),
            "COMFY_REMOTE_HOME": str(temporary.parent / "home"),
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "there\n"
    except BaseException:
        killed(process)
        raise
    return process


def killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


@pytest.mark.parametrize("next_one", NEXT)
def test_leftovers_of_all_kinds_go_and_what_lives_stays(tmp_path: Path, next_one: str) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    dead = [started(code, temporary) for code in PROGRAMS.values()]
    for process in dead:
        killed(process)
    left = set(temporary.glob("comfy-remote-*"))
    assert len(left) == len(PROGRAMS)
    alive = started(PROGRAMS["job"], temporary)
    try:
        (living,) = set(temporary.glob("comfy-remote-*")) - left
        after = started(NEXT[next_one], temporary)
        try:
            assert not left & set(temporary.glob("comfy-remote-*"))
            assert living.exists()
        finally:
            killed(after)
    finally:
        killed(alive)
