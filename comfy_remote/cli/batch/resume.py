"""``comfy-remote batch resume``."""

from __future__ import annotations

import click

from ..options import batch_cap_options, refuse_both_caps
from .options import batch_argument, check_notify, hand_over_option, reporting_options

__all__ = ["resume"]


@click.command(short_help="Go on with a batch, whatever stopped it.")
@batch_argument
@batch_cap_options
@hand_over_option()
@reporting_options
def resume(
    batch: str,
    cap: float | None,
    over_cap: bool,
    wait: bool,
    json_lines: bool,
    quiet: bool,
    notify: tuple[str, ...],
) -> None:
    """Go on with a batch that is paused, was interrupted, or whose process is gone.

    It needs nothing but the batch: workflow, values, target and files are those it was made with.
    No run is sent twice; what ran meanwhile is fetched. Where another process runs it, this
    command watches. It exits with 0 once all runs have succeeded.
    """
    from ..entry import import_ahead

    import_ahead()
    from ...batch.events import Stopped
    from ...batch.store import is_driven, start_background
    from ...errors import ConfigurationError
    from ...jobs.record import BatchState, Record, Wanted
    from . import driving
    from .ending import Notified
    from .reporter import make_reporter
    from .words import batch_command

    check_notify(notify, wait=wait)
    refuse_both_caps(cap, over_cap=over_cap)
    notified = Notified(notify)
    reporter = make_reporter(json_lines=json_lines, quiet=quiet)
    with Record() as record:
        entry, folder = record.batches.get(batch), record.path.parent
        if entry.state is BatchState.CANCELLED:
            raise ConfigurationError(
                f"{entry.name} was cancelled.",
                advice=f"To run what is left of it: {batch_command('retry', entry)}",
            )
        record.batches.allow(entry.id, cap, over_cap=over_cap)
        if not wait and entry.state is not BatchState.ENDED:
            record.batches.want(entry.id, Wanted.RUN)
            if not is_driven(folder, entry.id):
                start_background(entry, folder)
            reporter.in_background(entry)
            return

    async def work(record: Record) -> Stopped:
        if entry.state is BatchState.ENDED:
            return await driving.report_end(entry, reporter)
        return await driving.drive_or_watch(entry, record, reporter)

    driving.supervise(work, reporter, notified)
