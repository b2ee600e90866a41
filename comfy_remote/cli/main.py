"""``comfy-remote``: the command and its groups."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from ..config.folders import home
from ..version import __version__
from .entry import EXIT_STATUSES, enter, start
from .options import config_option
from .trust import asks_for_trust

__all__ = ["cli", "main"]

_COMMANDS = {
    "run": "Run a workflow on a target, and fetch what it makes.",
    "init": "Set up where your workflows run: asks, tries it and saves it.",
    "batch": "Run a workflow many times, with what varies, as one thing that lasts.",
    "call": "Call a workflow with values for its Remote Input nodes.",
    "check": "Check whether a workflow would run on a target.",
    "lock": "Write down what it takes to run workflows, exactly.",
    "pack": "Pack a workflow, its lock and its inputs into one file.",
    "sync": "Bring the node packs and models that workflows need to a target.",
    "route": "Show which target of a route would get a run, and why.",
    "convert": "Convert workflows from UI format to API format.",
    "show": "Describe a workflow.",
    "cut": "Show what would run where, if some nodes ran elsewhere.",
    "jobs": "List, resume, repeat and cancel the jobs sent from this machine.",
    "spend": "Show what the runs sent from this machine have cost.",
    "cache": "List and prune the results that need not be computed again.",
    "doctor": "Check everything between here and the GPU.",
    "models": "List, fetch and prune the models on a target.",
    "nodes": "List the node packs that sync has installed on a target, and go back.",
    "serve": "Make this machine an endpoint for others.",
    "worker": "Run the jobs of a gateway on another machine.",
    "workers": "Say which workers may join a gateway here.",
    "fleet": "Run a gateway's workers on a Ray cluster.",
    "service": "Serve a workflow as an HTTP API.",
    "api": "Serve Comfy API v2 in front of a target.",
    "mcp": "Give agents tools to run workflows, within limits (MCP).",
    "deploy": "Make a target of your own: a workflow on Modal, an endpoint on RunPod.",
    "targets": "List, add, test, warm up and remove targets.",
    "trust": "Trust the addresses and variables that a folder's files name.",
    "completion": "Print the script that completes the commands in a shell.",
}
"""In the order of ``--help``, what is needed most first. Each is in the module of its name."""

_LOOKS_AT_TARGETS = ("run", "targets", "jobs", "doctor", "init")


class _LazyGroup(click.Group):
    """Imports only the command that is run: click's pattern for lazy commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All, in the order above."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, with what every command has."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        if cmd_name not in self.commands:
            module = import_module(f".{cmd_name}", __package__)
            command: click.Command = getattr(module, cmd_name)
            _prepare(command)
            self.add_command(command)
        return self.commands[cmd_name]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """For ``--help``, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _print_help_json(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from .console import print_document
        from .help_json import help_document

        print_document(help_document())
        context.exit()


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_STATUSES,
)
@click.version_option(__version__, prog_name="comfy-remote", message="%(prog)s %(version)s")
@click.option(
    "--help-json",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_help_json,
    help="Print all commands and options as JSON, for programs, and exit.",
)
@config_option
@click.option("-v", "--verbose", is_flag=True, help="Log what happens (also: DEBUG=1).")
@click.pass_context
def cli(context: click.Context, verbose: bool) -> None:
    """Run ComfyUI workflows on a GPU elsewhere: RunPod, a pod, a machine on the LAN.

    To try it without a GPU: comfy-remote run example:collage
    """
    start(verbose=verbose)
    if context.invoked_subcommand in _LOOKS_AT_TARGETS and (home() / "warm").is_dir():
        from .left_warm import put_back_left

        put_back_left()


def _be_verbose(_context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        start(verbose=True)


# Before the command, where --help names it, or after it, where people type it.
_verbose_option = click.option(
    "-v", "--verbose", is_flag=True, hidden=True, expose_value=False, callback=_be_verbose
)


def _prepare(command: click.Command) -> None:
    """Give a command, or a group and all below it, what every command has."""
    if not any("--config" in one.opts for one in command.params):  # a fleet's is its own file
        config_option(command)
    _verbose_option(command)
    if isinstance(command, click.Group):
        for below in command.commands.values():
            _prepare(below)
    elif command.callback is not None:
        command.callback = asks_for_trust(command.callback)


def main() -> None:
    """Run the command in ``sys.argv`` and exit with its status."""
    # Options of its own may stand before `run`.
    enter(cli, "comfy-remote", ahead="run" in sys.argv[1:5])
