"""The worker as a RunPod serverless handler: ``python -m comfy_remote.worker.runpod_entry``.

The only module that imports the RunPod SDK, and not before the engine has been started: the
import takes longer than a second, in which a ComfyUI gets a good part of its own way.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Sequence

from pydantic import JsonValue

from ..config.log import log_to_stderr
from ..errors import ComfyRemoteError
from ..media.temporary import remove_leftovers
from ..secrets import SECRETS
from .actions import models_of
from .engine import Engine
from .guard import wait_for_end_of
from .handler import JobHandler
from .local_test import job_to_test, run_test
from .models.folders import volume_report
from .settings import WorkerSettings, is_true

__all__ = ["main"]

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
    engine = Engine.named(ours.engine)
    status = 0
    try:
        settings = WorkerSettings.from_environ()
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
        engine.stop()
    if status:
        sys.exit(status)


def _local_api(arguments: Sequence[str]) -> list[str]:
    """The SDK's own HTTP server instead of a queue, as ``SERVE_API_LOCALLY`` asks for."""
    if not is_true(os.environ, "SERVE_API_LOCALLY") or "--rp_serve_api" in arguments:
        return []
    return ["--rp_serve_api", "--rp_api_host=0.0.0.0"]


def _serve(handler: JobHandler, engine: Engine) -> None:
    # Without a queue (the SDK's own HTTP server), there is nobody to report progress to.
    local = "RUNPOD_WEBHOOK_POST_OUTPUT" not in os.environ
    if "RUNPOD_DEBUG_LEVEL" not in os.environ:
        # By default the SDK logs every result whole, with megabytes of base64.
        os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")
    import runpod
    from runpod import http_client
    from runpod.http_client import AsyncClientSession
    from runpod.serverless.modules.rp_http import send_result

    if os.environ.get("RUNPOD_AI_API_KEY"):
        # On a machine where somebody has used RunPod's own command line, the SDK would send
        # the key from ~/.runpod/config.toml to the queue, instead of the one for this worker.
        http_client.get_credentials = _no_credentials

    config: dict[str, object] = {}

    async def handle(job: dict[str, JsonValue]) -> dict[str, JsonValue]:
        try:
            answer = await run(job)
        finally:
            # The SDK takes the next job once this one has ended.
            await _until_ready(handler)
            if handler.broken is not None:
                config["refresh_worker"] = True
        if answer.get("refresh_worker"):
            # RunPod replaces the worker, and the SDK ends this process once it has answered.
            config["refresh_worker"] = True
        return answer

    async def run(job: dict[str, JsonValue]) -> dict[str, JsonValue]:
        job_id, payload = str(job["id"]), _payload_of(job)
        if local:
            return await handler(job_id, payload, _no_report)
        async with AsyncClientSession() as session:
            # Not the SDK's `progress_update`: that posts from a thread of its own, so an
            # update can overtake the result and leave the job in progress for good.
            async def report(snapshot: dict[str, JsonValue]) -> None:
                await send_result(session, {"status": "IN_PROGRESS", "output": snapshot}, job)

            return await handler(job_id, payload, report)

    config["handler"] = handle
    # No job is taken, and so none fails, before the engine has started once.
    asyncio.run(_first_ready(handler, engine, check_gpu=not local))
    runpod.serverless.start(config)


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


def _no_credentials(*_: object) -> None:
    """Stands in for the SDK's reader of ``~/.runpod/config.toml``."""


async def _no_report(_snapshot: dict[str, JsonValue]) -> None:
    """There is nobody to report to."""


def _end_with(parent: int) -> None:
    wait_for_end_of(parent)
    # The SDK's ping process would never end. The engine watches us by itself.
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)


if __name__ == "__main__":
    main()
