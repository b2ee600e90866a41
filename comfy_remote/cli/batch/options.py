"""Options that several of the commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

__all__ = [
    "batch_argument",
    "check_notify",
    "complete_batch",
    "hand_over_option",
    "reporting_options",
]

_Command = TypeVar("_Command", bound=Callable[..., object])


def complete_batch(_context: click.Context, _option: click.Parameter, incomplete: str) -> list[str]:
    """The names of the batches, and the ids of those that are asked for by id."""
    from ...errors import ComfyRemoteError
    from ...jobs.record import Record

    try:
        with Record() as record:
            entries = record.batches.all()
    except ComfyRemoteError:
        return []
    names = [entry.name for entry in entries if entry.name.startswith(incomplete)]
    ids = [entry.id for entry in entries if incomplete and entry.id.startswith(incomplete)]
    return names + ids


batch_argument = click.argument("batch", metavar="BATCH", shell_complete=complete_batch)


def reporting_options(command: _Command) -> _Command:
    """``--json``, ``--json-schema``, ``--quiet`` and ``--notify``."""
    from ..options import json_option, json_schema_option, notify_option, quiet_option

    return json_option(json_schema_option(quiet_option(notify_option(command))))


def hand_over_option(more: str = "") -> Callable[[_Command], _Command]:
    """``--no-wait``.

    Args:
        more: A sentence for its help.
    """
    words = "Hand it to a process of its own, print its id alone, and end."
    return click.option(
        "--no-wait",
        "wait",
        is_flag=True,
        flag_value=False,
        default=True,
        help=f"{words} {more}".rstrip(),
    )


def check_notify(notify: tuple[str, ...], *, wait: bool) -> None:
    """Refuse ``--notify`` where nobody waits for the end."""
    if notify and not wait:
        raise click.UsageError("--notify needs the end, which --no-wait does not wait for.")
