"""``comfy-remote batch list``."""

from __future__ import annotations

import click

from ..options import json_option

__all__ = ["list_batches"]


@click.command("list", short_help="List the batches made on this machine.")
@json_option
def list_batches(json_lines: bool) -> None:
    """List the batches made on this machine, the newest first.

    A batch is stopped if the process that ran it is gone: `batch resume` goes on with it.
    """
    from ...jobs.record import Record
    from ..console import print_json, print_table, say
    from .shown import state_of, table_of, to_json

    with Record() as record:
        folder = record.path.parent
        known = [(entry, state_of(entry, folder)) for entry in record.batches.all()]
    if json_lines:
        for entry, state in known:
            print_json(to_json(entry, state))
    elif known:
        print_table(*table_of(known), may_be_cut=["Why"])
    else:
        say("No batches yet. `comfy-remote batch WORKFLOW.json --vary seed=1..8` makes one.")
