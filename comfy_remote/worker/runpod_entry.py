"""The worker as a RunPod serverless handler: ``python -m comfy_remote.worker.runpod_entry``.

The RunPod SDK is imported (by `sdk`) when the engine has been started: a ComfyUI gets a good part
of its own way meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from pydantic import JsonValue

from ..config.log import log_to_stderr
from ..errors import ComfyRemoteError
from ..media.temporary import remove_leftovers
from ..secrets import SECRETS
from .engine import Engine
from .guard import wait_for_end_of
from .handler import JobHandler
from .local_test import job_to_test, run_test
from .model_actions import models_of
from .models.folders import volume_report
from .node_actions import nodes_of
from .progress import Report
from .settings import WorkerSettings, is_true

__all__ = ["main", "settings_for", "without_processor_name"]

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the engine, then the SDK, which takes jobs until it is asked to end.

    Args:
        arguments: ``sys.argv[1:]`` by default. What is not ours is left for the SDK
            (``--rp_serve_api``, ``--rp_log_level``).
    """
    parser = argparse.ArgumentParser(
        prog="comfy-remote-worker",
        description="A RunPod serverless worker that runs ComfyUI workflows.",
        epilog="Other arguments are the RunPod SDK's, for example --rp_log_level DEBUG.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--engine",
        default="auto",
        metavar="auto|sandbox|DIR|URL",
        help="what runs the workflows: a ComfyUI folder or URL, the sandbox, or what is found",
    )
    parser.add_argument(
        "--parent-pid", type=int, metavar="PID", help="end when this process, our parent, has ended"
    )
    parser.add_argument(
        "--test",
        action="store_true",
        help="run one job without RunPod, from test_input.json or a small one of our own "
        "(also: MODE_TO_RUN=test)",
    )
    parser.add_argument("--test_input", metavar="JSON", help="run this job without RunPod")
    ours, rest = parser.parse_known_args(arguments)
    rest = [*rest, *_local_api(rest)]
    # The SDK reads the command line itself.
    sys.argv = [sys.argv[0], *rest]
    SECRETS.add_environment(os.environ)
    log_to_stderr(logging.INFO, "%(levelname)s %(name)s: %(message)s")
    if ours.parent_pid is not None:
        threading.Thread(target=_end_with, args=(ours.parent_pid,), daemon=True).start()
    remove_leftovers()
    engine: Engine | None = None
    status = 0
    try:
        settings = settings_for(rest)
        engine = Engine.named(ours.engine, nodes=nodes_of(settings))
        handler = JobHandler(engine, settings, models=models_of(engine, settings))
        if is_true(os.environ, "NETWORK_VOLUME_DEBUG"):
            for line in volume_report(settings.models.volume):
                _log.info("volume: %s", line)
        mode = os.environ.get("MODE_TO_RUN", "").strip().lower()
        test = ours.test or ours.test_input is not None or mode == "test"
        payload = job_to_test(ours.test_input) if test else None
        engine.start()
        if test:
            status = asyncio.run(run_test(handler, payload))
        else:
            _serve(handler, engine)
            # RunPod, or who else started it, is to see that it did not just end.
            status = handler.broken.exit_status if handler.broken is not None else 0
    except ComfyRemoteError as error:
        parser.exit(error.exit_status, f"{parser.prog}: {error}\n")
    finally:
        if engine is not None:
            engine.stop()
    if status:
        sys.exit(status)


def settings_for(
    arguments: Sequence[str], environ: Mapping[str, str] = os.environ
) -> WorkerSettings:
    """What the environment sets. Where the SDK's own HTTP server takes the jobs, they install no
    node packs: it has no login, and a pack is code.

    Args:
        arguments: The SDK's.
    """
    settings = WorkerSettings.from_environ(environ)
    nodes = settings.nodes
    if nodes is None or not nodes.allow or not any(map(_is_api, arguments)):
        return settings
    why = (
        "whoever reaches the RunPod SDK's own HTTP server could install code, since it has no "
        "login; `comfy-remote serve` has one"
    )
    _log.warning("ALLOW_NODE_INSTALL is not followed: %s", why)
    return replace(settings, nodes=replace(nodes, allow=False, why_not=why))


def _is_api(argument: str) -> bool:
    # argparse, with which the SDK reads them, takes a beginning that is of one option only.
    return argument.startswith("--rp_s") and "--rp_serve_api".startswith(argument)


def _local_api(arguments: Sequence[str]) -> list[str]:
    """The SDK's own HTTP server instead of a queue, as ``SERVE_API_LOCALLY`` asks for."""
    if not is_true(os.environ, "SERVE_API_LOCALLY") or "--rp_serve_api" in arguments:
        return []
    return ["--rp_serve_api", "--rp_api_host=0.0.0.0"]


def _serve(handler: JobHandler, engine: Engine) -> None:
    # Without a queue (the SDK's own HTTP server), RunPod's GPU is not there either.
    local = "RUNPOD_WEBHOOK_POST_OUTPUT" not in os.environ
    if "RUNPOD_DEBUG_LEVEL" not in os.environ:
        # By default the SDK logs every result whole, with megabytes of base64.
        os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")
    with nullcontext() if "--rp_debugger" in sys.argv else without_processor_name():
        from .sdk import take_jobs

    async def handle(job: dict[str, JsonValue], report: Report) -> dict[str, JsonValue]:
        return await handler(str(job["id"]), _payload_of(job), report)

    async def ready() -> bool:
        await _until_ready(handler)
        return handler.broken is None

    # No job is taken, and so none fails, before the engine has started once.
    asyncio.run(_first_ready(handler, engine, check_gpu=not local))
    take_jobs(handle, ready, handler.close)


@contextmanager
def without_processor_name() -> Iterator[None]:
    """While it is imported, the SDK looks for the processor's name, for its debugger alone.

    That takes more than a second, most of it waiting. Without a name, the SDK goes on.
    """
    try:
        import cpuinfo
    except ImportError:
        yield
        return
    look = cpuinfo.get_cpu_info
    cpuinfo.get_cpu_info = dict
    try:
        yield
    finally:
        cpuinfo.get_cpu_info = look


async def _first_ready(handler: JobHandler, engine: Engine, *, check_gpu: bool) -> None:
    """Wait until the engine has started, on a GPU that works.

    Raises:
        ComfyRemoteError: It has not.
    """
    # The SDK's own variable: set where there is no GPU.
    if check_gpu and not is_true(os.environ, "RUNPOD_SKIP_GPU_CHECK"):
        await engine.check_gpu()
    await handler.ready()


async def _until_ready(handler: JobHandler) -> None:
    if handler.broken is not None:
        return
    try:
        await handler.ready()
    except ComfyRemoteError as error:
        _log.error("no job can run here any more: %s", error)


def _payload_of(job: dict[str, JsonValue]) -> JsonValue:
    """A job's input; with its ``s3Config``, which RunPod's clients write beside the input."""
    payload, bucket = job["input"], job.get("s3Config")
    if isinstance(payload, dict) and bucket and "s3Config" not in payload:
        return {**payload, "s3Config": bucket}
    return payload


def _end_with(parent: int) -> None:
    wait_for_end_of(parent)
    # The SDK's ping process would never end. The engine watches us by itself.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)


if __name__ == "__main__":
    main()
