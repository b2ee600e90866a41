"""How near estimates are: other steps, sizes, frames and batches than those that ran before.

The set is named (`_STEPWISE`, `_CORE`). It proves the arithmetic, not diffusion: the stepwise node
takes a time that is known, with a load that does not grow and a step that grows faster than its
pixels; the core nodes take what they take on this machine.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import Skipped, comfyui, comfyui_folder, size

from comfy_remote import Client
from comfy_remote.jobs.record import Record
from comfy_remote.worker.engine import Engine
from comfy_remote.workflow.prompt import Prompt

_LOAD = 0.1  # seconds of the stepwise node that do not grow
_STEP = 0.02  # seconds of a step on 512 x 512 pixels
_LEARNED = size(3, 1)
_TRIED = size(2, 1)
_MOST = size(100, 1)  # changes
_NEAR = 1.5


@dataclass(frozen=True, slots=True)
class _Change:
    steps: int = 20
    width: int = 512
    height: int = 512
    frames: int = 1
    batch: int = 1

    def __str__(self) -> str:
        return f"{self.steps} steps, {self.width}x{self.height}, {self.frames} frames, {self.batch}"


_BASE = _Change()
_STEPWISE = (
    *(_Change(steps=10), _Change(steps=30), _Change(steps=60)),
    *(_Change(width=768, height=768), _Change(width=1024, height=1024)),
    *(_Change(width=1024, height=1536), _Change(frames=9), _Change(frames=33)),
    *(_Change(batch=2), _Change(batch=4), _Change(steps=8, width=1024, height=1024, batch=2)),
    _Change(steps=30, width=832, height=480, frames=17),
)
_CORE_BASE = _Change(width=1024, height=1024)
_CORE = (
    *(_Change(width=768, height=768), _Change(width=1536, height=1024)),
    *(_Change(width=2048, height=2048), _Change(width=1024, height=1024, batch=2)),
    *(_Change(width=1024, height=1024, batch=4), _Change(width=1536, height=1536, batch=3)),
)


def bench_estimate() -> None:
    """On the sandbox; then on a ComfyUI."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        engine = Engine.named("sandbox")
        engine.start()
        try:
            asyncio.run(
                _measure("stepwise nodes", engine, _stepwise, _BASE, _STEPWISE, Path(folder, "a"))
            )
        finally:
            engine.stop()
        try:
            comfyui_folder()
        except Skipped as why:
            print(f"estimate: core nodes are skipped, {why}")
            return
        with comfyui() as engine:
            asyncio.run(_measure("core nodes", engine, _core, _CORE_BASE, _CORE, Path(folder, "b")))


async def _measure(
    name: str,
    engine: Engine,
    prompt_of: Callable[[_Change], Prompt],
    base: _Change,
    changes: Sequence[_Change],
    folder: Path,
) -> None:
    """Learn from runs of one kind; then estimate each change, and run it."""
    ratios: list[tuple[float, _Change]] = []
    url = await engine.ready()
    with Record(folder / "learned") as learned, Record(folder / "tried") as tried:
        async with Client(url, record=learned) as client, Client(url, record=tried) as other:
            for _ in range(1 + _LEARNED):  # the first one warms up
                await _run(client, prompt_of(base))
            for change in changes[:_MOST]:
                prompt = prompt_of(change)
                expected = (await client.estimate(prompt)).seconds
                # The quicker of two: a busy moment is no fault of the estimate.
                took = min([await _run(other, prompt_of(change)) for _ in range(_TRIED)])
                assert expected is not None
                ratios.append((max(expected / took, took / expected), change))
    near = sum(ratio <= _NEAR for ratio, _ in ratios)
    worst, of = max(ratios, key=lambda one: one[0])
    print(
        f"estimate, {name}: {near} of {len(ratios)} within {_NEAR} x of what it took; "
        f"the worst {worst:.2f} x ({of})"
    )


async def _run(client: Client, prompt: Prompt) -> float:
    """Seconds that it ran."""
    job = await client.submit(prompt)
    await job.outputs()
    assert job.run_seconds is not None
    return job.run_seconds


def _stepwise(change: _Change) -> Prompt:
    """A picture, a node with steps of a known time, and the picture saved.

    A step grows faster than its pixels, as attention does, and with frames in groups of four and
    one, as video models pack them. The engine has no videos: it ignores ``length``.
    """
    latents = (change.frames - 1) // 4 + 1
    pixels = change.width * change.height / 512**2
    step = _STEP * pixels**1.1 * latents * change.batch
    empty = {"width": change.width, "height": change.height, "batch_size": change.batch}
    slow = {"steps": change.steps, "seconds_per_step": step + _LOAD / change.steps}
    return {
        "1": {"class_type": "EmptyImage", "inputs": {**empty, "length": change.frames, "color": 0}},
        "2": {
            "class_type": "SandboxSlow",
            "inputs": {"image": ["1", 0], **slow, "preview": False, "seed": _any()},
        },
        "3": {"class_type": "ImageScale", "inputs": {"image": ["2", 0], **_SMALL}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "e"}},
    }


def _core(change: _Change) -> Prompt:
    """ComfyUI's own nodes, which compute on the processor."""
    empty = {"width": change.width, "height": change.height, "batch_size": change.batch}
    blur = {"image": ["1", 0], "blur_radius": 15, "sigma": 5.0}
    sharpen = {"image": ["2", 0], "sharpen_radius": 5, "sigma": 1.0, "alpha": 0.5}
    return {
        "1": {"class_type": "EmptyImage", "inputs": {**empty, "color": _any() % 2**24}},
        "2": {"class_type": "ImageBlur", "inputs": blur},
        "3": {"class_type": "ImageSharpen", "inputs": sharpen},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "e"}},
    }


_SMALL = {"upscale_method": "nearest-exact", "width": 64, "height": 64, "crop": "disabled"}


def _any() -> int:
    """So that nothing is cached."""
    return random.randrange(1 << 48)
