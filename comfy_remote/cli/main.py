"""``comfy-remote``: the command and its groups."""

from __future__ import annotations

import click

from ..version import __version__
from .call import call
from .check import check
from .completion import completion
from .convert import convert
from .cut import cut
from .deploy import deploy
from .doctor import doctor
from .entry import EXIT_STATUSES, enter, start
from .jobs import jobs
from .models import models
from .options import config_option
from .run import run
from .serve import serve
from .service import service
from .show import show
from .targets import targets
from .trust import asks_for_trust, trust

__all__ = ["cli", "main"]


class _InOrder(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        """As they are added below: what is needed most comes first."""
        del ctx
        return list(self.commands)


@click.group(
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_STATUSES,
)
@click.version_option(__version__, prog_name="comfy-remote", message="%(prog)s %(version)s")
@config_option
@click.option("-v", "--verbose", is_flag=True, help="Log what is going on (also: DEBUG=1).")
def cli(verbose: bool) -> None:
    """Run ComfyUI workflows on a GPU elsewhere: RunPod, a pod, a machine on the LAN.

    To try it without a GPU: comfy-remote run examples/prompts/collage.json
    """
    start(verbose=verbose)


_COMMANDS = (
    *(run, call, check, convert, show, cut, jobs, doctor, models),
    *(serve, service, deploy, targets, trust, completion),
)


def _be_verbose(_context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        start(verbose=True)


# Before the command, where --help names it, or after it, where people type it.
_verbose_option = click.option(
    "-v", "--verbose", is_flag=True, hidden=True, expose_value=False, callback=_be_verbose
)


def _prepare(command: click.Command) -> None:
    """Give a command, or a group and all below it, what every command has."""
    config_option(command)
    _verbose_option(command)
    if isinstance(command, click.Group):
        for below in command.commands.values():
            _prepare(below)
    elif command.callback is not None:
        command.callback = asks_for_trust(command.callback)


for _command in _COMMANDS:
    _prepare(_command)
    cli.add_command(_command)


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its status."""
    enter(cli, "comfy-remote")
