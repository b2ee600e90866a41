"""``comfy-remote serve``: makes this machine an endpoint for ``runpod:`` targets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import say, say_lines
from .options import endpoint_option, engine_options
from .serving import (
    HOW_TO_MAKE_A_TOKEN,
    TOKEN_VARIABLE,
    address_for_others,
    engine_choices,
    listen_options,
    read_token,
    serve_until_stopped,
    show_log,
    ssl_context,
)

if TYPE_CHECKING:
    from pydantic import SecretStr

    from ..api.front import ApiFront
    from ..gateway import GatewayServer
    from ..worker.engines import Engines

__all__ = ["serve"]

_PATIENCE = 30.0


@click.command()
@listen_options(before=True)
@endpoint_option
@engine_options
@click.option(
    "--worker",
    type=click.Choice(["local", "none", "runpod"]),
    default="local",
    show_default=True,
    help="Run jobs in this process; leave them to workers that join (see comfy-remote workers); or "
    "run them in a worker of the RunPod SDK, as on RunPod (needs the packages runpod and boto3).",
)
@click.option(
    "--metrics-token-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File with a token that reads /metrics and can do nothing else, for Prometheus.",
)
@listen_options(before=False)
def serve(
    host: str,
    port: int,
    endpoint: str,
    engine: tuple[str, ...],
    comfyui: Path | None,
    gpus: str | None,
    worker: str,
    metrics_token_file: Path | None,
    token_file: Path | None,
    certfile: Path | None,
    keyfile: Path | None,
) -> None:
    """Make this machine an endpoint for others.

    It serves RunPod's API, and runs the jobs on your ComfyUI. Clients use it with --on runpod:ID
    and the variables that it prints. It serves Comfy API v2 as well. Ctrl-C stops it, and the
    ComfyUI that it started.

    \b
    Examples:
      comfy-remote serve --comfyui ~/ComfyUI
      comfy-remote serve --comfyui ~/ComfyUI --gpus all
      COMFY_REMOTE_TOKEN=... comfy-remote serve --host 0.0.0.0 --endpoint workshop
    """
    from ..api.beside_gateway import gateway_front
    from ..config.folders import home
    from ..config.token_file import read_token_file
    from ..gateway import GatewayServer
    from ..gateway.limits import GatewayLimits
    from ..media.disk_space import DiskLimits
    from ..net.address import host_list
    from ..secrets import secret
    from ..worker.engines import Engines

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
        metrics_token=None
        if metrics_token_file is None
        else read_token_file(metrics_token_file, "the metrics token", advice=HOW_TO_MAKE_A_TOKEN),
        webhook_secret=secret("COMFY_REMOTE_WEBHOOK_SECRET", os.environ),
        folder=home() / "gateway" / endpoint,
    )
    choices = _choices(engine, comfyui, gpus, worker)
    front = gateway_front(gateway, token)

    async def whole() -> None:
        async with contextlib.AsyncExitStack() as running:
            # The gateway ends before the engines do: a job that runs is cancelled, not crashed.
            engines: Engines | None = None
            if worker == "local":
                folder = home() / "engines" / endpoint
                chosen = await Engines.choose(choices, gpus=gpus, folder=folder)
                engines = running.enter_context(chosen)
                running.callback(say, "Stopping …")
            await running.enter_async_context(gateway)
            running.push_async_callback(front.close)
            say(f"Endpoint {gateway.endpoint_id} at {gateway.endpoint_url}")
            if engines is not None:
                await _start_local_workers(gateway, engines)
            elif worker == "runpod":
                await _start_sdk_worker(gateway, choices[0])
            _say_how_to_use(gateway, host, token, token_file)
            await _follow_earlier_jobs(front)
            await gateway.wait_until_failed()

    serve_until_stopped(whole())


async def _follow_earlier_jobs(front: ApiFront) -> None:
    """Have what earlier jobs of the API have made meanwhile fetched, if there were any."""
    from ..errors import ComfyRemoteError

    if front.used_before:
        try:
            await front.open()
        except ComfyRemoteError as error:  # the next request to the API tries again
            say(f"Comfy API v2 cannot be served now. {error}")


def _choices(
    engines: Sequence[str], comfyui: Path | None, gpus: str | None, worker: str
) -> Sequence[str]:
    """Which engines were asked for, if the options go together."""
    from ..errors import ConfigurationError

    choices = engine_choices(comfyui, engines)
    if worker == "none" and (choices or gpus is not None):
        raise ConfigurationError(
            "With --worker none, no engine is started here.",
            advice="Omit --worker none, or --comfyui, --engine and --gpus.",
        )
    if worker == "runpod" and (gpus is not None or len(engines) > 1):
        raise ConfigurationError(
            "A worker of the RunPod SDK has one engine.",
            advice="Omit --worker runpod, or give --engine once and no --gpus.",
        )
    return choices or ["auto"]


async def _start_local_workers(gateway: GatewayServer, engines: Engines) -> None:
    from dataclasses import replace

    from ..gateway.local_worker import LocalFiles
    from ..gateway.workers import WorkerKind
    from ..worker.settings import WorkerSettings

    say(f"{'Waiting for' if engines.attached else 'Starting'} {engines} …")
    settings = replace(WorkerSettings.from_environ(), store_url=None, worker=None)
    files = LocalFiles(gateway.endpoint)
    await engines.ready()
    for one in engines:
        kind = WorkerKind.URL if one.attached else WorkerKind.LOCAL
        gateway.add_local_worker(
            one.handler(settings, store=files, inputs=files),
            worker_id=one.id,
            kind=kind,
            ask_engine=one.report(settings),
        )


async def _start_sdk_worker(gateway: GatewayServer, choice: str) -> None:
    from importlib.util import find_spec

    from ..errors import ConfigurationError
    from ..gateway.sdk_worker import worker_command

    if find_spec("runpod") is None:
        raise ConfigurationError(
            "--worker runpod needs the RunPod SDK, which is not installed.",
            advice='Install it with: pip install "runpod>=1.12,<1.13" boto3',
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
        return f"TOKEN-OF-{token_file.name}"
    return f"${TOKEN_VARIABLE}"


def client_commands(url: str, key: str, endpoint: str, *, windows: bool = os.name == "nt") -> str:
    """What a client types, in the shell that is usual here.

    Args:
        key: How it gives the token; empty if there is none.
    """
    command = f"comfy-remote run WORKFLOW.json --on runpod:{endpoint}"
    variables = {"RUNPOD_ENDPOINT_BASE_URL": url} | ({"RUNPOD_API_KEY": key} if key else {})
    if windows:  # PowerShell
        values = {name: value.replace("$", "$env:") for name, value in variables.items()}
        lines = [f'  $env:{name} = "{value}"' for name, value in values.items()]
        return "\n".join([*lines, f"  {command}"])
    words = " ".join(f"{name}={value}" for name, value in variables.items())
    return f"  {words} \\\n    {command}"


def _say_how_to_use(
    gateway: GatewayServer, host: str, token: SecretStr | None, token_file: Path | None
) -> None:
    from ..net.address import is_loopback
    from .api import sdk_variables

    url = address_for_others(gateway.url)
    origin = url.removesuffix("/v2")
    commands = client_commands(url, _key_words(token, token_file), gateway.endpoint_id)
    variables = sdk_variables(origin, token_file, token=token is not None)
    say_lines(
        f"Ready. From a client:\n{commands}\n"
        f"From programs that use Comfy's SDK:\n{variables}\n"
        f"What runs and what waits: {origin}/ in a browser"
    )
    if url.startswith("http:") and not is_loopback(host):
        say(
            "Clients send their key only over https: give --certfile and --keyfile, or have them "
            "use a tunnel (ssh -L)."
        )
    say("Ctrl-C stops it.")
