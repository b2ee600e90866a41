"""The engine of the fleet's workers: the sandbox, whose slow node says in a file when it runs.

Copied to ``main.py`` beside a folder ``comfy``, it is a ComfyUI to a worker, which starts it and
ends it as one. ``FLEET_LOG`` names the file, which all engines append to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from pathlib import Path

from comfy_remote.sandbox.nodes.base import ImageBatch, NodeContext, NodeResult
from comfy_remote.sandbox.nodes.testing import SandboxSlow
from comfy_remote.sandbox.server import SandboxServer


def count_runs(log: Path) -> None:
    """Have each run of `SandboxSlow` append a line at its start, with each step, and at its end.

    Its ``seed`` says which job it is.
    """
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def run(
        _self: SandboxSlow,
        context: NodeContext,
        image: ImageBatch,
        steps: int,
        seconds_per_step: float,
        preview: bool,
        seed: int = 0,
    ) -> NodeResult:
        def note(what: str) -> None:
            line = {"job": seed, "what": what, "pid": os.getpid(), "at": time.monotonic()}
            os.write(file, json.dumps(line).encode() + b"\n")

        note("start")
        began = time.monotonic()
        try:
            del preview
            for step in range(1, steps + 1):
                context.sleep(max(0.0, began + step * seconds_per_step - time.monotonic()))
                context.progress(step, steps)
                note("step")
        except BaseException:
            note("stopped")
            raise
        note("end")
        return NodeResult([image])

    SandboxSlow.run = run  # type: ignore[method-assign]


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    options, _ = parser.parse_known_args()
    count_runs(Path(os.environ["FLEET_LOG"]))
    with tempfile.TemporaryDirectory() as folder:
        async with SandboxServer(
            port=options.port, directory=Path(folder), own_process=True
        ) as server:
            await server.wait_stopped()


if __name__ == "__main__":
    asyncio.run(main())
