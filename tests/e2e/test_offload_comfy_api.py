"""Marked nodes run on a server with Comfy's API: our own front, before an engine with our pack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from comfy_api_kit import served
from lane_page import Page
from offload_kit import here, new_seed, node, parts_of, pixels, run, shown, there
from pack import PackServer

__all__ = ["here", "shown", "there"]


@pytest.fixture
async def ours(there: PackServer, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of our own front, before the engine that has the pack."""
    async with served(there.url, tmp_path / "front") as front:
        yield front.url.rstrip("/")


async def test_a_cut_gives_what_the_whole_gives(here: PackServer, shown: Page, ours: str) -> None:
    prompt = {
        "1": node("EmptyImage", width=48, height=32, batch_size=2, color=new_seed()),
        "2": node("ImageInvert", image=("1", 0)),
        "3": node("SaveImage", images=("2", 0), filename_prefix="cut"),
    }
    whole = pixels(here, await run(shown, prompt))
    for target in (f"comfy:{ours}", ours):
        entry = await run(shown, prompt, {"2": target})
        assert len(parts_of(entry)) == 1
        assert pixels(here, entry) == whole
