"""``comfy-remote service``: a workflow becomes an HTTP API, whose calls run on a target."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import say
from .options import USUAL_TARGET, inputs_option, target_option, workflow_argument
from .serving import (
    TOKEN_VARIABLE,
    address_for_others,
    keep_option,
    listen_options,
    read_token,
    serve_until_stopped,
    show_log,
    ssl_context,
)

if TYPE_CHECKING:
    from ..calls.workflow import CallableWorkflow

__all__ = ["curl_command", "service"]


@click.command()
@workflow_argument
@target_option(f"Where its calls run. {USUAL_TARGET}")
@listen_options(before=True)
@click.option(
    "--name", metavar="NAME", help="What the service is called. Default: the file's name."
)
@keep_option("How long results, and files that callers sent, are stored.")
@inputs_option
@listen_options(before=False)
def service(
    workflow: Path,
    on: str | None,
    host: str,
    port: int,
    name: str | None,
    keep: float,
    inputs: tuple[Path, ...],
    token_file: Path | None,
    certfile: Path | None,
    keyfile: Path | None,
) -> None:
    """Serve a workflow as an HTTP API.

    Callers give values for its Remote Input nodes, and get those of its Remote Output nodes. Each
    call is a job on the target. GET /openapi.json describes it. Callers: Remote API nodes,
    comfy-remote call, curl. Ctrl-C stops it; jobs continue, and the next start resumes them.

    \b
    Examples:
      comfy-remote service portrait.json --on runpod:abc123xyz
      COMFY_REMOTE_TOKEN=... comfy-remote service portrait.json --host 0.0.0.0
    """
    import asyncio

    from ..calls.store import ValueStore
    from ..calls.workflow import CallableWorkflow
    from ..config.folders import home
    from ..jobs.client import Client
    from ..service import Calls, ServiceServer
    from ..service.results import ResultStore
    from ..workflow.files import FileSearch, refuse_files_elsewhere
    from .errors import check_named_files

    check_named_files("--input", inputs)
    show_log()
    token = read_token(token_file)
    context = ssl_context(certfile, keyfile)

    async def whole() -> None:
        async with Client(on, on_interrupt=None) as client:
            served = await CallableWorkflow.load(workflow, client, name=name, files=inputs)
            refuse_files_elsewhere(
                served.prompt, FileSearch.beside(served.base, served.files), served.schemas
            )
            folder = home() / "services" / served.name
            calls = Calls(client, served, ResultStore(folder / "results"))
            server = ServiceServer(
                calls,
                ValueStore(folder / "values"),
                host=host,
                port=port,
                token=token,
                ssl_context=context,
                keep=keep * 3600.0,
            )
            async with calls, server:
                _say_how_to_use(served, client.target.name, server.url)
                document = f"{address_for_others(server.url)}openapi.json"
                say(f"  {curl_command(document, token_file, token=token is not None)}")
                await asyncio.Event().wait()

    serve_until_stopped(whole())


def curl_command(
    url: str, token_file: Path | None, *, token: bool, windows: bool = os.name == "nt"
) -> str:
    """What a caller types, in the shell that is usual here; on Windows, PowerShell.

    Never the token itself: terminals are recorded.
    """
    curl, variable = ("curl.exe", "$env:") if windows else ("curl", "$")
    value = f"$(cat {token_file.name})" if token_file is not None else variable + TOKEN_VARIABLE
    header = f' -H "Authorization: Bearer {value}"' if token else ""
    return f"{curl}{header} {url}"


def _say_how_to_use(served: CallableWorkflow, target: str, url: str) -> None:
    for note in served.notes:
        say(note)
    for what, entries in (
        ("Takes", served.interface.inputs),
        ("Gives", served.interface.outputs),
    ):
        keys = ", ".join(f"{one.key} ({one.type})" for one in entries) or "nothing"
        say(f"{what}: {keys}")
    say(f"{served.name} on {target}, at {address_for_others(url)}")
    say("Ctrl-C stops it.")
