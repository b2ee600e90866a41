"""Options that several of the commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

__all__ = ["batch_argument", "complete_batch", "reporting_options"]

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
