"""A part of a prompt on another ComfyUI of this machine, against the whole of it here."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, WARM_UPS, comfyui_folder, report, size

sys.path[:0] = [
    str(ROOT / name) for name in ("tools", "tests", "tests/e2e")
]  # servers with the pack
from lane_page import Page, page  # noqa: E402
from offload_kit import marked, node  # noqa: E402
from pack import comfyui_with_pack  # noqa: E402

_SIDE = 1024
_BATCHES = ((1, size(9, 1)), (size(16, 2), size(5, 1)))
"""Pictures at once, and how often."""


def bench_offload() -> None:
    """A picture goes there, is inverted, and comes back; and a batch of them."""
    comfyui_folder()  # skipped without one
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        base = Path(folder)
        user = {"COMFY_REMOTE_HOME": str(base / "home")}  # both are of one user
        with (
            comfyui_with_pack(base / "here", environment=user) as here,
            comfyui_with_pack(base / "there", environment=user) as there,
        ):
            asyncio.run(_bench(here.url, there.url))


async def _bench(here: str, there: str) -> None:
    colors = itertools.count(random.randrange(1 << 20))
    async with page(here) as shown:
        await shown.confirm(there)
        for batch, runs in _BATCHES:
            remote: list[float] = []
            local: list[float] = []
            for index in range(-WARM_UPS, runs):
                for marks, times in (({"2": there}, remote), ({}, local)):
                    seconds = await _run(shown, _prompt(batch, next(colors)), marks)
                    if index >= 0:
                        times.append(seconds)
            size = batch * _SIDE * _SIDE * 3 * 4 / 1e6
            what = f"offload, {_SIDE}x{_SIDE}x{batch} ({size:.0f} MB there and back)"
            report(what, remote, local, "all of it here")


async def _run(shown: Page, prompt: dict[str, Any], marks: dict[str, str]) -> float:
    began = time.perf_counter()
    answer = await shown.queue(prompt, extra_data=marked(prompt, marks))
    assert answer.status == 200, answer.body
    # The history is asked for now and then; the page hears the end at once.
    await shown.heard("execution_success", answer.body["prompt_id"])
    return time.perf_counter() - began


def _prompt(batch: int, color: int) -> dict[str, Any]:
    """The picture is looked at here, by one that takes no time: a crop of 8 pixels."""
    return {
        "1": node("EmptyImage", width=_SIDE, height=_SIDE, batch_size=batch, color=color),
        "2": node("ImageInvert", image=("1", 0)),
        "3": node("ImageCrop", image=("2", 0), width=8, height=8, x=0, y=0),
        "4": node("PreviewImage", images=("3", 0)),
    }
