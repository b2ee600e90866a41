"""``comfy-remote serve``: this machine becomes an endpoint that ``runpod:`` targets understand."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import say

if TYPE_CHECKING:
    import ssl

    from pydantic import SecretStr

    from ..gateway import GatewayServer
    from ..worker.engine import Engine

__all__ = ["TOKEN_VARIABLE", "serve"]

TOKEN_VARIABLE = "COMFY_REMOTE_TOKEN"  # noqa: S105  # its name, not its value
_PATIENCE = 30.0


@click.command()
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen; beyond this machine only with a token.",
)
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
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
    help="Run jobs in this process, or in one of the RunPod SDK, as on RunPod (needs "
    "comfy-remote[worker]).",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"Holds the token; without it, the variable {TOKEN_VARIABLE} does.",
)
@click.option(
    "--certfile",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Certificate chain (PEM), to serve https.",
)
@click.option(
    "--keyfile",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The certificate's private key (PEM).",
)
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

    It answers to RunPod's API, and runs what comes on a ComfyUI of yours. Clients use it with
    --on runpod:ID and the variables that it shows. Ctrl-C stops it, and the ComfyUI it started.

    \b
    Examples:
      comfy-remote serve --comfyui ~/ComfyUI
      COMFY_REMOTE_TOKEN=... comfy-remote serve --host 0.0.0.0 --endpoint workshop
    """
    import asyncio

    from ..gateway import GatewayServer
    from .interrupt import run_interruptible

    _show_log()
    token = _token(token_file)
    gateway = GatewayServer(
        endpoint_id=endpoint,
        host=host,
        port=port,
        token=token,
        ssl_context=_ssl_context(certfile, keyfile),
        webhook_secret=_webhook_secret(),
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
                await asyncio.Event().wait()

    # To be stopped is how a server ends.
    with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
        run_interruptible(whole(), also=("SIGTERM", "SIGBREAK"))


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

    from ..worker.handler import JobHandler
    from ..worker.model_actions import models_of
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
    from ..targets.http_address import is_loopback

    url = gateway.url.replace("//0.0.0.0:", "//THIS-MACHINE:").replace("//[::]:", "//THIS-MACHINE:")
    say(
        "Ready. From a client:\n"
        f"  RUNPOD_ENDPOINT_BASE_URL={url}{key} \\\n"
        f"    comfy-remote run WORKFLOW.json --on runpod:{gateway.endpoint_id}"
    )
    if url.startswith("http:") and not is_loopback(host):
        say(
            "Clients send their key over https alone: give --certfile and --keyfile, or let them "
            "come through a tunnel (ssh -L)."
        )
    say("Ctrl-C stops it.")


def _show_log() -> None:
    """What the gateway and its worker do, a line each, on standard error."""
    import logging

    if not logging.getLogger().handlers:
        form = "%(asctime)s %(message)s"
        logging.basicConfig(level=logging.INFO, format=form, datefmt="%H:%M:%S")


def _webhook_secret() -> SecretStr | None:
    from pydantic import SecretStr

    secret = os.environ.get("COMFY_REMOTE_WEBHOOK_SECRET", "").strip()
    return SecretStr(secret) if secret else None


def _token(file: Path | None) -> SecretStr | None:
    from pydantic import SecretStr

    from ..errors import ConfigurationError

    if file is None:
        value = os.environ.get(TOKEN_VARIABLE, "")
    else:
        try:
            value = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"The token cannot be read from {file}: {error}.") from error
        if not value.strip():
            raise ConfigurationError(f"{file} is empty: it should hold the token.")
    return SecretStr(value.strip()) if value.strip() else None


def _ssl_context(certfile: Path | None, keyfile: Path | None) -> ssl.SSLContext | None:
    import ssl

    from ..errors import ConfigurationError

    if certfile is None:
        if keyfile is not None:
            raise ConfigurationError("--keyfile needs --certfile.")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certfile, keyfile)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"The certificate {certfile} cannot be used: {error}.",
            advice="Give a PEM file with the chain, and --keyfile if it does not hold the key.",
        ) from error
    return context
