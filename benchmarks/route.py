"""What a route's decision adds to a run."""

from __future__ import annotations

import asyncio
import random
import statistics
import tempfile
import time
from pathlib import Path

from common import comfyui, prompt, size

from comfy_remote import Client
from comfy_remote.config.settings import Configuration
from comfy_remote.config.target_settings import TargetSettings
from comfy_remote.jobs.record import Record
from comfy_remote.targets.opening import open_target


async def _compare(url: str, runs: int, folder: Path) -> None:
    """The same run on a target, and by a route whose first member that is, in turn."""
    members = {name: TargetSettings(url) for name in ("lan", "gpu", "box")}
    color = random.randrange(1 << 20)
    for prefer in ("order", "price"):
        route = TargetSettings("route:lan,gpu,box", prefer=prefer)
        configuration = Configuration(None, {**members, "any": route})
        took: dict[str, list[float]] = {"lan": [], "any": []}
        with Record(folder) as record:
            async with (
                Client(open_target("lan", configuration), record=record) as direct,
                Client(open_target("any", configuration), record=record) as routed,
            ):
                for index in range(-3, runs):
                    for name, client in (("lan", direct), ("any", routed)):
                        color += 1
                        began = time.perf_counter()
                        job = await client.submit(prompt(color, "route"))
                        await job.wait()
                        if index >= 0:
                            took[name].append(time.perf_counter() - began)
                        await asyncio.sleep(0.02)
        plain, added = statistics.median(took["lan"]), statistics.median(took["any"])
        print(
            f"route: {1000 * (added - plain):.1f} ms added to a run of {1000 * plain:.1f} ms "
            f"by a warm route of three, by {prefer} (median of {runs})"
        )


def bench_route() -> None:
    """One small picture on a warm ComfyUI, with and without a route."""
    with comfyui() as engine, tempfile.TemporaryDirectory() as folder:
        url = asyncio.run(engine.ready())
        asyncio.run(_compare(url, size(60, 3), Path(folder)))
