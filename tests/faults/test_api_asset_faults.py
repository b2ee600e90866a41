"""The API's assets where a process is killed at any step, and where files are large."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from memory import MIB, linux_only, peak_of

KILLS = Path(__file__).parents[1] / "asset_kills.py"

UPLOAD = """
import asyncio
from pathlib import Path
import aiohttp
from aiohttp import web
from comfy_remote.api.asset_routes import asset_routes
from comfy_remote.api.assets import AssetStore
from comfy_remote.api.server import ApiServer

PART = bytes(2**20)

async def body():
    begin = b"--b\\r\\nContent-Disposition: form-data; name="
    for name in (b"content_type", b"file_path"):
        yield begin + name + b"\\r\\n\\r\\na/b\\r\\n"
    yield begin + b"file\\r\\n\\r\\n"
    for _ in range(256):
        yield PART
    yield b"\\r\\n--b--\\r\\n"

async def there_and_back():
    async with AssetStore(Path(sys.argv[1])) as store, ApiServer(asset_routes(store)) as server:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            url = f"{server.url}/api/v2/assets"
            async with session.post(url, data=body(), headers=headers) as answer:
                assert answer.status == 201, await answer.text()
                asset = await answer.json()
            assert asset["size_bytes"] == 256 * 2**20
            size = 0
            async with session.get(asset["url"]) as answer:
                async for chunk in answer.content.iter_any():
                    size += len(chunk)
            assert size == asset["size_bytes"]

def main():
    asyncio.run(there_and_back())
"""


@pytest.mark.skipif(os.name == "nt", reason="it forks")
def test_a_kill_at_any_step_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(KILLS), str(tmp_path / "front")],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert ran.returncode == 0, f"{ran.stdout}{ran.stderr}"
    assert int(ran.stdout) > 20


@linux_only
def test_a_large_upload_takes_little_memory(tmp_path: Path) -> None:
    assert peak_of(UPLOAD, str(tmp_path / "front")) < 48 * MIB
