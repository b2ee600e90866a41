"""The same job on the same ComfyUI: our handler and worker-comfyui's, from job to answer.

Both are called as the RunPod SDK calls them. Theirs comes from a checkout that
``WORKER_COMFYUI_DIR`` names (github.com/runpod-workers/worker-comfyui), and needs ``requests``
and ``websocket-client``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

from common import Skipped, comfyui, in_turn, prompt, report, size
from pydantic import JsonValue

from comfy_remote.worker.handler import JobHandler
from comfy_remote.worker.settings import WorkerSettings

_RUNS = size(20, 1)


def _theirs(checkout: Path, host: str) -> ModuleType:
    """Their handler, on our engine instead of 127.0.0.1:8188."""
    sys.path[:0] = [str(checkout), str(checkout / "src")]
    spec = importlib.util.spec_from_file_location("worker_comfyui_handler", checkout / "handler.py")
    if spec is None or spec.loader is None:
        raise SystemExit(f"{checkout} has no handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.COMFY_HOST = host  # type: ignore[attr-defined]
    return module


async def _silent(_snapshot: dict[str, JsonValue]) -> None:
    return None


def bench_worker() -> None:
    import logging

    logging.disable(logging.INFO)
    checkout = os.environ.get("WORKER_COMFYUI_DIR")
    if not checkout:
        raise Skipped("no worker-comfyui (set WORKER_COMFYUI_DIR)")
    with comfyui() as engine:
        loop = asyncio.new_event_loop()
        url = loop.run_until_complete(engine.ready())
        theirs = _theirs(Path(checkout), url.removeprefix("http://"))
        color = random.randrange(1 << 20)
        with tempfile.TemporaryDirectory() as folder:
            handler = JobHandler(engine, WorkerSettings(folder=Path(folder)))

            began, ready = [0.0], list[float]()

            def our_run(index: int) -> None:
                job: JsonValue = {"workflow": prompt(color + 2 * index)}  # type: ignore[dict-item]
                began[0] = time.perf_counter()
                answer = loop.run_until_complete(handler("job", job, _silent))
                _check(answer)

            def clean_up(index: int) -> None:
                loop.run_until_complete(handler.ready())
                if index >= 0:
                    ready.append(time.perf_counter() - began[0])

            def their_run(index: int) -> None:
                with contextlib.redirect_stdout(io.StringIO()):
                    answer = theirs.handler(
                        {"id": "job", "input": {"workflow": prompt(color + 2 * index + 1)}}
                    )
                _check(answer)

            ours, others = in_turn(our_run, their_run, _RUNS, clean_up)
            loop.run_until_complete(handler.close())
        report("worker", ours, others, "worker-comfyui")
        report("worker, cleaned up", ready, others, "worker-comfyui, which does not")
        loop.close()


def _check(answer: dict[str, JsonValue]) -> None:
    if not answer.get("images"):
        raise SystemExit(f"a job failed: {answer}")


if __name__ == "__main__":
    bench_worker()
