"""``comfy-remote serve``: makes this machine an endpoint for ``runpod:`` targets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import say, say_lines
from .serving import (
    TOKEN_VARIABLE,
    address_for_others,
    listen_options,
    read_token,
    serve_until_stopped,
    show_log,
    ssl_context,
)

if TYPE_CHECKING:
    from pydantic import SecretStr

    from ..gateway import GatewayServer
    from ..worker.engine import Engine

__all__ = ["serve"]

_PATIENCE = 30.0


@click.command()
@listen_options(before=True)
@click.option(
    "--endpoint",
    metavar="ID",
    default="local",
    show_default=True,
    help="The endpoint's id, as in runpod:ID.",
)
@click.option(
    "--engine",
    metavar="auto|sandbox|URL",
    default="auto",
    show_default=True,
    help="What runs the workflows: a ComfyUI found here or else the sandbox; the sandbox; a "
    "ComfyUI that runs already.",
)
@click.option(
    "--comfyui",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Start the ComfyUI in this folder instead.",
)
@click.option(
    "--worker",
    type=click.Choice(["local", "runpod"]),
    default="local",
    show_default=True,
    help="Run jobs in this process, or in a worker of the RunPod SDK, as on RunPod (needs "
    "comfy-remote[worker]).",
)
@listen_options(before=False)
def serve(
    host: str,
    port: int,
    endpoint: str,
    engine: str,
    comfyui: Path | None,
    worker: str,
    token_file: Path | None,
    certfile: Path | None,
    keyfile: Path | None,
) -> None:
    """Make this machine an endpoint for others.

    It serves RunPod's API, and runs the jobs on your ComfyUI. Clients use it with --on runpod:ID
    and the variables that it prints. Ctrl-C stops it, and the ComfyUI that it started.

    \b
    Examples:
      comfy-remote serve --comfyui ~/ComfyUI
      COMFY_REMOTE_TOKEN=... comfy-remote serve --host 0.0.0.0 --endpoint workshop
    """
    from ..gateway import GatewayServer
    from ..gateway.limits import GatewayLimits
    from ..media.disk_space import DiskLimits
    from ..net.address import host_list
    from ..secrets import secret

    show_log()
    token = read_token(token_file)
    gateway = GatewayServer(
        endpoint_id=endpoint,
        host=host,
        port=port,
        token=token,
        ssl_context=ssl_context(certfile, keyfile),
        limits=GatewayLimits(
            webhook_hosts=host_list(os.environ, "COMFY_REMOTE_WEBHOOK_HOSTS"),
            free_bytes=DiskLimits.of().free,
        ),
        webhook_secret=secret("COMFY_REMOTE_WEBHOOK_SECRET", os.environ),
    )
    choice = str(comfyui.expanduser()) if comfyui is not None else engine

    async def whole() -> None:
        # The gateway ends before the engine does: a job that runs is cancelled, not crashed.
        with _engine(choice if worker == "local" else None) as local_engine:
            async with gateway:
                say(f"Endpoint {gateway.endpoint_id} at {gateway.endpoint_url}")
                if local_engine is not None:
                    await _start_local_worker(gateway, local_engine)
                else:
                    await _start_sdk_worker(gateway, choice)
                _say_how_to_use(gateway, host, _key_words(token, token_file))
                await gateway.wait_until_failed()

    serve_until_stopped(whole())


@contextlib.contextmanager
def _engine(choice: str | None) -> Iterator[Engine | None]:
    """The engine of a worker in this process; a worker of the SDK has its own."""
    if choice is None:
        yield None
        return
    from ..worker.engine import Engine

    engine = Engine.named(choice)
    try:
        engine.start()
        yield engine
    finally:
        say("Stopping …")
        engine.stop()


async def _start_local_worker(gateway: GatewayServer, engine: Engine) -> None:
    from dataclasses import replace

    from ..worker.actions import models_of
    from ..worker.handler import JobHandler
    from ..worker.settings import WorkerSettings

    say(f"Starting {engine.name} …")
    await engine.ready()
    settings = replace(
        WorkerSettings.from_environ(),
        # What does not fit an answer goes to the gateway's own store.
        store_url=f"{gateway.worker_endpoint_url}/files",
        store_key=gateway.worker_token,
        worker="local",
    )
    handler = JobHandler(engine, settings, models=models_of(engine, settings))
    gateway.add_local_worker(handler)


async def _start_sdk_worker(gateway: GatewayServer, choice: str) -> None:
    from importlib.util import find_spec

    from ..errors import ConfigurationError
    from ..gateway.sdk_worker import worker_command

    if find_spec("runpod") is None:
        raise ConfigurationError(
            "--worker runpod needs the RunPod SDK, which is not installed.",
            advice="Install it with: pip install 'comfy-remote[worker]'",
        )
    say("Starting the worker …")
    gateway.add_sdk_worker(worker_command("--engine", choice))
    while not await gateway.wait_until_ready(_PATIENCE):
        say("The worker has not asked for jobs yet.")


def _key_words(token: SecretStr | None, token_file: Path | None) -> str:
    """How a client gives the token. Never the token itself: terminals are recorded."""
    if token is None:
        return ""
    if token_file is not None:
        return f" RUNPOD_API_KEY=TOKEN-OF-{token_file.name}"
    return f" RUNPOD_API_KEY=${TOKEN_VARIABLE}"


def _say_how_to_use(gateway: GatewayServer, host: str, key: str) -> None:
    from ..net.address import is_loopback

    url = address_for_others(gateway.url)
    say_lines(
        "Ready. From a client:\n"
        f"  RUNPOD_ENDPOINT_BASE_URL={url}{key} \\\n"
        f"    comfy-remote run WORKFLOW.json --on runpod:{gateway.endpoint_id}"
    )
    if url.startswith("http:") and not is_loopback(host):
        say(
            "Clients send their key only over https: give --certfile and --keyfile, or have them "
            "use a tunnel (ssh -L)."
        )
    say("Ctrl-C stops it.")
