"""The sandbox as a target: started in a process of its own, and never left by accident."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest

from comfy_remote.targets import sandbox
from comfy_remote.targets.sandbox import SandboxTarget


async def test_a_module_in_the_users_folder_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heapq.py").write_text("raise SystemExit('not the heapq of Python')")
    monkeypatch.chdir(tmp_path)
    async with SandboxTarget() as target:
        assert (await target.health()).ready == 1


async def test_a_start_that_is_cancelled_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    launched: list[subprocess.Popen[bytes]] = []
    launch = sandbox._launch

    def remembered() -> subprocess.Popen[bytes]:
        launched.append(launch())
        return launched[-1]

    monkeypatch.setattr(sandbox, "_launch", remembered)
    start = asyncio.ensure_future(SandboxTarget().__aenter__())
    while not launched:
        await asyncio.sleep(0)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert launched[0].returncode is not None
