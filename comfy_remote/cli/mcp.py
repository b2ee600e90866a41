"""``comfy-remote mcp``: tools for agents, within limits that are set here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import DOLLARS, USUAL_TARGET, target_option
from .serving import HOW_TO_MAKE_A_TOKEN, TOKEN_VARIABLE, read_token, serve_until_stopped

if TYPE_CHECKING:
    from ..mcp.bounds import Bounds

__all__ = ["mcp"]


@click.command(short_help="Give agents tools to run workflows, within limits (MCP).")
@target_option(f"The target where an agent names none. {USUAL_TARGET}")
@click.option(
    "--folder",
    "folders",
    metavar="DIR",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Files are read and written below it alone; the first is also the current folder. May be "
    "repeated. [default: the current folder]",
)
@click.option(
    "--cap-per-job",
    metavar="DOLLARS",
    type=DOLLARS,
    help="Refuse a job that may cost more. Without this and --cap-per-day, every job that costs "
    "money is refused.",
)
@click.option(
    "--cap-per-day",
    metavar="DOLLARS",
    type=DOLLARS,
    help="Refuse a job with which all jobs of the day, whoever has sent them, may cost more.",
)
@click.option(
    "--ask/--no-ask",
    "asks",
    default=True,
    help="Whether a person is asked, by the agent's program if it can do that, for a job that goes "
    "over one of these two. [default: ask]",
)
@click.option(
    "--http",
    is_flag=True,
    help="Speak streamable HTTP on 127.0.0.1 instead, with programs that have the token.",
)
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=8190,
    show_default=True,
    help="With --http; 0 takes a free one.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"With --http: file that holds the token. Default: the variable {TOKEN_VARIABLE}.",
)
def mcp(
    on: str | None,
    folders: tuple[Path, ...],
    cap_per_job: float | None,
    cap_per_day: float | None,
    asks: bool,
    http: bool,
    port: int,
    token_file: Path | None,
) -> None:
    """Give agents tools to run workflows (MCP), within limits that no agent can change.

    Speaks the Model Context Protocol on standard input and output; the program of the agent starts
    it. Jobs go on when it ends, and `comfy-remote jobs` lists them. Only targets that you have
    named are used. The caps in comfy-remote.toml count as well.

    \b
    Examples:
      claude mcp add comfy-remote -- comfy-remote mcp --cap-per-day 5
      comfy-remote mcp --folder ~/pictures --on gpu --cap-per-job 0.50 --no-ask
    """
    from ..mcp.bounds import Bounds

    bounds = Bounds.of(
        [one.expanduser() for one in folders] or [Path.cwd()],
        on=on,
        per_job=cap_per_job,
        per_day=cap_per_day,
        asks=asks,
    )
    token = _token(token_file) if http else None
    # What a workflow names is looked for here; and so is comfy-remote.toml.
    os.chdir(bounds.folders[0])
    serve_until_stopped(_serve(bounds, port, token))


def _token(file: Path | None) -> str:
    from ..errors import ConfigurationError

    token = read_token(file)
    if token is None:
        raise ConfigurationError(
            "--http needs a token: other programs and users of this machine could call it.",
            advice=f"Set {TOKEN_VARIABLE}, or give --token-file FILE. {HOW_TO_MAKE_A_TOKEN}",
        )
    return token.get_secret_value()


async def _serve(bounds: Bounds, port: int, token: str | None) -> None:
    from ..errors import ConfigurationError
    from ..mcp.batches import Batches
    from ..mcp.desk import Desk
    from .console import say

    try:
        from ..mcp.server import serve_http, serve_stdio
    except ModuleNotFoundError as error:
        if error.name not in ("mcp", "mcp_types"):
            raise
        raise ConfigurationError(
            "The MCP SDK is not installed here.", advice="Install it: pip install mcp"
        ) from None
    async with Desk(bounds) as desk, Batches(desk) as batches:
        if token is None:
            await serve_stdio(desk, batches)
        else:

            def ready(url: str) -> None:
                say(f"MCP at {url}. Ctrl-C stops it.")

            await serve_http(desk, batches, port, token, ready)
