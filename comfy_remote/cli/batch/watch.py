"""``comfy-remote batch watch``."""

from __future__ import annotations

import click

from .options import batch_argument, reporting_options

__all__ = ["watch"]


@click.command(short_help="Show a batch that another process runs.")
@batch_argument
@reporting_options
def watch(batch: str, json_lines: bool, quiet: bool, notify: tuple[str, ...]) -> None:
    """Show how a batch goes that another process runs, until it ends or is paused.

    Ctrl-C ends this command, and not the batch. The exit status is that of the batch: 0 if all
    runs succeeded, 5 if some failed, 8 if it is not over.
    """
    from ...jobs.record import Record
    from . import driving
    from .ending import Notified
    from .reporter import make_reporter

    with Record() as record:
        entry = record.batches.get(batch)
    reporter = make_reporter(json_lines=json_lines, quiet=quiet)
    notified = Notified(notify)
    driving.supervise(lambda record: driving.watch(entry, record, reporter), reporter, notified)
