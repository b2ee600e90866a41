"""The process of a worker: when it is started again, and when that would be no better."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from comfy_remote.errors import ConfigurationError, EngineCrashed
from comfy_remote.gateway import GatewayServer


def worker(folder: Path, code: str) -> list[str]:
    script = folder / "worker.py"
    script.write_text(code)
    return [sys.executable, str(script)]


async def test_a_worker_with_a_wrong_setting_is_not_started_again(tmp_path: Path) -> None:
    async with GatewayServer(folder=tmp_path / "files") as gateway:
        gateway.add_sdk_worker(
            worker(tmp_path, "import sys\nprint('X is not a number.')\nsys.exit(2)\n")
        )
        with pytest.raises(ConfigurationError, match="X is not a number"):
            await gateway.wait_until_ready(20)


async def test_a_worker_whose_program_is_missing_is_not_started_again(tmp_path: Path) -> None:
    async with GatewayServer(folder=tmp_path / "files") as gateway:
        gateway.add_sdk_worker([str(tmp_path / "nothing")])
        with pytest.raises(ConfigurationError, match="could not be started"):
            await gateway.wait_until_ready(20)


async def test_a_worker_that_never_began_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    async with GatewayServer(folder=tmp_path / "files") as gateway:
        gateway.add_sdk_worker(
            worker(tmp_path, "import sys\nprint('no kernel image')\nsys.exit(5)\n")
        )
        with pytest.raises(EngineCrashed, match=r"status 5.*no kernel image"):
            await gateway.wait_until_ready(20)


async def test_a_worker_that_has_worked_is_started_again(tmp_path: Path) -> None:
    code = f"""
import os, sys, urllib.request
from pathlib import Path
url = os.environ["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", os.environ["RUNPOD_POD_ID"])
with Path({str(tmp_path / "starts")!r}).open("a") as starts:
    starts.write("x")
request = urllib.request.Request(url, headers={{"Authorization": os.environ["RUNPOD_AI_API_KEY"]}})
urllib.request.urlopen(request)
sys.exit(5)
"""
    async with GatewayServer(folder=tmp_path / "files") as gateway:
        gateway.add_sdk_worker(worker(tmp_path, code))
        for n in range(2):  # each start takes one, and ends in the middle of it
            job_id = await _submit(gateway)
            await gateway.queue.wait_until_final(job_id, 20)
            job = await gateway.queue.get(job_id)
            assert (job.state.value, job.attempt) == ("FAILED", 2)
            assert len((tmp_path / "starts").read_text()) == 2 * (n + 1)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(gateway.wait_until_failed(), 0.1)


async def _submit(gateway: GatewayServer) -> str:
    from comfy_remote.gateway.job import Submission

    status = await gateway.endpoint.submit(Submission(input=1), sync=False, idempotency_key=None)
    return str(status["id"])
