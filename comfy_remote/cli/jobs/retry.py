"""``comfy-remote jobs retry``."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import (
    cap_options,
    json_option,
    no_wait_option,
    notify_option,
    open_option,
    preview_option,
    quiet_option,
    refuse_both_caps,
    target_option,
    timeout_option,
)
from .options import folder_option, job_argument, output_folder

__all__ = ["retry"]


@click.command(short_help="Run a job that has ended once more.")
@job_argument
@target_option("Where to run it now. Default: where it ran before.")
@folder_option
@timeout_option
@cap_options
@no_wait_option
@json_option
@quiet_option
@notify_option
@preview_option
@open_option
def retry(
    job: str,
    on: str | None,
    output: Path | None,
    timeout: float | None,
    cap: float | None,
    over_cap: bool,
    wait: bool,
    json_lines: bool,
    quiet: bool,
    notify: tuple[str, ...],
    preview: bool,
    open_it: bool,
) -> None:
    """Run a job that has ended once more: the same prompt, the same seeds, the same files.

    It is a further attempt, with a number, and has an id of its own. A file that has changed since
    is refused. To run with other values, use `run` with the workflow.
    """
    from ..entry import import_ahead

    import_ahead()
    import time

    from ...config.settings import Configuration
    from ...jobs.client import Client, new_job_id
    from ...jobs.interruption import call_off, started
    from ...jobs.record import Record
    from ...targets.base import if_unfollowed
    from ...targets.kinds import kind_of
    from ...targets.opening import open_target, reopen
    from ..follow import exit_if_incomplete, follow, say_cancelling, supervise
    from ..open_file import open_first
    from ..options import make_reporter

    if not wait and (open_it or notify):
        raise click.UsageError(
            "--open and --notify need the end, which --no-wait does not wait for."
        )
    refuse_both_caps(cap, over_cap=over_cap)
    began = time.monotonic()
    with Record() as record:
        entry = record.get(job)
    folder = output_folder(output, entry)
    job_id = new_job_id()
    reporter = make_reporter(json_lines=json_lines, preview=preview, quiet=quiet, notify=notify)

    async def whole(record: Record) -> None:
        kind = kind_of(entry.target)
        configured = entry.target in Configuration.load().targets
        routed = entry.member is not None and (configured or kind is not None)
        if on is not None or routed or (kind is not None and kind.on_this_machine):
            # The sandbox that it ran on has ended: a new one. A route chooses once more.
            named = entry.target if on is None else on
            target = open_target(named, Configuration.load(), choose=reporter.choose)
        else:
            target = reopen(entry.target, entry.ref)
        reporter.connecting(target.name)
        async with Client(target, record=record, on_interrupt=None) as client:
            if not wait and (lost := if_unfollowed(client.target, entry.prompt)):
                reporter.event(lost)
            sending = client.retry(
                entry,
                folder=folder,
                followed=wait,
                timeout=timeout,
                begun=began,
                job_id=job_id,
                on_sent=reporter.sending,
                cap=cap,
                over_cap=over_cap,
            )
            again = await started(sending, call_off, on_interrupt=lambda: say_cancelling(reporter))
            attempt = (await record.read(record.get, again.id)).attempt
            reporter.following(again.id, target.name, entry.prompt)
            reporter.note(f"Attempt {attempt} of {entry.first}.")
            if not wait:
                reporter.left(again.id)
                return
            saved = await follow(again, folder, reporter)
            reporter.done(saved, time.monotonic() - began, again.problems)
            if open_it and (why_not := open_first(saved)):
                reporter.note(why_not)
            exit_if_incomplete(again)

    supervise(whole, reporter, job_id)
