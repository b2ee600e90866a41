"""``comfy-remote api``: a target behind Comfy API v2, for the official SDKs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .console import say, say_lines
from .options import USUAL_TARGET, target_option
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
    from ..api.front import ApiFront
    from ..targets.base import Target

__all__ = ["api", "sdk_variables"]

_PORT = 8189
"""Where the document of the API has a server of one's own."""
_PATIENCE = 5.0


@click.command()
@target_option(f"Where its jobs run. {USUAL_TARGET}")
@listen_options(before=True, port=_PORT)
@click.option(
    "--name",
    metavar="NAME",
    help="Name of this front, by which the next start finds its jobs and files. Default: after "
    "the target.",
)
@keep_option("How long a job and its outputs are stored after its end.")
@click.option(
    "--partner-keys",
    is_flag=True,
    help="Pass a caller's key for partner nodes on to the target; else jobs with one are refused.",
)
@listen_options(before=False)
def api(
    on: str | None,
    host: str,
    port: int,
    name: str | None,
    keep: float,
    partner_keys: bool,
    token_file: Path | None,
    certfile: Path | None,
    keyfile: Path | None,
) -> None:
    """Serve Comfy API v2 in front of a target.

    Comfy's SDKs, and whatever else speaks that API, run workflows through it on any target of
    yours. Each job is in comfy-remote jobs. Ctrl-C stops it; jobs continue, and the next start
    finds them.

    \b
    Examples:
      comfy-remote api --on runpod:abc123xyz
      COMFY_REMOTE_TOKEN=... comfy-remote api --on desk --host 0.0.0.0
    """
    import asyncio

    from ..api.front import ApiFront, front_folder, front_name
    from ..api.server import ApiServer
    from ..jobs.client import Client
    from ..net.address import is_loopback

    show_log()
    token = read_token(token_file)
    context = ssl_context(certfile, keyfile)
    client = Client(on, on_interrupt=None)
    _refuse_itself(client.target, port)
    called = front_name(client.named or client.target.name, name)
    folder = front_folder(called)

    async def whole() -> None:
        front = ApiFront(client, called, folder, keep=keep * 3600.0, partner_keys=partner_keys)
        server = ApiServer(front.routes(), host=host, port=port, token=token, ssl_context=context)
        async with front, server:
            _say_how_to_use(front, server.url, folder, keep)
            url = address_for_others(server.url)
            say_lines(sdk_variables(url, token_file, token=token is not None))
            if context is None and not is_loopback(host):
                say(
                    "Keys and files cross the network unencrypted: give --certfile and --keyfile, "
                    "or have callers use a tunnel (ssh -L)."
                )
            say("Ctrl-C stops it.")
            await _say_if_away(front.client.target)
            await asyncio.Event().wait()

    serve_until_stopped(whole())


def _refuse_itself(target: Target, port: int) -> None:
    """See that the target is not this server, which ``COMFY_BASE_URL`` may name in its own shell.

    Raises:
        ConfigurationError: It is.
    """
    from yarl import URL

    from ..errors import ConfigurationError
    from ..net.address import is_loopback
    from ..targets.base import server_of
    from ..targets.comfy_api.kind import SERVER_DETAIL

    address = URL(server_of(target).get(SERVER_DETAIL, ""))
    if is_loopback(address.host) and address.port == port:
        raise ConfigurationError(
            f"{target.name} is this server itself: its jobs would go nowhere.",
            advice="Say with --on where they run.",
        )


async def _say_if_away(target: Target) -> None:
    """Say before the first job does that the target cannot be asked, and why."""
    import asyncio

    from ..aio import within
    from ..errors import ComfyRemoteError

    try:
        await within(target.health(), _PATIENCE)
    except asyncio.TimeoutError:
        say(f"{target.name} has not answered within {_PATIENCE:.0f} s.")
    except ComfyRemoteError as error:
        say(f"{error.message} Jobs are refused until it answers.")


def sdk_variables(
    url: str, token_file: Path | None, *, token: bool, windows: bool = os.name == "nt"
) -> str:
    """The variables that Comfy's SDK reads, as they are set in the shell that is usual here.

    Never the token itself: terminals are recorded.
    """
    if not token:
        key = ""
    elif windows:
        key = f"(Get-Content {token_file.name})" if token_file else f"$env:{TOKEN_VARIABLE}"
    else:
        key = f"$(cat {token_file.name})" if token_file else f"${TOKEN_VARIABLE}"
    if windows:
        lines = [
            f'$env:COMFY_BASE_URL = "{url}"',
            *([f"$env:COMFY_API_KEY = {key}"] if key else []),
        ]
    else:
        lines = [
            f"export COMFY_BASE_URL={url}",
            *([f'export COMFY_API_KEY="{key}"'] if key else []),
        ]
    return "\n".join(f"  {line}" for line in lines)


def _say_how_to_use(front: ApiFront, url: str, folder: Path, keep: float) -> None:
    say(f"Comfy API v2 on {front.client.target.name}, at {address_for_others(url)}")
    say(f"Uploads and outputs are in {folder}; those of a job stay {keep:g} h after its end.")
    say("Programs that use Comfy's SDK find it with:")
