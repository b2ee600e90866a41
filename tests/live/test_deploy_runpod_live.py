"""``deploy runpod`` in a real RunPod account: an endpoint is made, runs a picture, and is removed.

It takes about ten minutes and costs some cents. It runs only with ``RUNPOD_API_KEY`` and
``COMFY_REMOTE_LIVE=spend`` set:

    COMFY_REMOTE_LIVE=spend pytest -m live tests/live/test_deploy_runpod_live.py

``COMFY_REMOTE_LIVE_IMAGE`` names another image than the published one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from comfy_remote.deploy.runpod.there import Ours, There, look
from comfy_remote.targets.runpod.account import RunPodAccount

pytestmark = [pytest.mark.live, pytest.mark.timeout(1800)]

KEY = os.environ.get("RUNPOD_API_KEY", "")
if not KEY or os.environ.get("COMFY_REMOTE_LIVE") != "spend":
    pytest.skip("skipped: no RUNPOD_API_KEY with COMFY_REMOTE_LIVE=spend", allow_module_level=True)


class Commands:
    """``comfy-remote`` in processes, with a data folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Nothing of this comes into the configuration of whoever runs it.
        own = dict.fromkeys(("XDG_CONFIG_HOME", "APPDATA"), str(folder / "config"))
        self.environment = {**os.environ, **own, "COMFY_REMOTE_HOME": str(folder / "home")}

    def __call__(self, *arguments: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "comfy_remote", *arguments],
            cwd=self._folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        print(ran.stdout, ran.stderr)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


@pytest.fixture
def name() -> str:
    return f"live-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def commands(tmp_path: Path, name: str) -> Iterator[Commands]:
    command = Commands(tmp_path)
    yield command
    command("deploy", "runpod", "--name", name, "--remove", "--with-volume", "--yes")


async def account() -> There:
    async with RunPodAccount(SecretStr(KEY), os.environ) as one:
        return await look(one)


async def test_an_endpoint_is_made_runs_a_picture_and_is_changed(
    commands: Commands, name: str, tmp_path: Path
) -> None:
    image = os.environ.get("COMFY_REMOTE_LIVE_IMAGE")
    deploy = ("deploy", "runpod", "--name", name, "--max-workers", "1", "--yes")
    commands(*deploy, *(("--image", image) if image else ()), "--gpu", "AMPERE_16")
    endpoint = Ours.among(await account(), name, None).endpoint
    assert endpoint is not None
    assert (endpoint.flashboot, endpoint.timeout) == ("FLASHBOOT", 3_600_000)
    assert endpoint.workers is not None
    assert (endpoint.workers.max, endpoint.workers.idle_timeout) == (1, 60)
    commands("run", "example:collage", "--on", name, "--output", "out", "--timeout", "1200")
    assert list((tmp_path / "out").rglob("*.png"))
    commands(*deploy, "--idle", "20")
    changed = Ours.among(await account(), name, None).endpoint
    assert changed is not None
    assert changed.id == endpoint.id
    assert changed.workers is not None
    assert changed.workers.idle_timeout == 20
