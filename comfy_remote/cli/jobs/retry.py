"""``comfy-remote jobs retry``."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import json_option, open_option, preview_option, target_option, timeout_option
from .options import job_argument

__all__ = ["retry"]


@click.command()
@job_argument
@target_option("Where to run it now. Default: where it ran before.")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the outputs go. Default: the folder that the run named.",
)
@timeout_option
@json_option
@preview_option
@open_option
def retry(
    job: str,
    on: str | None,
    output: Path | None,
    timeout: float | None,
    json_lines: bool,
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
    from ...jobs.client import Client
    from ...jobs.interruption import call_off, started
    from ...jobs.record import Record
    from ...targets.opening import open_target, reopen
    from ..follow import exit_if_incomplete, follow, say_cancelling, supervise
    from ..open_file import open_first
    from ..options import make_reporter, own_folder

    began = time.monotonic()
    with Record() as record:
        entry = record.get(job)
    if output is None and entry.folder is None:
        own_folder(Path("output"), "If that is meant, say so: -o output")
    folder = (output or entry.folder or Path("output")).expanduser().absolute()
    reporter = make_reporter(json_lines=json_lines, preview=preview)

    async def whole(record: Record) -> None:
        if on is None:
            target = reopen(entry.target, entry.ref)
        else:
            target = open_target(on, Configuration.load(), choose=reporter.choose)
        reporter.connecting(target.name)
        async with Client(target, record=record, on_interrupt=None) as client:
            sending = client.retry(
                entry, folder=folder, timeout=timeout, begun=began, on_sent=reporter.sending
            )
            again = await started(sending, call_off, on_interrupt=lambda: say_cancelling(reporter))
            attempt = (await record.read(record.get, again.id)).attempt
            reporter.following(again.id, target.name, entry.prompt)
            reporter.note(f"Attempt {attempt} of {entry.first}.")
            saved = await follow(again, folder, reporter)
            reporter.done(saved, time.monotonic() - began, again.problems)
            if open_it and (why_not := open_first(saved)):
                reporter.note(why_not)
            exit_if_incomplete(again)

    supervise(whole, reporter, entry.id)
