"""Lanes to engines, and where outputs go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lanes import (
    TOKEN,
    Lane,
    comfyui_lane,
    gateway_lane,
)

from comfy_remote.net.retry import Backoff


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record of its own, the gateway's key in the environment, and shorter waits."""
    monkeypatch.setenv("COMFY_REMOTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUNPOD_API_KEY", TOKEN)
    monkeypatch.delenv("RUNPOD_ENDPOINT_BASE_URL", raising=False)
    monkeypatch.setattr(Backoff, "seconds", lambda *_: 0.02)
    return tmp_path / "home"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where outputs go."""
    folder = tmp_path / "here" / "out"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
async def comfyui(sandbox_url: str) -> AsyncIterator[Lane]:
    """Client → sandbox."""
    async with comfyui_lane(sandbox_url) as lane:
        yield lane


@pytest.fixture
async def gateway(sandbox_url: str) -> AsyncIterator[Lane]:
    """Client → gateway → worker → sandbox."""
    async with gateway_lane(sandbox_url) as lane:
        yield lane


@pytest.fixture(params=["comfyui", "gateway"])
async def lane(request: pytest.FixtureRequest, sandbox_url: str) -> AsyncIterator[Lane]:
    """Both ways to the sandbox."""
    opened = comfyui_lane if request.param == "comfyui" else gateway_lane
    async with opened(sandbox_url) as lane:
        yield lane


@pytest.fixture(params=["comfyui", "gateway", "comfyui-real", "gateway-real"])
async def any_lane(request: pytest.FixtureRequest, sandbox_url: str) -> AsyncIterator[Lane]:
    """Both ways, to the sandbox and to the real ComfyUI."""
    way, _, real = request.param.partition("-")
    url = request.getfixturevalue("comfyui_url") if real else sandbox_url
    async with (comfyui_lane if way == "comfyui" else gateway_lane)(url) as lane:
        yield lane
