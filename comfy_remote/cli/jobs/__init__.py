"""``comfy-remote jobs``: the jobs that were sent from this machine. A module for each command."""

from __future__ import annotations

import click

from .cancel import cancel
from .forget import prune, rm
from .list import list_jobs
from .logs import logs
from .open import open_output
from .resume import resume
from .retry import retry
from .show import show
from .wait import wait
from .watch import watch

__all__ = ["jobs"]


@click.group(no_args_is_help=True)
def jobs() -> None:
    """List, resume, repeat and cancel the jobs sent from this machine.

    ID is a job's id, or at least its first 4 characters.
    """


for _command in (
    list_jobs,
    show,
    watch,
    wait,
    resume,
    retry,
    cancel,
    logs,
    open_output,
    rm,
    prune,
):
    jobs.add_command(_command)
