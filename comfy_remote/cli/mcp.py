"""``comfy-remote mcp``: tools for agents, within limits that are set here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import DOLLARS, USUAL_TARGET, target_option

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
def mcp(
    on: str | None,
    folders: tuple[Path, ...],
    cap_per_job: float | None,
    cap_per_day: float | None,
    asks: bool,
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
    from .serving import serve_until_stopped

    bounds = Bounds.of(
        [one.expanduser() for one in folders] or [Path.cwd()],
        on=on,
        per_job=cap_per_job,
        per_day=cap_per_day,
        asks=asks,
    )
    # What a workflow names is looked for here; and so is comfy-remote.toml.
    os.chdir(bounds.folders[0])
    serve_until_stopped(_on_stdio(bounds))


async def _on_stdio(bounds: Bounds) -> None:
    from ..errors import ConfigurationError
    from ..mcp.desk import Desk

    try:
        from ..mcp.server import serve_stdio
    except ModuleNotFoundError as error:
        if error.name not in ("mcp", "mcp_types"):
            raise
        raise ConfigurationError(
            "The MCP SDK is not installed here.", advice="pip install 'comfy-remote[mcp]'"
        ) from None
    async with Desk(bounds) as desk:
        await serve_stdio(desk)
