"""``comfy-remote batch``: many runs of a workflow as one thing. A module for each command."""

from __future__ import annotations

import click

from .cancel import cancel
from .group import BatchGroup
from .list import list_batches
from .pause import pause
from .resume import resume
from .retry import retry
from .rm import rm
from .run import run
from .sheet import sheet
from .show import show
from .watch import watch

__all__ = ["batch"]


@click.group(cls=BatchGroup, no_args_is_help=True)
def batch() -> None:
    """Run a workflow many times, with what varies, as one thing that lasts.

    The first word decides: one of the commands below, or else a workflow, as for `run`. BATCH is
    a batch's name, or the first characters of its id (at least 4).

    \b
    Examples:
      comfy-remote batch portrait.json --vary seed=1..8 --vary KSampler.cfg=5,7,9
      comfy-remote batch portrait.json --vary prompt=@prompts.txt --repeat 4 --dry-run
      comfy-remote batch resume portrait
      comfy-remote batch retry portrait
    """


for _command in (run, list_batches, show, watch, pause, resume, retry, cancel, sheet, rm):
    batch.add_command(_command)
