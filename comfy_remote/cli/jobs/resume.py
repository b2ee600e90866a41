"""``comfy-remote jobs resume``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options import (
    json_option,
    notify_option,
    preview_option,
    quiet_option,
    target_option,
    timeout_option,
)
from .options import folder_option, job_argument, output_folder

if TYPE_CHECKING:
    from ...jobs.interruption import OnInterrupt
    from ...jobs.job import Job
    from ...jobs.record import JobEntry, Record, SavedOutput

__all__ = ["resume"]


@click.command()
@job_argument
@target_option("Where it runs, for a prompt that is not in this machine's record.")
@folder_option
@timeout_option
@json_option
@quiet_option
@notify_option
@preview_option
def resume(
    job: str,
    on: str | None,
    output: Path | None,
    timeout: float | None,
    json_lines: bool,
    quiet: bool,
    notify: tuple[str, ...],
    preview: bool,
) -> None:
    """Follow a job again and fetch its outputs.

    Works even after this machine was switched off, or the run was killed. Nothing runs twice. With
    --on, ID may also be the id of a prompt that was sent from elsewhere.
    """
    from ..entry import import_ahead

    import_ahead()
    import time

    from ...errors import JobNotFound
    from ...jobs.client import Client
    from ...jobs.client import resume as take_up
    from ...jobs.record import SAVED_BEFORE, Record
    from ..follow import exit_if_incomplete, follow, supervise
    from ..options import make_reporter

    began = time.monotonic()
    found: JobEntry | None = None
    with Record() as record:
        try:
            found = record.get(job)
        except JobNotFound:
            if on is None:
                raise
    folder = output_folder(output, found)
    reporter = make_reporter(json_lines=json_lines, preview=preview, quiet=quiet, notify=notify)

    async def followed(again: Job, entry: JobEntry, on_interrupt: OnInterrupt) -> None:
        reporter.following(entry.id, entry.target, entry.prompt)
        outputs = await follow(again, folder, reporter, on_interrupt)
        reporter.done(outputs, time.monotonic() - began, again.problems)
        exit_if_incomplete(again)

    async def known(record: Record, entry: JobEntry) -> None:
        here = _all_here(entry, folder)
        if here is not None:
            reporter.following(entry.id, entry.target, entry.prompt)
            reporter.note("Its outputs are here already.")
            if entry.error is not None:
                reporter.partial(here)
                raise entry.error
            reporter.done(here, time.monotonic() - began)
            return
        if entry.error is not None and not entry.error.details.get(SAVED_BEFORE):
            raise entry.error
        reporter.connecting(entry.target)
        async with take_up(entry.id, record=record, timeout=timeout, on_interrupt=None) as taken_up:
            await followed(taken_up, entry, "cancel")

    async def unknown(record: Record, target: str) -> None:
        reporter.connecting(target)
        async with Client(target, record=record, on_interrupt=None) as client:
            attached = await client.attach(job, folder=folder, timeout=timeout)
            entry = await record.read(record.get, attached.id)
            # It may be somebody else's: Ctrl-C must not stop it.
            await followed(attached, entry, "leave")

    if found is not None:
        entry = found
        supervise(lambda record: known(record, entry), reporter, entry.id)
    elif on is not None:
        target = on
        supervise(lambda record: unknown(record, target), reporter, job)


def _all_here(entry: JobEntry, folder: Path) -> tuple[SavedOutput, ...] | None:
    """The outputs, if all of them were saved below ``folder`` and are still what they were."""
    from ...media.files import sha256_of

    def intact(output: SavedOutput) -> bool:
        try:
            return (
                output.path.is_relative_to(folder)
                and output.path.stat().st_size == output.size
                and sha256_of(output.path) == output.sha256
            )
        except OSError:
            return False

    return entry.outputs if entry.outputs and all(map(intact, entry.outputs)) else None
