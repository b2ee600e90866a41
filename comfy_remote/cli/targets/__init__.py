"""``comfy-remote targets``: those that are configured, listed and changed."""

from __future__ import annotations

import click

from ..options import json_option
from .add import add
from .change import default, remove
from .list import list_targets
from .test import test
from .warm import warm

__all__ = ["targets"]


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def targets(context: click.Context, json_lines: bool) -> None:
    """List, add, test, warm up and remove targets.

    Without a command, those that are configured are listed. Only your own comfy-remote.toml is
    changed, never a folder's. `comfy-remote init` asks for what `targets add` has options for.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_targets, json_lines=json_lines)
    elif json_lines:
        raise click.UsageError("Give --json after the command.")


for _command in (list_targets, add, test, remove, default, warm):
    targets.add_command(_command)
