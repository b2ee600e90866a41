"""``comfy-remote batch retry``."""

from __future__ import annotations

import click

from ..options import batch_cap_options, refuse_both_caps
from .options import batch_argument, check_notify, hand_over_option, reporting_options

__all__ = ["retry"]


@click.command(short_help="Run what failed of a batch once more.")
@batch_argument
@batch_cap_options
@hand_over_option()
@reporting_options
def retry(
    batch: str,
    cap: float | None,
    over_cap: bool,
    wait: bool,
    json_lines: bool,
    quiet: bool,
    notify: tuple[str, ...],
) -> None:
    """Run the failed and cancelled runs of a batch once more, and what has not begun.

    Those that succeeded are left as they are. Each gets the same values, and a job of its own.
    """
    from ..entry import import_ahead

    import_ahead()
    from ...batch.store import is_driven, start_background
    from ...errors import ConfigurationError
    from ...jobs.record import BatchState, Record, Wanted
    from ...units import counted
    from ..console import say
    from . import driving
    from .ending import Notified
    from .reporter import make_reporter
    from .words import batch_command

    check_notify(notify, wait=wait)
    refuse_both_caps(cap, over_cap=over_cap)
    notified = Notified(notify)
    with Record() as record:
        entry, folder = record.batches.get(batch), record.path.parent
        if is_driven(folder, entry.id):
            raise ConfigurationError(
                f"{entry.name} is running. What has failed can be run again when it is over.",
                advice=f"See how far it is: {batch_command('watch', entry)}",
            )
        again = record.batches.retry_failed(entry.id)
        if not again and entry.state is BatchState.ENDED:
            say(f"All runs of {entry.name} have succeeded: there is nothing to run again.")
            return
        record.batches.allow(entry.id, cap, over_cap=over_cap)
        record.batches.want(entry.id, Wanted.RUN)
        record.batches.state(entry.id, BatchState.WAITING)
        entry = record.batches.get(entry.id)
        reporter = make_reporter(json_lines=json_lines, quiet=quiet)
        if not wait:
            start_background(entry, folder)
            reporter.in_background(entry)
            return
    if again:
        reporter.note(f"{counted(again, 'run')} once more.")
    driving.supervise(
        lambda record: driving.drive_or_watch(entry, record, reporter), reporter, notified
    )
