"""What the benchmarks share: timing pairs of commands, finding a ComfyUI, printing rows."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from comfy_remote.worker.engine import Engine

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / ".bench"
TINY = os.environ.get("BENCH_TINY") == "1"
"""Whether to measure next to nothing and install nothing: a test runs every benchmark like that."""


def size(full: int, tiny: int) -> int:
    """How often, how many or how large: ``tiny`` where only a test wants to see that it runs."""
    return tiny if TINY else full


WARM_UPS = size(1, 0)


def prompt(color: int, prefix: str = "benchmark") -> dict[str, object]:
    """EmptyImage → SaveImage; another colour is another picture, so nothing is cached."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 512, "height": 512, "batch_size": 1, "color": color},
        },
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": prefix},
        },
    }


def in_turn(
    ours: Callable[[int], object],
    theirs: Callable[[int], object],
    runs: int,
    after_ours: Callable[[int], object] = lambda _index: None,
) -> tuple[list[float], list[float]]:
    """Seconds of each, run in turn so that a busy moment hits both; one warm-up each, if not tiny.

    Args:
        after_ours: Not part of the time.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(-WARM_UPS, runs):
        for which, action in enumerate((ours, theirs)):
            began = time.perf_counter()
            action(index)
            if index >= 0:
                times[which].append(time.perf_counter() - began)
            if which == 0:
                after_ours(index)
    return times


def report(name: str, ours: Sequence[float], theirs: Sequence[float], against: str) -> None:
    """One row: medians, and the median of the ratios run by run."""
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(
        f"{name}: {statistics.median(ours) * 1000:.0f} ms, {against} "
        f"{statistics.median(theirs) * 1000:.0f} ms, ratio {ratio:.2f} "
        f"({len(ours)} runs in turn, median)"
    )


def command(
    *arguments: str, environment: dict[str, str] | None = None, folder: Path | None = None
) -> None:
    """Run a command to its end, in ``folder``; its output is shown only if it fails."""
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **(environment or {})},
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")


def script(name: str, folder: Path = Path(sys.executable).parent) -> str:
    """An installed command."""
    return str(folder / (f"{name}.exe" if sys.platform == "win32" else name))


def our_command(name: str) -> str:
    """A command of ours, as pip installs it: without what only workers and tests need.

    In the checkout's own environment, the RunPod SDK brings a resolver of names that aiohttp then
    imports (aiodns), which no user of the command has.
    """
    if TINY:
        return script(name)
    folder = BENCH / "comfy-remote"
    binaries = folder / ("Scripts" if sys.platform == "win32" else "bin")
    python = script("python", binaries)
    if not Path(python).exists():
        print("installing comfy-remote …")
        venv.create(folder, with_pip=True)
        command(python, "-m", "pip", "install", "--quiet", str(ROOT))
    command(
        *(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", str(ROOT))
    )  # as it is now
    return script(name, binaries)


class Skipped(Exception):
    """A benchmark cannot run here; says why."""


def comfy_cli() -> str:
    """The ``comfy`` command, installed into ``.bench/comfy-cli`` if it is not there.

    Raises:
        Skipped: It is not there, and a tiny run installs nothing.
    """
    folder = BENCH / "comfy-cli"
    binaries = folder / ("Scripts" if sys.platform == "win32" else "bin")
    if not Path(script("comfy", binaries)).exists():
        if TINY:
            raise Skipped("comfy-cli is not installed")
        print("installing comfy-cli …")
        venv.create(folder, with_pip=True)
        command(script("python", binaries), "-m", "pip", "install", "--quiet", "comfy-cli")
        command(script("comfy", binaries), "--skip-prompt", "tracking", "disable")
    return script("comfy", binaries)


def comfyui_folder() -> Path:
    """The ComfyUI that ``COMFYUI_DIR`` names.

    Raises:
        Skipped: It names none.
    """
    folder = os.environ.get("COMFYUI_DIR")
    if not folder:
        raise Skipped("no ComfyUI (set COMFYUI_DIR)")
    return Path(folder)


@contextmanager
def comfyui() -> Iterator[Engine]:
    """A ComfyUI from ``COMFYUI_DIR``, started; the sandbox in a tiny run without one.

    Raises:
        Skipped: There is no ComfyUI.
    """
    tiny = TINY and not os.environ.get("COMFYUI_DIR")
    engine = Engine.named("sandbox" if tiny else str(comfyui_folder()))
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


@asynccontextmanager
async def engine_url(engine: Engine) -> AsyncIterator[str]:
    """Its URL, once it answers."""
    yield await engine.ready()
